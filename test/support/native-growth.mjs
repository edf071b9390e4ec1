// Prints by how many MiB this process grew in the second half of many rounds. `node --expose-gc native-growth.mjs DIST GRAPH WHAT`.
import path from "node:path";
import { pathToFileURL } from "node:url";

const [dist, graph, what] = process.argv.slice(2);
const { NativeSession } = await import(pathToFileURL(path.join(dist, "infra/native/native-session.js")).href);
const { Lane } = await import(pathToFileURL(path.join(dist, "infra/native/lane.js")).href);

const SIZE = 256;
const open = () => NativeSession.open(graph, { numThreads: 2 });
const session = open();
const lane = new Lane();
const tensor = (...dims) => session.tensor(new Float32Array(4), dims);
const [a, product, wrong] = [tensor(2, 2), tensor(2, 2), tensor(4)];

function attempt(run) {
  try {
    run();
  } catch {
    return;
  }
  throw new Error("this run should have failed");
}

const ROUNDS = {
  sessions: [
    150,
    () => {
      const other = open();
      other.run({ a }, { product });
      other.release();
    },
  ],
  runs: [100_000, () => session.run({ a }, { product })],
  "failing runs": [30_000, () => attempt(() => session.run({ a: wrong }, { product }))],
  // 256 KiB each.
  tensors: [
    300,
    async () => {
      const [from, to] = [session.allocate("f32", [SIZE, SIZE]), session.allocate("f32", [SIZE, SIZE], "host")];
      const binding = session.bind({ a: from }, { product: to });
      binding.run();
      if (to.data.length !== SIZE * SIZE) throw new Error("another size");
      await lane.run(binding);
      for (const each of [binding, from, to]) each.release();
    },
  ],
  // The binding keeps 64 KiB of JavaScript's memory.
  "runs on a lane": [
    1_000,
    async () => {
      const memory = session.tensor(new Float32Array(128 * 128), [128, 128]);
      await lane.run(session.bind({ a: memory }, { product: memory }));
    },
  ],
};

const [numRounds, round] = ROUNDS[what];
/** What a collection lets go of is finalized in turns of the event loop. */
async function collect() {
  globalThis.gc();
  await new Promise((resolve) => void setImmediate(resolve));
}

async function half() {
  for (let i = 0; i < numRounds; i++) {
    await round();
    if (i % (numRounds / 10) === 0) await collect();
  }
  for (let i = 0; i < 3; i++) await collect();
  return process.memoryUsage.rss();
}
const before = await half();
console.log(((await half()) - before) / 2 ** 20);
await lane.close();
