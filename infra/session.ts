/**
 * A compiled graph. Implementation: `ort-session` (ONNX Runtime). Whoever owns a Session runs in a worker thread:
 * `run` blocks its thread.
 */
export type TensorData = Float32Array | BigInt64Array | Int32Array;

export interface SessionTensor {
  readonly data: TensorData;
  readonly dims: readonly number[];
}

export type SessionTensors = Readonly<Record<string, SessionTensor>>;

export interface Session {
  /** A tensor over `data`, not a copy: what `run` writes is seen there. Cheap enough for each pass, better kept. */
  tensor(data: TensorData, dims: readonly number[]): SessionTensor;
  /**
   * Reads `feeds`, writes `fetches` in place. Feeds are never written: a graph that should update memory in place (KV) gets
   * it as a feed and its owner writes the update. RallyError `session-failed` with the runtime's text.
   */
  run(feeds: SessionTensors, fetches: SessionTensors): void;
  /** RallyError `closed` for every later run. */
  release(): void;
}

/** What computes: ONNX Runtime's execution providers. */
export const PROVIDERS = ["cpu", "cuda"] as const;
export type Provider = (typeof PROVIDERS)[number];

export interface SessionOptions {
  /** Threads of the CPU. */
  readonly numThreads: number;
  /** For these threads, as the kernel numbers them; the first is the caller's, who sees to it. Anywhere if left out. */
  readonly cores?: readonly number[];
  /** "cpu" if left out. RallyError `provider-unavailable` where it cannot be had; never another one instead. */
  readonly provider?: Provider;
}

export type OpenSession = (graphFile: string, options: SessionOptions) => Session;
