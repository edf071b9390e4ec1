import type { ModelConfig } from "../config.ts";
import { KernelSizes } from "../kernels/sizes.ts";
import type { ShardSpec } from "../stages.ts";
import type { DeviceLayout } from "./device-attention-stages.ts";
import { DEVICE_ROWS, PAGE_TOKENS } from "./device-graphs.ts";
import { denseSlices } from "./hopper-graphs.ts";

/**
 * What the FP8 graphs' operators work in, as their `library` has it. The promise of `AttentionStages` is weaker there: the attention
 * kernel cuts sequences into shares by how long all of a tile's are, so a row's last bits depend on its company.
 */
export function hopperLayout(config: ModelConfig, library: string): DeviceLayout {
  const { hiddenSize, shareQDim, numHeads, headDim, contextLength, denseDim } = config;
  const sizes = new KernelSizes(library);
  const heads = numHeads * headDim;
  const gemms = [
    sizes.gemmWorkspace(DEVICE_ROWS, shareQDim + 2 * headDim, hiddenSize),
    sizes.gemmWorkspace(DEVICE_ROWS, heads, shareQDim),
    sizes.gemmWorkspace(DEVICE_ROWS, hiddenSize, heads),
  ];
  const maxPages = Math.ceil(contextLength / PAGE_TOKENS);
  const slices = denseSlices(config);
  return {
    type: "u8",
    pageDims: [sizes.kvPage("e4m3", headDim)],
    wipesPages: true,
    workspaces: {
      gemm_workspace: atLeastOne(Math.max(...gemms)),
      mfa_workspace: atLeastOne(sizes.mfaWorkspace(DEVICE_ROWS, maxPages, numHeads, headDim)),
      expert_workspace: atLeastOne(sizes.expertWorkspace(DEVICE_ROWS, slices, slices, hiddenSize, denseDim / slices)),
    },
  };
}

/** Bytes for one shard's experts, the shared one included if it has it. */
export function expertWorkspace(
  { topK, hiddenSize, expertDim }: ModelConfig,
  { experts, withoutShared = false }: ShardSpec,
  library: string,
): number {
  const sizes = new KernelSizes(library);
  const numExperts = experts.length + (withoutShared ? 0 : 1);
  return atLeastOne(sizes.expertWorkspace(DEVICE_ROWS, topK, numExperts, hiddenSize, expertDim));
}

/** A tensor of nothing has no address. */
function atLeastOne(bytes: number): number {
  return Math.max(bytes, 16);
}
