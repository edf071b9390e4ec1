import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { hashModel, loadConfig, openAttentionStages, shardSpecs } from "../../models/load.ts";
import { SMALL_MODEL, writeRandomCheckpoint } from "../support/random-checkpoint.ts";

let dir: string;
let model: string;

beforeAll(() => {
  dir = mkdtempSync(path.join(tmpdir(), "rally-load-"));
  model = path.join(dir, "model");
  writeRandomCheckpoint(model, SMALL_MODEL, { storage: "F8_E4M3", block: [16, 16] });
});

afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** A copy of the model with other values in its config.json. */
function changed(name: string, changes: Readonly<Record<string, unknown>>): string {
  const copy = path.join(dir, name);
  writeRandomCheckpoint(copy, SMALL_MODEL);
  const config = JSON.parse(readFileSync(path.join(copy, "config.json"), "utf8")) as Record<string, unknown>;
  writeFileSync(path.join(copy, "config.json"), JSON.stringify({ ...config, ...changes }));
  return copy;
}

const options = () => ({ numThreads: 1, cacheDir: path.join(dir, "cache") });

describe("a model's folder", () => {
  it("is named by its content, wherever it lies", async () => {
    const copy = path.join(dir, "copy");
    writeRandomCheckpoint(copy, SMALL_MODEL, { storage: "F8_E4M3", block: [16, 16] });
    expect(await hashModel(copy)).toBe(await hashModel(model));
    const other = path.join(dir, "other");
    writeRandomCheckpoint(other, SMALL_MODEL, { storage: "F8_E4M3", block: [16, 16], seed: 2 });
    expect(await hashModel(other)).not.toBe(await hashModel(model));
    copyFileSync(path.join(model, "config.json"), path.join(other, "config.json"));
    writeFileSync(path.join(copy, "config.json"), `${readFileSync(path.join(model, "config.json"), "utf8")} `);
    expect(await hashModel(copy)).not.toBe(await hashModel(model));
  });

  it("needs a config.json that is a JSON object of a known architecture", async () => {
    const none = path.join(dir, "none");
    await expect(loadConfig(none)).rejects.toMatchObject({
      code: "bad-model",
      fields: { file: path.join(none, "config.json") },
    });
    const broken = changed("broken", {});
    for (const text of ["{", "[]", "null"]) {
      writeFileSync(path.join(broken, "config.json"), text);
      await expect(loadConfig(broken)).rejects.toMatchObject({ code: "bad-model" });
    }
    const llama = changed("llama", { architectures: ["LlamaForCausalLM"], model_type: "llama" });
    await expect(loadConfig(llama)).rejects.toMatchObject({
      code: "unsupported-model",
      fields: { field: "architectures", found: '["LlamaForCausalLM"]', expected: "step3" },
    });
    await expect(openAttentionStages(llama, options())).rejects.toMatchObject({ code: "unsupported-model" });
  });

  it("names the tensor that contradicts the config, and leaves no graphs of it", async () => {
    const wide = changed("wide", { share_q_dim: 25 });
    const cacheDir = path.join(dir, "wide-cache");
    await expect(openAttentionStages(wide, { numThreads: 1, cacheDir })).rejects.toMatchObject({
      code: "bad-model",
      fields: { tensor: "model.layers.0.self_attn.q_proj.weight", found: "[24, 40]", expected: "[25, 40]" },
    });
    expect(readdirSync(path.join(cacheDir, "graphs"))).toEqual([]);
    const deep = changed("deep", { num_hidden_layers: 4 });
    await expect(openAttentionStages(deep, options())).rejects.toMatchObject({
      code: "bad-model",
      fields: { tensor: "model.layers.3.input_layernorm.weight" },
    });
  });
});

describe("the graphs of a model", () => {
  it("are made once, with progress, and again when one is damaged", async () => {
    const cacheDir = path.join(dir, "graphs-cache");
    const lines: string[] = [];
    const open = () => openAttentionStages(model, { numThreads: 1, cacheDir, progress: (text) => lines.push(text) });
    await (await open()).release();
    expect(lines).toEqual([1, 2, 3].map((layer) => `writing attention graphs, layer ${layer} of 3`));
    await (await open()).release();
    expect(lines.length).toBe(3);
    const [entry = ""] = readdirSync(path.join(cacheDir, "graphs"));
    const weights = path.join(cacheDir, "graphs", entry, "weights.bin");
    const bytes = readFileSync(weights);
    bytes.writeUInt8(bytes.readUInt8(bytes.length >> 1) ^ 1, bytes.length >> 1);
    writeFileSync(weights, bytes);
    await (await open()).release();
    expect(lines.length).toBe(6);
  });
});

describe("shards", () => {
  it("hold every expert once, in runs of nearly equal length", async () => {
    const config = { ...(await loadConfig(model)), numExperts: 8 };
    for (const numShards of [1, 2, 3, 5, 8]) {
      const specs = shardSpecs(config, numShards);
      expect(specs.flatMap(({ experts }) => experts)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
      expect(specs.map(({ shard }) => shard)).toEqual([...specs.keys()]);
      const sizes = specs.map(({ experts }) => experts.length);
      expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1);
    }
  });

  it.each([0, 6, 1.5, Number.NaN])("cannot be %s", async (numShards) => {
    const config = await loadConfig(model);
    expect(() => shardSpecs(config, numShards)).toThrow(expect.objectContaining({ code: "bad-settings" }));
  });
});
