// Ends threads and the process in the midst of runs. `node native-teardown.mjs DIST GRAPH SIZE`; ends with status 7 if all went well.
import path from "node:path";
import { pathToFileURL } from "node:url";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";

const [dist, graph, size] = isMainThread ? process.argv.slice(2) : workerData;
const { NativeSession } = await import(pathToFileURL(path.join(dist, "infra/native/native-session.js")).href);
const { Lane } = await import(pathToFileURL(path.join(dist, "infra/native/lane.js")).href);

/** Two lanes with runs under way and waiting, and tensors that nobody releases. */
function begin() {
  const session = NativeSession.open(graph, { numThreads: 1 });
  const width = Number(size);
  const memory = new Float32Array(width * width).fill(1 / width);
  for (let i = 0; i < 2; i++) {
    const product = session.allocate("f32", [width, width]);
    product.data.fill(0);
    const binding = session.bind({ a: session.tensor(memory, [width, width]) }, { product });
    const lane = new Lane();
    for (let run = 0; run < 50; run++) lane.run(binding).catch(() => undefined);
  }
}

begin();
if (isMainThread) {
  for (let round = 0; round < 5; round++) {
    const workers = [0, 1].map(() => new Worker(new URL(import.meta.url), { workerData: [dist, graph, size] }));
    await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once("message", resolve))));
    // One is ended from outside, the other leaves by itself.
    workers[1].postMessage("leave");
    await Promise.all([workers[0].terminate(), new Promise((resolve) => workers[1].once("exit", resolve))]);
  }
  process.exit(7);
}
parentPort.once("message", () => process.exit(0));
parentPort.postMessage("begun");
