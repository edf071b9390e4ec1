import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { loadAddon } from "../../../infra/native/addon.ts";
import { addonFile, buildAddon } from "../../../infra/native/build.ts";
import { haveAddon, runtime } from "../../support/addon.ts";

let cacheDir: string;

beforeEach(() => (cacheDir = mkdtempSync(path.join(tmpdir(), "rally-test-"))));
afterEach(() => rmSync(cacheDir, { recursive: true }));

function build(env: NodeJS.ProcessEnv) {
  const headerFolder = runtime?.headerFolder ?? "/no/headers";
  return buildAddon({ cacheDir, headerFolder, env, progress: () => undefined });
}

describe.skipIf(!(await haveAddon()))("buildAddon", () => {
  it("compiles once, by whoever is asked", { timeout: 120_000 }, async () => {
    const [file, other] = await Promise.all([build(process.env), build(process.env)]);
    expect([file, other]).toEqual([addonFile(cacheDir), addonFile(cacheDir)]);
    const { mtimeMs } = statSync(file);
    expect(await build({ PATH: "/nowhere" })).toBe(file);
    expect(statSync(file).mtimeMs).toBe(mtimeMs);
  });
});

it("says that there is no compiler", async () => {
  await expect(build({ PATH: "/nowhere" })).rejects.toMatchObject({
    code: "provider-unavailable",
    message: expect.stringMatching(/no C\+\+ compiler.*c\+\+, g\+\+, clang\+\+/),
  });
  await expect(build({ ...process.env, CXX: "/no/such/compiler" })).rejects.toMatchObject({
    message: expect.stringContaining("/no/such/compiler"),
  });
});

it("tells what the compiler said, and leaves nothing", async () => {
  // A compiler that knows its version and fails at all else.
  await expect(build({ ...process.env, CXX: "cat" })).rejects.toMatchObject({
    code: "provider-unavailable",
    message: expect.stringContaining("did not compile"),
  });
  expect(existsSync(addonFile(cacheDir))).toBe(false);
});

it("is not loaded before it is built", () => {
  expect(() => loadAddon({ XDG_CACHE_HOME: cacheDir })).toThrow(
    expect.objectContaining({ code: "provider-unavailable", message: expect.stringContaining("rally gpu setup") }),
  );
});
