import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { NativeSession } from "../../../infra/native/native-session.ts";
import { Checkpoint } from "../../../models/checkpoint.ts";
import { loadConfig, openSharedExperts, shardSpecs } from "../../../models/load.ts";
import { Reference } from "../../../models/reference.ts";
import { DeviceAttentionStages, f32Layout } from "../../../models/step3/device-attention-stages.ts";
import { DeviceFfnShard } from "../../../models/step3/device-ffn-shard.ts";
import { PAGE_TOKENS, writeDeviceAttentionGraphs, writeDeviceFfnGraphs } from "../../../models/step3/device-graphs.ts";
import type { PagedCache } from "../../../models/step3/page-pool.ts";
import { Step3Weights } from "../../../models/step3/weights.ts";
import { buildTwin, findCudaHeaders } from "../../kernels/twin/twin.ts";
import { haveAddon, runtime } from "../../support/addon.ts";
import { canRun } from "../../support/host-tools.ts";
import { Forward } from "../../support/forward.ts";
import { SMALL_MODEL, writeRandomCheckpoint } from "../../support/random-checkpoint.ts";
import { prefill, stagesContract, tokens } from "./stages.contract.ts";

const cudaHeaders = findCudaHeaders();
const canBuild = (await haveAddon()) && cudaHeaders !== undefined && canRun("c++", "--version");

/** The device's stages where there is no device: over the CPU, with the kernels' twins. */
describe.skipIf(!canBuild)("the device's stages", () => {
  let dir: string;
  let twin: string;
  let numGraphs = 0;

  beforeAll(() => {
    dir = mkdtempSync(path.join(tmpdir(), "rally-device-"));
    writeRandomCheckpoint(dir, SMALL_MODEL);
    twin = buildTwin(dir, runtime?.headerFolder ?? "", cudaHeaders ?? "", "f32");
  });
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  async function open({ numShards = 2, numTokens = 200_000, withoutShared = false } = {}): Promise<Forward> {
    const config = await loadConfig(dir);
    const weights = new Step3Weights(new Checkpoint(dir, [128, 128]), config);
    const graphDir = () => {
      const graphs = path.join(dir, `graphs-${numGraphs++}`);
      mkdirSync(graphs);
      return graphs;
    };
    const session = (file: string) => NativeSession.open(file, { numThreads: 1, customOpLibraries: [twin] });
    const attentionDir = graphDir();
    writeDeviceAttentionGraphs(attentionDir, config, weights, () => undefined);
    const stages = new DeviceAttentionStages({
      config,
      graphDir: attentionDir,
      embedding: weights.embedding(),
      open: session,
      layout: f32Layout(config),
      kvRoom: { numTokens, numSequences: 32 },
    });
    const shards = shardSpecs(config, numShards).map((each) => {
      const spec = { ...each, withoutShared };
      const ffnDir = graphDir();
      writeDeviceFfnGraphs(ffnDir, config, weights, spec, () => undefined);
      return new DeviceFfnShard({ config, spec, graphDir: ffnDir, open: session });
    });
    const options = { numThreads: 1, cacheDir: path.join(dir, "cache") };
    return new Forward(stages, shards, withoutShared ? await openSharedExperts(dir, options) : undefined);
  }

  it("keep passes of several tiles apart that take turns layer by layer", async () => {
    const forward = await open();
    const prompts = [tokens(140), tokens(150).slice(10)];
    const logits = async (ids: readonly number[], index: number) => {
      const own = new Forward(forward.stages, forward.shards);
      const cache = caches[index] as ReturnType<Forward["cache"]>;
      await own.pass(cache, ids.slice(0, 70), [0]);
      const pass = await own.pass(cache, ids.slice(70), [70]);
      return () => own.head(pass, [69]).then((values) => values.slice());
    };
    const caches = prompts.map(() => forward.cache(1));
    const alone: Float32Array[] = [];
    for (const [i, ids] of prompts.entries()) alone.push(await (await logits(ids, i))());
    for (const cache of caches) cache.clear(0);
    const heads = await Promise.all(prompts.map(logits));
    for (const [i, head] of heads.entries()) expect(await head()).toEqual(alone[i]);
    expect(alone[0]).not.toEqual(alone[1]);
    await forward.release();
  });

  it.each([
    [1, false],
    [3, false],
    [1, true],
    [3, true],
  ])("compute the reference's logits and choose its experts, %i shards, shared apart: %s", async (...setting) => {
    const [numShards, withoutShared] = setting;
    const reference = new Reference(dir);
    const ids = tokens(150);
    const expected = reference.forward(ids);
    const forward = await open({ numShards, withoutShared });
    const routes: Int32Array[] = [];
    const pass = await forward.pass(forward.cache(1), ids, [0], {
      observe: ({ expertIds }, layer) => {
        if (reference.config.layerKinds[layer] === "moe") routes.push(expertIds.slice());
      },
    });
    const logits = await forward.head(pass, [...ids.keys()]);
    const largest = expected.logits.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    for (const [i, value] of logits.entries()) {
      expect(Math.abs(value - (expected.logits[i] as number))).toBeLessThan(1e-5 * largest);
    }
    expect(routes).toEqual(expected.expertIds);
    await forward.release();
  });

  stagesContract("on a device", () => open());

  describe("KV pages", () => {
    it("are given back when a slot is cleared, and follow a sequence that changes its slot", async () => {
      const forward = await open();
      const { pages } = forward.stages as DeviceAttentionStages;
      const all = pages.numFree;
      const kv = forward.cache(2);
      const ids = tokens(70);
      const expected = (await prefill(forward, ids, 70)).slice(-SMALL_MODEL.vocab_size);
      await forward.pass(kv, ids.slice(0, 69), [0], { firstSlot: 1 });
      expect(all - pages.numFree).toBe(4);
      kv.swap(0, 1, 69);
      kv.clear(1);
      expect(all - pages.numFree).toBe(4);
      const pass = await forward.pass(kv, ids.slice(69), [69]);
      expect((await forward.head(pass, [0])).slice()).toEqual(expected);
      kv.clear(0);
      expect(all - pages.numFree).toBe(2);
      await forward.release();
    });

    it("that run out are a refusal, and what is there already goes on", async () => {
      const forward = await open({ numTokens: 0 });
      const { pages } = forward.stages as DeviceAttentionStages;
      const kv = forward.cache(40) as PagedCache;
      await forward.pass(kv, tokens(60), [0]);
      const rest = pages.numFree * PAGE_TOKENS;
      for (let slot = 1, left = rest; left > 0; slot++, left -= 1024) kv.pages(slot, Math.min(left, 1024));
      expect(pages.numFree).toBe(0);
      await forward.pass(kv, tokens(4), [60]);
      await expect(forward.pass(kv, tokens(1), [64])).rejects.toMatchObject({ code: "overloaded" });
      kv.clear(1);
      await forward.pass(kv, tokens(1), [64]);
      await forward.release();
    });
  });
});
