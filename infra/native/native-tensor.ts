import { RallyError } from "../errors.ts";
import type { Addon, Bytes, SessionHandle, TensorHandle } from "./addon.ts";
import { ELEMENTS, type ElementType } from "./elements.ts";

interface Allocation {
  readonly memoryName: string;
  readonly type: ElementType;
  readonly dims: readonly number[];
  readonly isOnHost: boolean;
}

/** Memory that ONNX Runtime allocated. What is bound to it keeps it beyond `release`. */
export class NativeTensor {
  readonly type: ElementType;
  readonly dims: readonly number[];
  readonly #addon: Addon;
  readonly #isOnHost: boolean;
  #handle: TensorHandle | undefined;
  #data: Bytes | undefined;

  private constructor(addon: Addon, handle: TensorHandle, { type, dims, isOnHost }: Allocation) {
    this.#addon = addon;
    this.#handle = handle;
    this.type = type;
    this.dims = dims;
    this.#isOnHost = isOnHost;
  }

  static allocate(addon: Addon, session: SessionHandle, allocation: Allocation): NativeTensor {
    const { memoryName, type, dims } = allocation;
    return new NativeTensor(addon, addon.allocate(session, memoryName, ELEMENTS[type].number, dims), allocation);
  }

  get handle(): TensorHandle {
    if (this.#handle === undefined) throw new RallyError("closed", "the tensor has been released");
    return this.#handle;
  }

  /** The memory itself; narrow floats as their bits. RallyError `session-failed` for memory of a device. */
  get data(): Bytes {
    const { handle } = this;
    if (!this.#isOnHost) throw new RallyError("session-failed", "memory of a device cannot be looked at");
    this.#data ??= new ELEMENTS[this.type].array(this.#addon.buffer(handle));
    return this.#data;
  }

  release(): void {
    if (this.#handle !== undefined) this.#addon.releaseTensor(this.#handle);
    this.#handle = undefined;
    this.#data = undefined;
  }
}
