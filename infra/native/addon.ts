import { createRequire } from "node:module";
import { existsSync } from "node:fs";
import path from "node:path";
import { RallyError } from "../errors.ts";
import { installedOrt, ORT_LIBRARY } from "../gpu/ort-library.ts";
import { cacheFolder } from "../settings.ts";
import { addonFile } from "./build.ts";

declare const KIND: unique symbol;
/** An object of the addon; `Kind` tells one sort from another. */
interface Handle<Kind extends string> {
  readonly [KIND]: Kind;
}
export type SessionHandle = Handle<"session">;
export type TensorHandle = Handle<"tensor">;
export type BindingHandle = Handle<"binding">;
export type LaneHandle = Handle<"lane">;
export type SharedHandle = Handle<"shared">;

/** A typed array whose memory a tensor may lie over. */
export type Bytes = Float32Array | BigInt64Array | Int32Array | Uint16Array | Uint8Array | Int8Array;

/** `addon.cc`, which says what each function does. It trusts its caller, and that is this folder only. */
export interface Addon {
  load(library: string): void;
  openSession(
    graphFile: string,
    numThreads: number,
    provider: string,
    providerOptions: readonly string[],
    configs: readonly string[],
    customOpLibraries: readonly string[],
  ): SessionHandle;
  names(session: SessionHandle): [inputs: string[], outputs: string[]];
  run(session: SessionHandle, plan: Int32Array, ...data: Bytes[]): void;
  allocate(session: SessionHandle, onHost: 0 | 1, type: number, dims: readonly number[]): TensorHandle;
  wrap(data: Bytes, type: number, dims: readonly number[]): TensorHandle;
  buffer(tensor: TensorHandle): ArrayBuffer;
  write(tensor: TensorHandle, data: Bytes, offset: number): void;
  read(tensor: TensorHandle, target: Bytes, offset: number): void;
  fill(tensor: TensorHandle, pattern: Bytes): void;
  deviceMemory(session: SessionHandle): [free: number, total: number];
  bind(
    session: SessionHandle,
    inputNames: readonly string[],
    inputs: readonly TensorHandle[],
    outputNames: readonly string[],
    outputs: readonly TensorHandle[],
    runConfigs: readonly string[],
    before: readonly TensorHandle[],
    after: readonly TensorHandle[],
  ): BindingHandle;
  runBound(binding: BindingHandle): void;
  timeRuns(binding: BindingHandle, count: number): number[];
  measure(library: string, name: string, sizes: readonly number[]): number;
  createShared(bytes: number): number;
  allocateShared(fd: number, offset: number, bytes: number): void;
  mapShared(fd: number, bytes: number): SharedHandle;
  sharedBuffer(map: SharedHandle): ArrayBuffer;
  releaseShared(map: SharedHandle, buffer: ArrayBuffer): void;
  threadId(): number;
  openLane(): LaneHandle;
  runOn(lane: LaneHandle, binding: BindingHandle, keep: unknown): Promise<void>;
  releaseSession(session: SessionHandle): void;
  releaseTensor(tensor: TensorHandle): void;
  releaseBinding(binding: BindingHandle): void;
  releaseLane(lane: LaneHandle): void;
}

/** The addon, over the ONNX Runtime that this process uses. RallyError `provider-unavailable` if it has not been built. */
export function loadAddon(env: NodeJS.ProcessEnv = process.env): Addon {
  const file = addonFile(cacheFolder(env));
  if (!existsSync(file)) {
    const message = `the native addon is not there (${file}): rally gpu setup builds it, with a C++ compiler`;
    throw new RallyError("provider-unavailable", message, { file });
  }
  const addon = createRequire(import.meta.url)(file) as Addon;
  addon.load(ortLibrary(env));
  return addon;
}

/** The addon for what needs no ONNX Runtime; undefined where it has not been built, or does not load. */
export function findAddon(env: NodeJS.ProcessEnv = process.env): Addon | undefined {
  try {
    const file = addonFile(cacheFolder(env));
    return existsSync(file) ? (createRequire(import.meta.url)(file) as Addon) : undefined;
  } catch {
    return undefined;
  }
}

/** As the dynamic loader chooses for onnxruntime-node, so that a process has one ONNX Runtime, whoever loads it first. */
function ortLibrary(env: NodeJS.ProcessEnv): string {
  const folders = (env["LD_LIBRARY_PATH"] ?? "").split(":").filter((folder) => folder !== "");
  return folders.map((folder) => path.join(folder, ORT_LIBRARY)).find(existsSync) ?? installedOrt().library;
}
