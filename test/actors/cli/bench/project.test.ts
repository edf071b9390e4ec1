import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { COMMANDS } from "../../../../actors/cli/commands.ts";
import { rally } from "../../../support/cli.ts";

/** The paper's budget as if it had been measured: 272 µs for every stage at 128 sequences, nothing for the head. */
const common = { model: "step3", by: "rally", method: "x", batch: 128 };
const measurements = [
  { ...common, stage: "attention", part: "stage", kv: "fp8", context: 4096, us: 272 },
  { ...common, stage: "ffn", part: "experts", routing: "balanced", us: 272 },
  { ...common, stage: "ffn", part: "dense", us: 272 },
  { ...common, stage: "attention", part: "head", us: 1 },
];

describe("rally bench --project", () => {
  let folder = "";
  beforeAll(async () => (folder = await mkdtemp(join(tmpdir(), "rally-project-"))));
  afterAll(() => rm(folder, { recursive: true }));
  const file = async (name: string, json: unknown) => {
    await writeFile(join(folder, name), JSON.stringify(json));
    return join(folder, name);
  };

  it("projects the paper's deployment from the paper's budget, and says what it assumes", async () => {
    const path = await file("all.json", { device: "x", measurements });
    const { status, stdout } = await rally(COMMANDS, ["bench", "--project", path, "--servers", "2"]);
    expect(status).toBe(0);
    expect(stdout).toMatch(/^step3 fp8 4K +rally +2A2F +128 +272 +272 +49\.8 +3857 +63\/27 +162$/m);
    expect(stdout).toContain("ASSUMED, not measured");
  });

  it("takes stages from several files, and programs read JSON", async () => {
    const one = await file("one.json", { measurements: measurements.slice(0, 2) });
    const two = await file("two.json", { measurements: measurements.slice(2) });
    const args = ["bench", "--project", one, "--project", two, "--servers", "2", "--json"];
    const { stdout } = await rally(COMMANDS, args);
    const { projected } = JSON.parse(stdout);
    expect(projected).toHaveLength(1);
    expect(projected[0]).toMatchObject({ model: "step3", by: "rally", paper: { gpus: 32, sequences: 6144 } });
    expect(projected[0].paper.tokensPerSecondPerGpu).toBeCloseTo(6144 / 32 / 0.049779, 3);
  });

  it("names a file that it cannot read, and refuses one with too little in it", async () => {
    const missing = await rally(COMMANDS, ["bench", "--project", join(folder, "nowhere.json")]);
    expect([missing.status, missing.stderr]).toEqual([2, expect.stringContaining("nowhere.json")]);
    const little = await file("little.json", { measurements: measurements.slice(1) });
    const { status, stderr } = await rally(COMMANDS, ["bench", "--project", little]);
    expect([status, stderr]).toEqual([2, expect.stringContaining("no model's attention, experts, dense and head")]);
  });
});
