import { execFileSync, spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it, test } from "vitest";
import { makeBundle } from "../../../infra/gpu/bundle.ts";
import { parsePartSize } from "../../../infra/gpu/bundle-part-size.ts";

/** What start.sh may count on. */
const HOST_TOOLS = "sh tar xz sha256sum basename cat cut dirname grep ln mkdir mv rm sed sort".split(" ");
const PART_BYTES = 1 << 16;

let dir: string;
let outDir: string;

beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), "rally-bundle-"));
  outDir = path.join(dir, "out");
  // A "node" that tells how it was started, and something that does not compress.
  write(
    "node",
    '#!/bin/sh\necho "started $*"\necho "$LD_LIBRARY_PATH"\ncat "$XDG_CACHE_HOME/rally/addon-1/addon.node"\n',
    0o755,
  );
  write("nats-server", "#!/bin/sh\n", 0o755);
  write("cache/onnxruntime-9/lib/libonnxruntime.so.1", "runtime");
  write("cache/onnxruntime-9/lib/provider.so", randomBytes(2.5 * PART_BYTES));
  write("cache/addon-1/addon.node", "addon 1");
  write("root/package.json", JSON.stringify({ dependencies: { used: "1" } }));
  write(
    "root/package-lock.json",
    JSON.stringify({
      packages: {
        "node_modules/used": { dependencies: { needed: "1" }, optionalDependencies: { "other-platform": "1" } },
        "node_modules/needed": {},
        "node_modules/other-platform": { optional: true },
        "node_modules/vitest": { dev: true },
      },
    }),
  );
  write("root/vitest.config.ts", "");
  write("root/node_modules/used/index.js", "used");
  write("root/node_modules/used/index.d.ts", "types");
  write(`root/node_modules/used/bin/napi-v6/${process.platform}/${process.arch}/libonnxruntime.so.1`, "runtime");
  write("root/node_modules/used/bin/napi-v6/win32/x64/onnxruntime.dll", "another platform's");
  write("root/node_modules/needed/index.js", "needed");
  write("root/node_modules/vitest/vitest.mjs", "vitest");
  write("root/models/step3-tiny/config.json", "{}");
  write("root/dist/actors/cli/main.js", "main 1");
  for (const name of ["infra/native/addon.cc", "models/kernels/ops/op.cc"]) write(`root/${name}`, "source");
  write("root/test/chaos/scenario.yaml", "scenario");
  for (const name of ["actors", "test"]) write(`root/${name}/a.ts`, name);
});
afterEach(() => rmSync(dir, { recursive: true }));

function write(name: string, content: string | Uint8Array, mode = 0o644): void {
  const file = path.join(dir, name);
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, content, { mode });
}

/** The same each time. */
function randomBytes(length: number): Uint8Array {
  let state = 1;
  return Uint8Array.from({ length }, () => (state = (state * 48271) % 0x7fffffff) >> 8);
}

function make(options: { readonly partBytes?: number; readonly withTests?: boolean } = {}) {
  return makeBundle({
    sources: {
      packageRoot: path.join(dir, "root"),
      node: path.join(dir, "node"),
      natsServer: path.join(dir, "nats-server"),
      runtimeFolder: path.join(dir, "cache/onnxruntime-9"),
      builtFolders: [path.join(dir, "cache/addon-1")],
    },
    outDir,
    partBytes: PART_BYTES,
    withTests: false,
    progress: () => undefined,
    ...options,
  });
}

/** Starts the bundle where nothing but the needed tools is to be found. */
function start(...args: readonly string[]) {
  const bin = path.join(dir, "bin");
  mkdirSync(bin, { recursive: true });
  for (const tool of HOST_TOOLS) {
    const found = execFileSync("sh", ["-c", `command -v ${tool}`], { encoding: "utf8" }).trim();
    execFileSync("ln", ["-sf", found, path.join(bin, tool)]);
  }
  const { status, stdout, stderr } = spawnSync(path.join(outDir, "start.sh"), args, {
    env: { PATH: bin },
    encoding: "utf8",
  });
  return { status, stdout, stderr };
}

const unpacked = (name: string) => path.join(outDir, "unpacked", name);
const parts = (layer: string) => readdirSync(outDir).filter((name) => name.startsWith(`${layer}-`));

