import type { Measurement } from "./measurements.ts";
import { DEEPSEEK_V3 } from "./planned-model.ts";

/**
 * DeepSeek-V3's measured rows with its attention at `tflops` instead: what a kernel that was not to be had here would make of it.
 * The maker's name says so. FlashMLA's authors publish up to 660 TFLOP/s for it in bf16 on an H800
 * (README of deepseek-ai/FlashMLA, release of April 2025).
 */
export function withMlaRate(rows: readonly Measurement[], tflops: number): Measurement[] {
  return rows.flatMap((row) => {
    const by = `MLA ${tflops}`;
    // Both models have these of Step-3.
    if (row.model === "step3" && (row.part === "dense" || row.part === "head")) return [{ ...row, by }];
    if (row.model !== "dsv3" || row.part === "stage") return [];
    if (row.part !== "attention" || row.context === undefined) return [{ ...row, by }];
    const flops = row.batch * row.context * DEEPSEEK_V3.attentionFlopsPerKvToken;
    return [{ ...row, by, method: `${tflops} TFLOP/s`, us: flops / (tflops * 1e6) }];
  });
}
