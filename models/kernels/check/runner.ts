import { rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import type { Binding } from "../../../infra/native/binding.ts";
import { NativeSession } from "../../../infra/native/native-session.ts";
import type { NativeTensor } from "../../../infra/native/native-tensor.ts";
import type { Provider } from "../../../infra/session.ts";
import { OnnxGraph } from "../../graph/onnx.ts";
import { KernelSizes } from "../sizes.ts";
import { type Data, type Found, type OpCase, type OpCheck, poison } from "./case.ts";
import type { Verdict } from "./judge.ts";
import { Random } from "./numbers.ts";

/** Where operators are checked. */
export interface Place {
  readonly library: string;
  readonly provider: Provider;
  /** For graphs. */
  readonly folder: string;
}

/** Rounds of other numbers: one run shows what a kernel does, replays that they read what is there then. */
const NUM_ROUNDS = { run: 1, replayed: 2 } as const;

/** Opens a session with the operators of `place`. */
export function openGraph(
  place: Place,
  name: string,
  fill: (graph: OnnxGraph) => void,
  cudaGraph = false,
): NativeSession {
  const graph = new OnnxGraph(name);
  fill(graph);
  const file = path.join(place.folder, `${name}.onnx`);
  writeFileSync(file, graph.finish());
  try {
    const { provider, library } = place;
    return NativeSession.open(file, { numThreads: 1, provider, cudaGraph, customOpLibraries: [library] });
  } finally {
    rmSync(file);
  }
}

/** Throws what a session throws. */
export function runCheck(check: OpCheck, place: Place, cudaGraph: boolean): Verdict {
  const sizes = new KernelSizes(place.library);
  const cases = Array.from({ length: NUM_ROUNDS[cudaGraph ? "replayed" : "run"] }, (_, round) =>
    check.make(new Random(round), sizes),
  );
  const [first] = cases as [OpCase];
  const session = openGraph(place, check.op, (graph) => addNode(graph, check.op, first), cudaGraph);
  const { inputs, outputs, binding } = bindCase(session, first);
  try {
    let verdict: Verdict = { error: 0 };
    // The round that captures runs its operator more than once: whatever it changes in place is wrong then.
    write(inputs, first);
    if (cudaGraph) binding.run();
    for (const each of cases) {
      for (const [name, tensor] of outputs)
        if (!inputs.has(ALIASES[name] ?? "")) tensor.fillWith(poison(tensor.type, 1));
      write(inputs, each, "but workspaces");
      binding.run();
      const found = each.judge(finder(outputs));
      verdict = { ...verdict, ...found, error: Math.max(verdict.error, found.error) };
      if (verdict.mismatch !== undefined) break;
    }
    return verdict;
  } finally {
    binding.release();
    for (const tensor of new Set([...inputs.values(), ...outputs.values()])) tensor.release();
    session.release();
  }
}

/** The inputs whose memory outputs are bound to, where there are such inputs. */
const ALIASES: Readonly<Record<string, string>> = { sum: "residual", y: "addend" };

function addNode(graph: OnnxGraph, op: string, { inputs, outputs, attributes }: OpCase): void {
  for (const [name, { type, dims }] of Object.entries(inputs)) graph.input(name, type, dims);
  graph.own(op, Object.keys(inputs), Object.keys(outputs), attributes);
  for (const [name, [type, dims]] of Object.entries(outputs)) graph.output(name, type, dims);
}

type Tensors = ReadonlyMap<string, NativeTensor>;

function bindCase(
  session: NativeSession,
  { inputs, outputs }: OpCase,
): { inputs: Tensors; outputs: Tensors; binding: Binding } {
  const fed = new Map(Object.entries(inputs).map(([name, { type, dims }]) => [name, session.allocate(type, dims)]));
  const fetched = new Map(
    Object.entries(outputs).map(([name, [type, dims]]) => {
      return [name, fed.get(ALIASES[name] ?? "") ?? session.allocate(type, dims)];
    }),
  );
  return { inputs: fed, outputs: fetched, binding: session.bind(Object.fromEntries(fed), Object.fromEntries(fetched)) };
}

/** A workspace is zeroed once: every run leaves it as the next one wants it. */
function write(tensors: Tensors, { inputs }: OpCase, what: "all" | "but workspaces" = "all"): void {
  for (const [name, { type, data }] of Object.entries(inputs)) {
    if (what === "all" || type !== "u8") tensors.get(name)?.upload(data);
  }
}

/** Reads outputs as they are asked for. */
export function finder(outputs: Tensors): Found {
  const read = <T extends Data>(name: string, make: (length: number) => T): T => {
    const tensor = outputs.get(name);
    if (tensor === undefined) throw new Error(`broken invariant: there is an output ${name}`);
    return tensor.download(make(tensor.dims.reduce((size, dim) => size * dim, 1)));
  };
  return {
    bf16: (name) => read(name, (length) => new Uint16Array(length)),
    e4m3: (name) => read(name, (length) => new Uint8Array(length)),
    f32: (name) => read(name, (length) => new Float32Array(length)),
    i32: (name) => read(name, (length) => new Int32Array(length)),
  };
}
