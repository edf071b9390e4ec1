import type { InferenceSession, Tensor } from "onnxruntime-node";
// The package's own seam below its promise-returning API, which adds a turn of the event loop and checks of every tensor
// to each run. The exact version is pinned.
import ortBinding, { type Binding } from "onnxruntime-node/dist/binding.js";
import { RallyError } from "./errors.ts";
import { isMissingProvider, missingProvider } from "./gpu/provider-error.ts";
import type { OpenSession, Session, SessionTensor, SessionTensors, TensorData } from "./session.ts";

/** ONNX Runtime as onnxruntime-node has it: every tensor is in host memory, and on a GPU is copied there and back for each run. */
export const openOrtSession: OpenSession = (graphFile, { numThreads, cores, provider = "cpu" }) => {
  ortBinding.initOrt();
  const options: InferenceSession.SessionOptions = {
    executionProviders: [provider],
    intraOpNumThreads: numThreads,
    interOpNumThreads: 1,
    executionMode: "sequential",
    graphOptimizationLevel: "all",
    extra: { session: poolSettings(numThreads, cores) },
  };
  const session = new ortBinding.binding.InferenceSession();
  try {
    session.loadModel(graphFile, options);
  } catch (error) {
    const { message } = failed(graphFile, error);
    if (provider !== "cpu" && isMissingProvider(message)) throw missingProvider(provider, message, graphFile, error);
    throw failed(graphFile, error);
  }
  return new OrtSession(graphFile, session as BoundSession);
};

/**
 * Every session has a pool of its own. One that spins long after its run keeps a core from the next session's. Work in small pieces
 * does not wait for a thread whose core does something else.
 */
function poolSettings(numThreads: number, cores: readonly number[] = []) {
  const own = cores.slice(1, numThreads);
  return {
    dynamic_block_base: "2",
    intra_op: { spin_duration_us: "20" },
    // It counts cores from 1, and wants one for each thread but the caller's.
    ...(own.length > 0 &&
      own.length === numThreads - 1 && { intra_op_thread_affinities: own.map((core) => core + 1).join(";") }),
  };
}

/** A tensor as the binding reads it: it asks for fields, not for a class, and plain fields are read fastest. */
interface BoundTensor extends SessionTensor {
  readonly type: "float32" | "int32" | "int64";
  readonly location: "cpu";
}

class OrtSession implements Session {
  readonly #graphFile: string;
  #session: BoundSession | undefined;

  constructor(graphFile: string, session: BoundSession) {
    this.#graphFile = graphFile;
    this.#session = session;
  }

  tensor(data: TensorData, dims: readonly number[]): SessionTensor {
    const tensor: BoundTensor = { data, dims, type: elementType(data), location: "cpu" };
    return tensor;
  }

  run(feeds: SessionTensors, fetches: SessionTensors): void {
    if (this.#session === undefined) throw new RallyError("closed", `${this.#graphFile} has been released`);
    try {
      this.#session.run(feeds as unknown as Tensors, fetches as unknown as Tensors);
    } catch (error) {
      throw failed(this.#graphFile, error);
    }
  }

  release(): void {
    this.#session?.dispose();
    this.#session = undefined;
  }
}

type Tensors = Readonly<Record<string, Tensor>>;

/** The binding's declaration asks for run options, but it takes none, and faster. */
interface BoundSession extends Omit<Binding.InferenceSession, "run"> {
  run(feeds: Tensors, fetches: Tensors): unknown;
}

function elementType(data: TensorData): BoundTensor["type"] {
  if (data instanceof Float32Array) return "float32";
  return data instanceof Int32Array ? "int32" : "int64";
}

function failed(graphFile: string, cause: unknown): RallyError {
  const text = cause instanceof Error ? cause.message : String(cause);
  return new RallyError("session-failed", `${graphFile}: ${text}`, { file: graphFile }, { cause });
}
