import { RallyError } from "../errors.ts";
import type { Provider, Session, SessionOptions, SessionTensor, SessionTensors, TensorData } from "../session.ts";
import { type Addon, type Bytes, loadAddon, type SessionHandle } from "./addon.ts";
import { Binding } from "./binding.ts";
import { type ElementType, elementNumber } from "./elements.ts";
import { nativeError } from "./native-error.ts";
import { NativeTensor } from "./native-tensor.ts";

export interface NativeOptions extends SessionOptions {
  /** As ONNX Runtime names them, e.g. `device_id` and `gpu_mem_limit` of cuda. */
  readonly providerOptions?: Readonly<Record<string, string>>;
  /**
   * Captures a CUDA graph and replays it from then on, one for each `gpu_graph_id` of a binding's run configs ("-1": none), on the
   * thread that captured it. Everything must be bound to memory of the device, and bindings of one id to the same; shapes stay as they
   * are. The first run of an id runs its operators more than once, so what they change in place is not yet what it should be. Operators
   * that upload tables of pointers as they run (Concat, Split into unequal parts) must not be in it: a replay would read what has gone.
   */
  readonly cudaGraph?: boolean;
  /** Shared libraries with operators of our own; each exports `RegisterCustomOps`. */
  readonly customOpLibraries?: readonly string[];
}

/** From one tensor to another of as many bytes; host memory from `allocate(…, "host")` is copied without waiting. */
export type Copy = readonly [from: NativeTensor, to: NativeTensor];

export interface BindOptions {
  /** As ONNX Runtime names them, e.g. `gpu_graph_id`. */
  readonly runConfigs?: Readonly<Record<string, string>>;
  /** What each run copies before it begins and after it ends, in the session's own order: small inputs and results of a CUDA graph. */
  readonly before?: readonly Copy[];
  readonly after?: readonly Copy[];
}

/** ONNX Runtime by our own addon. `run` is as every session's; `bind` keeps tensors where the session computes. */
export class NativeSession implements Session {
  readonly provider: Provider;
  readonly #graphFile: string;
  readonly #addon: Addon;
  readonly #inputs: ReadonlyMap<string, number>;
  readonly #outputs: ReadonlyMap<string, number>;
  #handle: SessionHandle | undefined;
  /** See `run` in addon.cc. */
  readonly #plan = new Int32Array(2 + MOST_TENSORS * (3 + MOST_DIMS));

  private constructor(graphFile: string, provider: Provider, addon: Addon, handle: SessionHandle) {
    this.#graphFile = graphFile;
    this.provider = provider;
    this.#addon = addon;
    this.#handle = handle;
    const [inputs, outputs] = addon.names(handle);
    this.#inputs = new Map(inputs.map((name, i) => [name, i]));
    this.#outputs = new Map(outputs.map((name, i) => [name, i]));
  }

  static open(graphFile: string, options: NativeOptions): NativeSession {
    const { numThreads, provider = "cpu", providerOptions = {}, cudaGraph = false, customOpLibraries = [] } = options;
    const addon = loadAddon();
    const pairs = Object.entries({ ...providerOptions, ...(cudaGraph && { enable_cuda_graph: "1" }) }).flat();
    try {
      const configs = [...SESSION_CONFIGS, ...(cudaGraph ? CAPTURE_CONFIGS : [])];
      const handle = addon.openSession(graphFile, numThreads, provider, pairs, configs, customOpLibraries);
      return new NativeSession(graphFile, provider, addon, handle);
    } catch (thrown) {
      throw nativeError(thrown, graphFile);
    }
  }

  tensor(data: TensorData, dims: readonly number[]): SessionTensor {
    const tensor: PlannedTensor = { data, dims, number: elementNumber(data) };
    return tensor;
  }

