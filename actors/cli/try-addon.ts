import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { Lane } from "../../infra/native/lane.ts";
import { type NativeOptions, NativeSession } from "../../infra/native/native-session.ts";
import { PROVIDERS } from "../../infra/session.ts";
import { OnnxGraph } from "../../models/graph/onnx.ts";

/** `node try-addon.js PROVIDER`: uses all of the addon there. Exit status 1, and why on standard error, if anything fails. */

const SIZE = 64;
const SHAPE = [SIZE, SIZE];
const NUM_RUNS = 50;
/** Squaring a matrix of equal values v gives SIZE × v² everywhere: exact in f32, and in what a GPU may round to. */
const squared = (value: number) => SIZE * value * value;

const provider = PROVIDERS.find((known) => known === process.argv[2]);
const dir = mkdtempSync(path.join(tmpdir(), "rally-try-"));
try {
  if (provider === undefined) throw new Error(`unknown provider ${process.argv[2]}`);
  for (const [name, attempt] of Object.entries({ runs, staysOnDevice, replays, runsBeside })) {
    try {
      await attempt();
    } catch (thrown) {
      throw new Error(`${name}: ${thrown instanceof Error ? thrown.message : String(thrown)}`, { cause: thrown });
    }
  }
} catch (thrown) {
  process.stderr.write(`${thrown instanceof Error ? thrown.message : String(thrown)}\n`);
  process.exitCode = 1;
} finally {
  rmSync(dir, { recursive: true, force: true });
}

function open(name: string, options: Partial<NativeOptions> = {}): NativeSession {
  const graph = new OnnxGraph(name);
  graph.input("x", "f32", [SIZE, SIZE]);
  if (name === "increment") graph.node("Add", ["x", graph.floats("one", Float32Array.of(1))], ["y"]);
  else graph.node("MatMul", ["x", "x"], ["y"]);
  graph.output("y", "f32", [SIZE, SIZE]);
  const file = path.join(dir, `${name}.onnx`);
  writeFileSync(file, graph.finish());
  return NativeSession.open(file, { numThreads: 1, ...(provider !== undefined && { provider }), ...options });
}

function expectAll(data: ArrayLike<unknown>, value: number): void {
  const wrong = Array.from(data).findIndex((found) => found !== value);
  if (wrong >= 0) throw new Error(`element ${wrong} is ${String(data[wrong])}, expected ${value}`);
}

/** Host memory in, host memory out. */
async function runs(): Promise<void> {
  const session = open("square");
  const y = new Float32Array(SIZE * SIZE);
  session.run({ x: session.tensor(y.slice().fill(3), SHAPE) }, { y: session.tensor(y, SHAPE) });
  expectAll(y, squared(3));
  session.release();
}

/** A tensor of the device is one run's output and the next one's input. */
async function staysOnDevice(): Promise<void> {
  const session = open("square");
  const [host, device] = [session.allocate("f32", SHAPE, "host"), session.allocate("f32", SHAPE)];
  const [there, back] = [session.bind({ x: host }, { y: device }), session.bind({ x: device }, { y: host })];
  host.data.fill(0.25 as never);
  there.run();
  host.data.fill(NaN as never);
  back.run();
  expectAll(host.data, squared(squared(0.25)));
  for (const each of [there, back, host, device, session]) each.release();
}

/** A captured graph reads at each replay what the device's memory holds then. */
async function replays(): Promise<void> {
  const [plain, captured] = [open("increment"), open("square", { cudaGraph: provider === "cuda" })];
  const host = plain.allocate("f32", SHAPE, "host");
  const [x, y] = [captured.allocate("f32", SHAPE), captured.allocate("f32", SHAPE)];
  const [give, take] = [plain.bind({ x: host }, { y: x }), plain.bind({ x: y }, { y: host })];
  const square = captured.bind({ x }, { y });
  const lane = new Lane();
  for (let value = 0; value < 8; value++) {
    host.data.fill(value as never);
    give.run();
    await lane.run(square);
    take.run();
    expectAll(host.data, squared(value + 1) + 1);
  }
  await lane.close();
  for (const each of [give, take, square, host, x, y, plain, captured]) each.release();
}

/** Two lanes at once, with a session each. */
async function runsBeside(): Promise<void> {
  const sides = [1, 2].map((value) => {
    const session = open("square");
    const host = session.allocate("f32", SHAPE, "host");
    const y = session.allocate("f32", SHAPE, "host");
    host.data.fill(value as never);
    return { value, session, y, host, binding: session.bind({ x: host }, { y }), lane: new Lane() };
  });
  await Promise.all(sides.flatMap(({ lane, binding }) => Array.from({ length: NUM_RUNS }, () => lane.run(binding))));
  for (const { value, session, y, host, binding, lane } of sides) {
    expectAll(y.data, squared(value));
    await lane.close();
    for (const each of [binding, y, host, session]) each.release();
  }
}
