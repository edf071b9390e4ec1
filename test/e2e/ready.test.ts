import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Supervisor, type SupervisorEvent } from "../../actors/supervisor/supervisor.ts";
import { DEFAULT_TOPOLOGY } from "../../actors/supervisor/topology.ts";
import { BUNDLED_MODEL } from "../support/deployment.ts";
import { SMALL_MODEL, writeRandomCheckpoint } from "../support/random-checkpoint.ts";

let dir: string;

beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), "rally-ready-"));
  // No graph is there yet.
  vi.stubEnv("XDG_CACHE_HOME", path.join(dir, "cache"));
});

afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(dir, { recursive: true, force: true });
});

test("who is ready has written every graph, the shared experts' too", async () => {
  const modelDir = path.join(dir, "model");
  writeRandomCheckpoint(modelDir, { ...SMALL_MODEL, vocab_size: 4096 }, { seed: 5 });
  for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
    copyFileSync(path.join(BUNDLED_MODEL, name), path.join(modelDir, name));
  }
  const events: SupervisorEvent[] = [];
  const supervisor = new Supervisor({
    topology: { ...DEFAULT_TOPOLOGY, modelDir, sharedExperts: "attention" },
    onEvent: (event) => events.push(event),
  });
  await supervisor.start();
  await supervisor.stop({ drain: false });
  const ofAttention = events.flatMap((event) => {
    if (!("source" in event) || event.source !== "attention-0") return [];
    return event.kind === "progress" ? [event.text] : event.kind === "ready" ? ["ready"] : [];
  });
  const ready = ofAttention.indexOf("ready");
  const shared = ofAttention.findIndex((text) => text.includes("shared experts"));
  expect([shared >= 0, ready > shared, ready]).toEqual([true, true, ofAttention.length - 1]);
});
