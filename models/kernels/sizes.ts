import { measureLibrary } from "../../infra/native/native-session.ts";

/** What a key or value of a KV pool is stored as. */
export type KvType = "e4m3" | "bf16";
const KV_BITS = { e4m3: 8, bf16: 16 } as const;

/** How many bytes the operators' own memory takes, as their library has it. */
export class KernelSizes {
  readonly #library: string;

  constructor(library: string) {
    this.#library = library;
  }

  /** `workspace` of Fp8Gemm: y [numTokens, n] = x [numTokens, k] Wᵀ. */
  gemmWorkspace(numTokens: number, n: number, k: number): number {
    return this.#measure("rallyGemmWorkspaceBytes", [numTokens, n, k]);
  }

  /** A page of `pool`, 64 tokens. */
  kvPage(type: KvType, headDim: number): number {
    return this.#measure("rallyKvPageBytes", [KV_BITS[type], headDim]);
  }

  /** `workspace` of MfaDecode. */
  mfaWorkspace(numSequences: number, maxPages: number, numHeads: number, headDim: number): number {
    return this.#measure("rallyMfaWorkspaceBytes", [numSequences, maxPages, numHeads, headDim]);
  }

  /** `workspace` of ExpertFfn. */
  expertWorkspace(numTokens: number, topK: number, numLocal: number, hidden: number, inter: number): number {
    return this.#measure("rallyExpertWorkspaceBytes", [numTokens, topK, numLocal, hidden, inter]);
  }

  /** `workspace` of TopCandidates. */
  candidatesWorkspace(numTokens: number, vocab: number, numCandidates: number): number {
    return this.#measure("rallyCandidatesWorkspaceBytes", [numTokens, vocab, numCandidates]);
  }

  #measure(name: string, sizes: readonly number[]): number {
    return measureLibrary(this.#library, name, sizes);
  }
}
