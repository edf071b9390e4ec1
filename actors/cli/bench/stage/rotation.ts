import { BenchGraph } from "./bench-graph.ts";

/** How often work stands in a graph that is timed, and on how many buffers. */
export interface Rotation {
  /** Bytes between two uses of the same buffer, if `mostUnits` allows. */
  readonly bytes: number;
  /** About how long a graph shall take. */
  readonly graphUs: number;
  readonly mostUnits: number;
}

/**
 * Several times the L2 cache of an H100 (50 MB), and long enough that neither the launch of a graph nor the clock of an event counts.
 * With so many units no weights and no KV stay in the cache; activations of a small batch may, as they do in a whole stage.
 */
export const STANDARD_ROTATION: Rotation = { bytes: 320e6, graphUs: 4000, mostUnits: 256 };

/** ONNX Runtime computes equal nodes of its own operators once: each has buffers of its own. */
export const DISTINCT_ROTATION: Rotation = { bytes: 1e9, graphUs: 0, mostUnits: 256 };

/** About what a GPU reads in a microsecond, and what starting a kernel takes. */
const BYTES_PER_US = 3e6;
const LAUNCH_US = 3;

/**
 * A graph in which `add` puts the work as often as it takes, going round sets of buffers of `bytes` each. `unit` equals `set` when a
 * set is met for the first time.
 */
export function rotated(
  { rotation }: { readonly rotation: Rotation },
  name: string,
  bytes: number,
  add: (graph: BenchGraph, set: number, unit: number) => void,
): BenchGraph {
  const sets = Math.min(Math.max(2, Math.ceil(rotation.bytes / bytes)), rotation.mostUnits / 2);
  const wanted = Math.ceil(rotation.graphUs / ((LAUNCH_US + bytes / BYTES_PER_US) * sets));
  const rounds = Math.max(1, Math.min(wanted, Math.floor(rotation.mostUnits / sets)));
  const graph = new BenchGraph(name);
  graph.units = sets * rounds;
  for (let unit = 0; unit < graph.units; unit++) add(graph, unit % sets, unit);
  return graph;
}