describe("a bundle", () => {
  it("starts on a host that has nothing", async () => {
    await make();
    expect(start("doctor", "--json")).toMatchObject({
      status: 0,
      stdout: expect.stringMatching(
        /^started \S+unpacked\/app\/dist\/actors\/cli\/main.js doctor --json\n\S*onnxruntime-9\/lib.*\naddon 1$/,
      ),
    });
    // As Node.js resolves them: what is needed, once, and no more.
    const packages = unpacked("app/node_modules");
    expect(readdirSync(packages).toSorted()).toEqual(["needed", "used"]);
    expect(readdirSync(path.join(packages, "used")).toSorted()).toEqual(["bin", "index.js"]);
    const own = path.join(packages, `used/bin/napi-v6/${process.platform}/${process.arch}/libonnxruntime.so.1`);
    expect(statSync(own).ino).toBe(statSync(unpacked("base/cache/onnxruntime-9/lib/libonnxruntime.so.1")).ino);
    expect(readdirSync(path.join(packages, "used/bin/napi-v6"))).toEqual([process.platform]);
    expect(readFileSync(unpacked("app/models/step3-tiny/config.json"), "utf8")).toBe("{}");
  });

  it("comes in parts of the chosen size", async () => {
    const { parts: made } = await make();
    const sizes = made.filter(({ name }) => name.startsWith("base-")).map(({ bytes }) => bytes);
    expect(sizes.length).toBeGreaterThan(2);
    expect(sizes.slice(0, -1)).toEqual(Array(sizes.length - 1).fill(PART_BYTES));
    expect(sizes.at(-1)).toBeLessThanOrEqual(PART_BYTES);
  });

  it("is not made again where nothing has changed, and anew where something has", async () => {
    await make();
    const before = new Map(readdirSync(outDir).map((name) => [name, statSync(path.join(outDir, name)).ino]));
    expect(start().stdout).toContain("addon 1");
    write("cache/addon-1/addon.node", "addon 2");
    await make();
    for (const name of parts("base")) expect(statSync(path.join(outDir, name)).ino).toBe(before.get(name));
    expect(parts("app")).toHaveLength(1);
    expect(before.has(parts("app")[0] ?? "")).toBe(false);
    // The host unpacks only what is new to it.
    const { stdout, stderr } = start();
    expect(stdout).toContain("addon 2");
    expect(stderr).toMatch(/^start.sh: verifying and unpacking app-\w+\n$/);
    expect(start().stderr).toBe("");
  });

  it("is cut anew where parts of another size are wanted, or one was harmed", async () => {
    await make();
    const [first = ""] = parts("base");
    writeFileSync(path.join(outDir, first), "harmed");
    await make();
    expect(start().status).toBe(0);
    await make({ partBytes: 2 * PART_BYTES });
    expect(statSync(path.join(outDir, first)).size).toBe(2 * PART_BYTES);
    expect(start().status).toBe(0);
  });

  it.each(["missing", "cut short"])(
    "refuses to start from a part that is %s, and starts once it is whole",
    async (harm) => {
      await make();
      const file = path.join(outDir, parts("base")[1] ?? "");
      const whole = readFileSync(file);
      if (harm === "missing") rmSync(file);
      else writeFileSync(file, whole.subarray(0, 1000));
      const { status, stdout, stderr } = start();
      expect([status, stdout]).toEqual([1, ""]);
      expect(stderr).toContain(path.basename(file));
      expect(stderr).toMatch(/parts of base-\w+ are missing or damaged/);
      writeFileSync(file, whole);
      expect(start().status).toBe(0);
    },
  );

  it("brings the tests on demand, with what they import", async () => {
    await make();
    expect(start("--tests", "a").stderr).toContain("this bundle has no tests");
    await make({ withTests: true });
    expect(start("--tests", "a").stdout).toContain("started node_modules/vitest/vitest.mjs run a");
    for (const file of [
      "node_modules/used/index.js",
      "dist/actors/cli/main.js",
      "test/a.ts",
      "models/step3-tiny/config.json",
    ]) {
      expect(statSync(unpacked(`tests/${file}`)).isFile()).toBe(true);
    }
  });

  it("says which tool a host lacks", async () => {
    await make();
    chmodSync(path.join(outDir, "start.sh"), 0o755);
    start();
    rmSync(path.join(dir, "bin/xz"));
    const { status, stderr } = spawnSync(path.join(outDir, "start.sh"), {
      env: { PATH: path.join(dir, "bin") },
      encoding: "utf8",
    });
    expect([status, stderr]).toEqual([1, "start.sh: xz is missing\n"]);
  });
});

test.each([
  ["60M", 60 << 20],
  ["2G", 2 * 1024 ** 3],
  ["5000000", 5_000_000],
  ["2048K", 2 << 20],
])("part size %s", (text, bytes) => expect(parsePartSize(text)).toBe(bytes));

test.each(["", "60", "60m", "M", "-1M", "1.5G", "1K", "60MB"])("no part size: %j", (text) => {
  expect(() => parsePartSize(text)).toThrow(expect.objectContaining({ code: "bad-settings" }));
});
