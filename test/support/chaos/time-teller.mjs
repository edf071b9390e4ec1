import { fileURLToPath } from "node:url";
import { isMainThread, parentPort, Worker } from "node:worker_threads";

if (isMainThread) {
  const worker = new Worker(fileURLToPath(import.meta.url));
  process.on("message", () => {
    worker.once("message", (inWorker) => process.send?.([Date.now(), inWorker]));
    worker.postMessage("now");
  });
  process.on("disconnect", () => process.exit(0));
  process.send?.("up");
} else {
  parentPort?.on("message", () => parentPort?.postMessage(Date.now()));
}
