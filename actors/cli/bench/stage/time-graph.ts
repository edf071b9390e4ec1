import type { NativeTensor } from "../../../../infra/native/native-tensor.ts";
import { openGraph, type Place } from "../../../../models/kernels/check/runner.ts";
import { median } from "../figures.ts";
import type { BenchGraph } from "./bench-graph.ts";

interface TimingOptions {
  /** Runs that warm up and, on a GPU, capture the CUDA graph. */
  readonly warmUps: number;
  /** Measured runs, at least `fewest` and as many as fit in `budgetMs`. */
  readonly fewest: number;
  readonly budgetMs: number;
}

const STANDARD_TIMING: TimingOptions = { warmUps: 3, fewest: 7, budgetMs: 60 };

/** Median microseconds of one unit of the graph's work: everything stays on the device, a GPU replays one CUDA graph. */
export function timeGraph(place: Place, bench: BenchGraph, timing = STANDARD_TIMING): number {
  return withGraph(place, bench, place.provider === "cuda", ({ binding }) => {
    for (let i = 0; i < timing.warmUps; i++) binding.run();
    const [first = 0] = binding.timeRuns(1);
    const count = Math.min(100, Math.max(timing.fewest, Math.floor((timing.budgetMs * 1e6) / Math.max(1, first))));
    return median([...binding.timeRuns(count)]) / 1000 / bench.units;
  });
}

interface Opened {
  readonly inputs: ReadonlyMap<string, NativeTensor>;
  readonly outputs: ReadonlyMap<string, NativeTensor>;
  readonly binding: { run(): void; timeRuns(count: number): Float64Array };
}

/** Opens, fills and binds a graph for as long as `work` takes. Outputs of one shape share their memory: nobody reads them. */
export function withGraph<T>(place: Place, bench: BenchGraph, cudaGraph: boolean, work: (opened: Opened) => T): T {
  const session = openGraph(place, bench.name, (graph) => bench.write(graph), cudaGraph);
  const made = new Map<string, NativeTensor>();
  try {
    const inputs = new Map<string, NativeTensor>();
    for (const [name, { type, dims, fill, place: where }] of bench.inputs) {
      const tensor = session.allocate(type, dims, where);
      made.set(name, tensor);
      inputs.set(name, tensor);
      tensor.fillWith(fill);
    }
    const outputs = new Map<string, NativeTensor>();
    for (const [name, { type, dims, inPlace }] of bench.outputs) {
      const shape = `output ${type} ${dims.join(" ")}`;
      const tensor = inputs.get(inPlace ?? "") ?? made.get(shape) ?? session.allocate(type, dims);
      if (inPlace === undefined) made.set(shape, tensor);
      outputs.set(name, tensor);
    }
    const binding = session.bind(Object.fromEntries(inputs), Object.fromEntries(outputs));
    try {
      return work({ inputs, outputs, binding });
    } finally {
      binding.release();
    }
  } finally {
    for (const tensor of made.values()) tensor.release();
    session.release();
  }
}
