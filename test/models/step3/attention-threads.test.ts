import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { expect, it, onTestFinished } from "vitest";
import type { OpenSession } from "../../../infra/session.ts";
import { loadConfig } from "../../../models/load.ts";
import { Step3AttentionStages } from "../../../models/step3/attention-stages.ts";
import { SMALL_MODEL, writeRandomCheckpoint } from "../../support/random-checkpoint.ts";

it("gives dense layers and the head the threads of what computes alone, MoE layers the others", async () => {
  const dir = mkdtempSync(path.join(tmpdir(), "rally-threads-"));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  writeRandomCheckpoint(dir, SMALL_MODEL);
  const config = await loadConfig(dir);
  const threads: Record<string, number> = {};
  const openSession: OpenSession = (graphFile, { numThreads }) => {
    threads[path.basename(graphFile, ".onnx")] = numThreads;
    return { tensor: (data, dims) => ({ data, dims }), run: () => undefined, release: () => undefined };
  };
  const embedding = new Float32Array(config.vocabSize * config.hiddenSize);
  const stages = new Step3AttentionStages({
    config,
    graphDir: ".",
    embedding,
    openSession,
    numThreads: 1,
    numThreadsAlone: 2,
  });
  expect(threads).toEqual({
    "layer-0-project": 2,
    "layer-0-attend": 2,
    "layer-1-project": 1,
    "layer-1-attend": 1,
    "layer-2-project": 2,
    "layer-2-attend": 2,
    core: 1,
    head: 2,
  });
  await stages.release();
});
