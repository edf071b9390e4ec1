// Runs the bundled model's attention on the GPU, then once more with a KV page that does not exist, then as before; prints what came of
// each. The kernel that goes astray makes the device unusable for the process, so this is one of its own.
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
const { openAttentionStages } = await import(path.join(root, "dist/models/load.js"));
const stages = await openAttentionStages(path.join(root, "models/step3-tiny"), { numThreads: 1, provider: "cuda" });

async function attempt(spoil) {
  const kv = stages.createCache(1);
  if (spoil) kv.pages = () => [2 ** 28];
  try {
    const pass = stages.plan({ kv, firstSlot: 0, numSequences: 1, chunk: 1, pasts: [0], tokenIds: [5] });
    await stages.attend(pass, 0);
    return "ok";
  } catch (thrown) {
    return thrown.code ?? String(thrown);
  }
}

const outcome = { before: await attempt(false), during: await attempt(true), after: await attempt(false) };
// Nothing can be released any more.
process.stdout.write(JSON.stringify(outcome), () => process.exit(0));
