import { describe, expect, it } from "vitest";
import { COMMANDS } from "../../../../../actors/cli/commands.ts";
import { findNvidia } from "../../../../../infra/gpu/nvidia.ts";
import { rally } from "../../../../support/cli.ts";

const hasGpu = (await findNvidia()).gpus.length > 0;

describe("rally bench --stage", () => {
  it.skipIf(hasGpu)("says what is missing where there is no GPU, as an error that programs can tell", async () => {
    const { status, stdout, stderr } = await rally(COMMANDS, ["bench", "--stage", "attention", "--json"]);
    expect(status).toBe(1);
    expect(stderr).toContain("provider cuda cannot be used on this machine");
    expect(JSON.parse(stdout)).toMatchObject({ error: { code: "provider-unavailable" } });
  });

  it("refuses what is no stage, and numbers out of range, before it looks for a GPU", async () => {
    const no = await rally(COMMANDS, ["bench", "--stage", "router"]);
    expect([no.status, no.stderr]).toEqual([2, expect.stringContaining("--stage must be attention or ffn")]);
    const big = await rally(COMMANDS, ["bench", "--stage", "ffn", "--batch", "512"]);
    expect([big.status, big.stderr]).toEqual([2, expect.stringContaining("--batch must be integers from 1 to 256")]);
  });
});
