import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Lane } from "../../infra/native/lane.ts";
import { cacheFolder } from "../../infra/settings.ts";
import { kernelsFile } from "../../models/kernels/build.ts";
import { runAttentionCheck } from "../../models/kernels/check/attention-check.ts";
import { STEP3_CHAIN } from "../../models/kernels/check/chain.ts";
import { runChainCheck } from "../../models/kernels/check/chain-check.ts";
import { DENSE_CHECKS } from "../../models/kernels/check/dense-checks.ts";
import { EXPERT_CHECKS } from "../../models/kernels/check/expert-checks.ts";
import { openGraph, type Place, runCheck } from "../../models/kernels/check/runner.ts";
import { haveAddon } from "../support/addon.ts";
import { haveGpu } from "../support/gpu.ts";

const library = kernelsFile(cacheFolder());
const lack = (await lacks()) ?? "";

async function lacks(): Promise<string | undefined> {
  if (!(await haveGpu())) return " (skipped: there is none, or LD_LIBRARY_PATH does not name its provider)";
  if (!(await haveAddon())) return " (skipped: the addon is not built)";
  return existsSync(library) ? undefined : ` (skipped: ${library} is not built)`;
}

/** Needs a Hopper GPU, the addon and the kernels: what `rally gpu setup` makes where there are compilers. */
describe.skipIf(lack !== "")(`on a GPU${lack}`, () => {
  let place: Place;

  beforeAll(() => {
    place = { library, provider: "cuda", folder: mkdtempSync(path.join(tmpdir(), "rally-test-")) };
  });
  afterAll(() => rmSync(place.folder, { recursive: true }));

  describe.each([
    ["run", false],
    ["replayed as a CUDA graph", true],
  ] as const)("operators, %s", (_, cudaGraph) => {
    it.each([...DENSE_CHECKS, ...EXPERT_CHECKS].map((check) => [`${check.op}, ${check.what}`, check] as const))(
      "%s",
      (_name, check) => expect(runCheck(check, place, cudaGraph).mismatch).toBeUndefined(),
    );

    it.each(["e4m3", "bf16"] as const)("append to a cache and attend to it, %s", (kvType) => {
      const check = {
        kvType,
        lengths: [1, 64, 65, 200, 128, 300],
        judgedAfter: [1, 2, 64, 65, 66, 128, 129, 200, 300],
      };
      expect(runAttentionCheck(check, place, cudaGraph).mismatch).toBeUndefined();
    });
  });

  it.each([7, 16, 33, 64, 128, 256])(
    "a layer of %i tokens, replayed, has the bits of its operators one by one",
    (numTokens) => {
      expect(runChainCheck({ ...STEP3_CHAIN, numTokens }, place, 5).mismatch).toBeUndefined();
    },
  );

  describe("the addon", () => {
    function increment(cudaGraph: boolean) {
      const session = openGraph(
        place,
        "increment",
        (graph) => {
          graph.input("x", "f32", [1024]);
          graph.node("Add", ["x", graph.floats("one", Float32Array.of(1))], ["y"]);
          graph.output("y", "f32", [1024]);
        },
        cudaGraph,
      );
      const [x, y] = [session.allocate("f32", [1024]), session.allocate("f32", [1024])];
      return { session, x, y };
    }

    it("copies small inputs and results with each replay", () => {
      const { session, x, y } = increment(true);
      const [from, to] = [session.allocate("f32", [1024], "host"), session.allocate("f32", [1024], "host")];
      const binding = session.bind({ x }, { y }, { before: [[from, x]], after: [[y, to]] });
      for (let value = 0; value < 5; value++) {
        (from.data as Float32Array).fill(value);
        binding.run();
        expect(new Set(to.data as Float32Array)).toEqual(new Set([value + 1]));
      }
    });

    it("may copy a result back to where the input comes from, also in the run that captures", () => {
      const { session, x, y } = increment(true);
      const host = session.allocate("f32", [1024], "host");
      const binding = session.bind({ x }, { y }, { before: [[host, x]], after: [[y, host]] });
      (host.data as Float32Array).fill(10);
      for (const expected of [11, 12, 13]) {
        binding.run();
        expect(new Set(host.data as Float32Array)).toEqual(new Set([expected]));
      }
    });

    it("keeps a CUDA graph for each id", () => {
      const { session, x, y } = increment(true);
      const [other, result] = [session.allocate("f32", [1024]), session.allocate("f32", [1024])];
      const bindings = [
        session.bind({ x }, { y }, { runConfigs: { gpu_graph_id: "1" } }),
        session.bind({ x: other }, { y: result }, { runConfigs: { gpu_graph_id: "2" } }),
      ];
      x.fillWith(Float32Array.of(10));
      other.fillWith(Float32Array.of(20));
      for (let round = 0; round < 3; round++) for (const binding of bindings) binding.run();
      const values = [y, result].map((tensor) => tensor.download(new Float32Array(1))[0]);
      expect(values).toEqual([11, 21]);
    });

    it("captures while others allocate, copy and run", async () => {
      const { session, x, y } = increment(true);
      const { session: other, x: otherX, y: otherY } = increment(false);
      x.fillWith(Float32Array.of(1));
      const lanes = [new Lane(), new Lane()];
      const beside = other.bind({ x: otherX }, { y: otherY });
      const captures = Array.from({ length: 20 }, (_, id) =>
        lanes[0]?.run(session.bind({ x }, { y }, { runConfigs: { gpu_graph_id: String(id + 1) } })),
      );
      const runs = Array.from({ length: 200 }, () => lanes[1]?.run(beside));
      for (let i = 0; i < 100; i++) {
        const tensor = other.allocate("f32", [1 << 20]);
        tensor.fillWith(Float32Array.of(i));
        tensor.release();
        // Lets the lanes' answers in.
        await new Promise(setImmediate);
      }
      await Promise.all([...captures, ...runs]);
      expect(y.download(new Float32Array(1))[0]).toBe(2);
      await Promise.all(lanes.map((lane) => lane.close()));
    });

    it("times runs where they compute", () => {
      const { session, x, y } = increment(true);
      const binding = session.bind({ x }, { y });
      binding.run();
      const times = binding.timeRuns(50).toSorted();
      process.stdout.write(`one addition, replayed: median ${times[25]} ns, least ${times[0]} ns\n`);
      expect(times[0]).toBeGreaterThan(500);
      expect(times[25]).toBeLessThan(1_000_000);
    });

    it("says that memory does not suffice, and goes on", () => {
      const { session, x, y } = increment(false);
      const { free, total } = session.deviceMemory();
      expect(free).toBeLessThanOrEqual(total);
      expect(() => session.allocate("u8", [2 * total])).toThrow(expect.objectContaining({ code: "out-of-memory" }));
      x.fillWith(Float32Array.of(1));
      session.bind({ x }, { y }).run();
      expect(y.download(new Float32Array(1))[0]).toBe(2);
    });

    it("gives memory back", () => {
      const { session } = increment(false);
      const before = session.deviceMemory().free;
      const tensor = session.allocate("u8", [2 ** 30]);
      expect(session.deviceMemory().free).toBeLessThanOrEqual(before - 2 ** 30);
      tensor.release();
      expect(session.deviceMemory().free).toBe(before);
    });
  });
});
