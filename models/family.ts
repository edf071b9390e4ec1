import type { Provider } from "../infra/session.ts";
import type { ModelConfig } from "./config.ts";
import type { AttentionStages, FfnShard, ShardSpec, SharedExperts } from "./stages.ts";

export interface OpenOptions {
  /** Threads that one graph may use. */
  readonly numThreads: number;
  /** The same for what nobody else has work beside: dense layers and the head. As many unless given. */
  readonly numThreadsAlone?: number;
  /** For these threads, the first for the one that opens and runs the graphs. Anywhere if left out. */
  readonly cores?: readonly number[];
  /** What computes; the CPU unless given. */
  readonly provider?: Provider;
  /** Folder for the graphs made from the weights; the user's cache folder unless given. */
  readonly cacheDir?: string;
  /** How much KV cache to set aside on a GPU: tokens of all sequences together. One sequence at its longest fits in any case. */
  readonly kvRoom?: { readonly numTokens: number; readonly numSequences: number };
  /** Told what is being done when it takes a while. */
  readonly progress?: (text: string) => void;
  /** Told what works, but not as well as it could. */
  readonly warn?: (text: string) => void;
}

/** A checkpoint's folder once its config.json has been read. */
export interface ModelFiles {
  readonly modelDir: string;
  readonly configFile: string;
  /** The parsed config.json. */
  readonly json: Readonly<Record<string, unknown>>;
}

/** An architecture that Rally computes. `load.ts` asks each in turn. */
export interface ModelFamily {
  readonly name: ModelConfig["family"];
  matches(json: ModelFiles["json"]): boolean;
  parse(files: ModelFiles): ModelConfig;
  openAttentionStages(files: ModelFiles, modelHash: string, options: OpenOptions): AttentionStages;
  openFfnShard(files: ModelFiles, modelHash: string, spec: ShardSpec, options: OpenOptions): FfnShard;
  /** On the CPU, whatever the provider: what they read and write is in host memory, on its way to the wire and from there. */
  openSharedExperts(files: ModelFiles, modelHash: string, options: OpenOptions): SharedExperts;
}
