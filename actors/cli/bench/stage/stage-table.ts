import type { Measurement } from "../../../../models/planner/measurements.ts";
import { floorUs, type Rates } from "./floor.ts";
import type { Measured } from "./measure-stage.ts";

const WIDTHS = [14, 7, 9, 11, 11, 11, 10, 9];

/** One row for each part: its floor, ONNX Runtime's operators, PyTorch where its figures were given, and Rally's. */
export function stageTable(measured: readonly Measured[], torch: readonly Measurement[], rates: Rates): string[] {
  const lines = measured.map((each) => {
    const floor = floorUs(each, rates);
    const ours = timeBy(each, "rally");
    return row([
      each.routing === "skewed" ? `${each.part} (skewed)` : each.part,
      String(each.batch),
      each.context === undefined ? "" : String(each.context),
      floor.toFixed(1),
      shown(timeBy(each, "onnxruntime")),
      shown(torchTime(each, torch)),
      shown(ours),
      ours === undefined ? "" : `${(ours / floor).toFixed(2)}x`,
    ]);
  });
  const reasons = measured.flatMap(({ part, batch, results }) =>
    results.flatMap((result) =>
      "reason" in result ? [`${result.by} did not do ${part} at batch ${batch}: ${firstLine(result.reason)}`] : [],
    ),
  );
  return [
    row(["µs a layer", "batch", "context", "floor", "ONNX RT", "PyTorch", "Rally", "÷ floor"]),
    ...lines,
    "",
    ...footnotes(rates, torch.length > 0),
    ...reasons,
  ];
}

/** The fastest of PyTorch's ways to do the same. */
export function torchTime(part: Measured, torch: readonly Measurement[]): number | undefined {
  const same = torch.filter(
    ({ model, part: name, batch, kv = part.kv, context = part.context, routing = part.routing }) =>
      model === "step3" &&
      name === part.part &&
      batch === part.batch &&
      kv === part.kv &&
      context === part.context &&
      routing === part.routing,
  );
  return same.length === 0 ? undefined : Math.min(...same.map(({ us }) => us));
}

function timeBy({ results }: Measured, by: "rally" | "onnxruntime"): number | undefined {
  const found = results.find((result) => result.by === by);
  return found !== undefined && "us" in found ? found.us : undefined;
}

function footnotes({ copyBytesPerSecond, fp8FlopsPerSecond }: Rates, hasTorch: boolean): string[] {
  const bytes = `bytes ÷ ${(copyBytesPerSecond / 1e12).toFixed(2)} TB/s, measured by a copy here`;
  const flops =
    fp8FlopsPerSecond === undefined
      ? "; FP8 rate not measured (--torch)"
      : `, or FLOPs ÷ ${(fp8FlopsPerSecond / 1e12).toFixed(0)} TFLOP/s, measured by PyTorch, if that is longer`;
  return [
    `floor: ${bytes}${flops}.`,
    "Medians of CUDA graph replays, buffers in turn beyond the L2 cache. ONNX RT: its own operators in bf16.",
    ...(hasTorch
      ? ["PyTorch: the fastest of its ways, Triton kernels among them, as test/bench/gpu measured them."]
      : []),
  ];
}

function shown(us: number | undefined): string {
  return us === undefined ? "-" : us.toFixed(1);
}

function row(cells: readonly string[]): string {
  return cells.map((cell, i) => (i === 0 ? cell.padEnd(WIDTHS[i] ?? 0) : cell.padStart(WIDTHS[i] ?? 0))).join("");
}

function firstLine(text: string): string {
  return (text.split("\n")[0] ?? "").slice(0, 200);
}
