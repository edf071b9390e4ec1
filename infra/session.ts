/**
 * A compiled graph. Implementation: `ort-session` (ONNX Runtime, CPU). Whoever owns a Session runs in a worker thread:
 * `run` blocks its thread.
 */
export type TensorData = Float32Array | BigInt64Array | Int32Array;

export interface SessionTensor {
  readonly data: TensorData;
  readonly dims: readonly number[];
}

export interface Session {
  /** A tensor over `data`, not a copy: what `run` writes is seen there. Cheap enough for each pass, better kept. */
  tensor(data: TensorData, dims: readonly number[]): SessionTensor;
  /**
   * Reads `feeds`, writes `fetches` in place. A feed and a fetch may be the same memory where the graph updates in place
   * (KV). RallyError `session-failed` with the runtime's text.
   */
  run(feeds: Readonly<Record<string, SessionTensor>>, fetches: Readonly<Record<string, SessionTensor>>): Promise<void>;
  release(): Promise<void>;
}

export interface SessionOptions {
  readonly numThreads: number;
}

export type OpenSession = (graphFile: string, options: SessionOptions) => Promise<Session>;