  run(feeds: SessionTensors, fetches: SessionTensors): void {
    const handle = this.#open();
    const plan = this.#plan;
    const data: Bytes[] = [];
    const fedTo = this.#add(feeds, this.#inputs, 2, data);
    plan[0] = data.length;
    this.#add(fetches, this.#outputs, fedTo, data);
    plan[1] = data.length - plan[0];
    try {
      this.#addon.run(handle, plan, ...data);
    } catch (thrown) {
      throw nativeError(thrown, this.#graphFile);
    }
  }

  /**
   * A tensor that lives until its `release`, where this session computes (`device`) or in host memory that is copied from and to
   * there fastest (`host`). Sessions on the same device may share it. It holds anything at first.
   */
  allocate(type: ElementType, dims: readonly number[], place: "device" | "host" = "device"): NativeTensor {
    const isOnHost = place === "host" || this.provider === "cpu";
    try {
      return NativeTensor.allocate(this.#addon, this.#open(), { type, dims, isOnHost, graphFile: this.#graphFile });
    } catch (thrown) {
      throw nativeError(thrown, this.#graphFile);
    }
  }

  /** The bytes of its device. RallyError `session-failed` on the CPU. */
  deviceMemory(): { readonly free: number; readonly total: number } {
    try {
      const [free, total] = this.#addon.deviceMemory(this.#open());
      return { free, total };
    } catch (thrown) {
      throw nativeError(thrown, this.#graphFile);
    }
  }

  /** Everything that a run reads and writes, said once. A tensor may be input and output at once where its operator can. */
  bind(
    inputs: Readonly<Record<string, NativeTensor | SessionTensor>>,
    outputs: Readonly<Record<string, NativeTensor | SessionTensor>>,
    { runConfigs = {}, before = [], after = [] }: BindOptions = {},
  ): Binding {
    const handle = this.#open();
    // ONNX Runtime would run without: its kernels may read where nothing is.
    const missing = [...this.#inputs.keys()].filter((name) => !(name in inputs));
    if (missing.length > 0) throw this.#refuse(`nothing is bound to ${missing.join(", ")}`);
    try {
      return Binding.bind(this.#addon, handle, this.#graphFile, { inputs, outputs, runConfigs, before, after });
    } catch (thrown) {
      throw nativeError(thrown, this.#graphFile);
    }
  }

  release(): void {
    if (this.#handle !== undefined) this.#addon.releaseSession(this.#handle);
    this.#handle = undefined;
  }

  #open(): SessionHandle {
    if (this.#handle === undefined) throw new RallyError("closed", `${this.#graphFile} has been released`);
    return this.#handle;
  }

  /** Appends tensors to plan and data; returns where the plan goes on. */
  #add(tensors: SessionTensors, places: ReadonlyMap<string, number>, from: number, data: Bytes[]): number {
    const plan = this.#plan;
    let at = from;
    for (const name in tensors) {
      const tensor = tensors[name] as PlannedTensor;
      const place = places.get(name);
      const { dims } = tensor;
      if (place === undefined) throw this.#refuse(`the graph has no ${name}`);
      if (dims.length > MOST_DIMS || data.length === MOST_TENSORS) {
        throw this.#refuse(`${name}: at most ${MOST_TENSORS} tensors of ${MOST_DIMS} dimensions`);
      }
      plan[at++] = place;
      plan[at++] = tensor.number;
      plan[at++] = dims.length;
      for (let i = 0; i < dims.length; i++) plan[at++] = dims[i] as number;
      data.push(tensor.data);
    }
    return at;
  }

  #refuse(reason: string): RallyError {
    return new RallyError("session-failed", `${this.#graphFile}: ${reason}`, { file: this.#graphFile });
  }
}

/**
 * What function `name` of a library of operators answers, e.g. how many bytes of workspace an operator takes for sizes. RallyError
 * `provider-unavailable` if the library does not load or has no such function.
 */
export function measureLibrary(library: string, name: string, sizes: readonly number[]): number {
  try {
    return loadAddon().measure(library, name, sizes);
  } catch (thrown) {
    const text = thrown instanceof Error ? thrown.message : String(thrown);
    throw new RallyError("provider-unavailable", text, { file: library }, { cause: thrown });
  }
}

/** As a Session is opened anywhere. */
export function openNativeSession(graphFile: string, options: SessionOptions): Session {
  return NativeSession.open(graphFile, options);
}

interface PlannedTensor extends SessionTensor {
  /** Of its element type, in ONNX. */
  readonly number: number;
}

const MOST_TENSORS = 32;
const MOST_DIMS = 8;

/** Every session has a pool of its own. One that spins long after its run keeps a core from the next session's. */
const SESSION_CONFIGS = ["session.intra_op.spin_duration_us", "20"];

/** ONNX Runtime would make one Split of several Slices: an operator that uploads a table of pointers, see `cudaGraph`. */
export const CAPTURE_CONFIGS = [
  "optimization.disable_specified_optimizers",
  "GatherToSplitFusion;GatherSliceToSplitFusion",
] as const;
