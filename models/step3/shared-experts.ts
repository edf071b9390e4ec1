import path from "node:path";
import { assert } from "../../infra/errors.ts";
import type { OpenSession, Session, SessionTensor } from "../../infra/session.ts";
import type { ModelConfig } from "../config.ts";
import type { Pass, SharedExperts } from "../stages.ts";
import { sharedGraph } from "./shared-graphs.ts";

export interface Step3SharedOptions {
  readonly config: ModelConfig;
  /** Folder of `writeSharedGraphs`. */
  readonly graphDir: string;
  readonly openSession: OpenSession;
  readonly numThreads: number;
}

export class Step3SharedExperts implements SharedExperts {
  readonly #hiddenSize: number;
  /** None for dense layers. */
  readonly #layers: readonly (Session | undefined)[];

  constructor({ config, graphDir, openSession, numThreads }: Step3SharedOptions) {
    this.#hiddenSize = config.hiddenSize;
    this.#layers = config.layerKinds.map((kind, layer) =>
      kind === "moe" ? openSession(path.join(graphDir, sharedGraph(layer)), { numThreads }) : undefined,
    );
  }

  async forward({ numTokens, ffnInput, residual }: Pass, layer: number, output: Float32Array): Promise<void> {
    const session = this.#layers[layer];
    assert(session !== undefined, `layer ${layer} has a shared expert`);
    const rows = (data: Float32Array): SessionTensor => session.tensor(data, [numTokens, this.#hiddenSize]);
    session.run({ ffn_input: rows(ffnInput), residual: rows(residual) }, { output: rows(output) });
  }

  async release(): Promise<void> {
    for (const session of this.#layers) session?.release();
  }
}
