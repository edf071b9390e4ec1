import type { NativeSession } from "../../infra/native/native-session.ts";
import type { NativeTensor } from "../../infra/native/native-tensor.ts";

/** A tensor of a device beside one of the host that is copied to or from it with each run. */
export interface Mirror {
  readonly device: NativeTensor;
  readonly host: NativeTensor;
  /** The host's memory. */
  readonly data: Float32Array;
}

/** `session` decides where; sessions of the same device may use it. */
export function mirror(session: NativeSession, dims: readonly number[]): Mirror {
  const device = session.allocate("f32", dims);
  const host = session.allocate("f32", dims, "host");
  return { device, host, data: host.data as Float32Array };
}

export function releaseMirror({ device, host }: Mirror): void {
  device.release();
  host.release();
}
