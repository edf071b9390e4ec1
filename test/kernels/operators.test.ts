import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { NativeSession } from "../../infra/native/native-session.ts";
import { runAttentionCheck } from "../../models/kernels/check/attention-check.ts";
import { runChainCheck } from "../../models/kernels/check/chain-check.ts";
import { DENSE_CHECKS } from "../../models/kernels/check/dense-checks.ts";
import { EXPERT_CHECKS } from "../../models/kernels/check/expert-checks.ts";
import { fromBf16, fromQuantised, Random, toBf16 } from "../../models/kernels/check/numbers.ts";
import { rmsNorm } from "../../models/kernels/check/reference.ts";
import { openGraph, type Place, runCheck } from "../../models/kernels/check/runner.ts";
import { KernelSizes } from "../../models/kernels/sizes.ts";
import type { OnnxGraph } from "../../models/graph/onnx.ts";
import { haveAddon, runtime } from "../support/addon.ts";
import { buildTwin, findCudaHeaders } from "./twin/twin.ts";

const cudaHeaders = findCudaHeaders();
const refused = (text: string | RegExp) =>
  expect.objectContaining({
    code: "session-failed",
    message: typeof text === "string" ? expect.stringContaining(text) : expect.stringMatching(text),
  });

describe.skipIf(!(await haveAddon()) || cudaHeaders === undefined)("the operators, over the kernels' twins", () => {
  let place: Place;

  beforeAll(() => {
    const folder = mkdtempSync(path.join(tmpdir(), "rally-test-"));
    place = {
      library: buildTwin(folder, runtime?.headerFolder ?? "", cudaHeaders ?? ""),
      provider: "cpu",
      folder,
    };
  }, 120_000);
  afterAll(() => rmSync(place.folder, { recursive: true }));

  it.each([...DENSE_CHECKS, ...EXPERT_CHECKS].map((check) => [`${check.op}, ${check.what}`, check] as const))(
    "%s",
    (_, check) => expect(runCheck(check, place, false).mismatch).toBeUndefined(),
  );

  it.each(["e4m3", "bf16"] as const)("append to a cache and attend to it, %s", (kvType) => {
    const check = { kvType, lengths: [1, 66, 3], judgedAfter: [1, 2, 64, 66] };
    expect(runAttentionCheck(check, place, false).mismatch).toBeUndefined();
  });

  it("make up a layer, in one graph as one by one", () => {
    const sizes = { numTokens: 3, hidden: 256, qRank: 128, inter: 128, context: 128, numLocal: 3 };
    expect(runChainCheck(sizes, place, 2).mismatch).toBeUndefined();
  });

  describe("AddRmsNormQuantise", () => {
    const [numTokens, width] = [3, 256];
    const epsilon = { float: 1e-5 };

    function open(outputs: readonly string[], weightWidth: number | string = width): NativeSession {
      return openGraph(place, "norm", (graph) => {
        graph.input("residual", "bf16", ["tokens", width]);
        graph.input("weight", "bf16", [weightWidth]);
        graph.own("AddRmsNormQuantise", ["residual", "weight"], outputs, { epsilon });
        for (const name of outputs) if (name === "data") graph.output(name, "fp8-e4m3", ["tokens", width]);
        for (const name of outputs) if (name === "scales") graph.output(name, "f32", [width / 128, "tokens"]);
        for (const name of outputs)
          if (name === "sum" || name === "normed") graph.output(name, "bf16", ["tokens", width]);
      });
    }

    function inputs(session: NativeSession, weightWidth = width, tokens = numTokens) {
      const [residual, weight] = [session.allocate("bf16", [tokens, width]), session.allocate("bf16", [weightWidth])];
      const values = new Random(1).bf16(tokens * width);
      residual.upload(values);
      weight.fillWith(toBf16(Float64Array.of(1)));
      return { values, residual, weight };
    }

    it("leaves its input alone where it is not bound in place", () => {
      const session = open(["sum", "", "", "normed"]);
      const { values, residual, weight } = inputs(session);
      const [sum, normed] = [
        session.allocate("bf16", [numTokens, width]),
        session.allocate("bf16", [numTokens, width]),
      ];
      session.bind({ residual, weight }, { sum, normed }).run();
      expect([...sum.download(new Uint16Array(values.length))]).toEqual([...values]);
      expect([...residual.download(new Uint16Array(values.length))]).toEqual([...values]);
      const expected = rmsNorm(fromBf16(values), new Float64Array(width).fill(1), 1e-5);
      expect(normed.download(new Uint16Array(values.length))).toEqual(toBf16(expected));
    });

    it("follows itself within a graph, whoever reads the sum in between", () => {
      const session = openGraph(place, "norms", (graph) => {
        graph.input("residual", "bf16", ["tokens", width]);
        graph.input("weight", "bf16", [width]);
        graph.input("partials", "bf16", [1, "tokens", width]);
        graph.own("AddRmsNormQuantise", ["residual", "weight", "partials"], ["first", "", "", ""], { epsilon });
        graph.own("AddRmsNormQuantise", ["first", "weight", "partials"], ["second", "", "", ""], { epsilon });
        graph.own("AddRmsNormQuantise", ["second", "weight", "partials"], ["third"], { epsilon });
        graph.own("AddRmsNormQuantise", ["first", "weight"], ["again"], { epsilon });
        for (const name of ["third", "again"]) graph.output(name, "bf16", ["tokens", width]);
      });
      const { residual, weight } = inputs(session);
      const [third, again] = [
        session.allocate("bf16", [numTokens, width]),
        session.allocate("bf16", [numTokens, width]),
      ];
      const partials = session.allocate("bf16", [1, numTokens, width]);
      residual.fillWith(toBf16(Float64Array.of(1)));
      partials.fillWith(toBf16(Float64Array.of(0.5)));
      session.bind({ residual, weight, partials }, { third, again }).run();
      const read = (tensor: typeof third) => new Set(fromBf16(tensor.download(new Uint16Array(numTokens * width))));
      expect([read(third), read(again)]).toEqual([new Set([2.5]), new Set([1.5])]);
    });

    it("has outputs that may be left out at the end", () => {
      const session = open(["sum", "data", "scales"]);
      const { values, residual, weight } = inputs(session);
      const [data, scales] = [
        session.allocate("fp8-e4m3", [numTokens, width]),
        session.allocate("f32", [2, numTokens]),
      ];
      session.bind({ residual, weight }, { sum: residual, data, scales }).run();
      const found = fromQuantised(
        data.download(new Uint8Array(values.length)),
        scales.download(new Float32Array(6)),
        3,
      );
      const expected = rmsNorm(fromBf16(values), new Float64Array(width).fill(1), 1e-5);
      for (const [i, value] of found.entries()) expect(value).toBeCloseTo(expected[i] as number, 0);
    });

    it("does nothing for no tokens", () => {
      const session = open(["sum", "", "", "normed"]);
      const { residual, weight } = inputs(session, width, 0);
      const binding = session.bind(
        { residual, weight },
        { sum: residual, normed: session.allocate("bf16", [0, width]) },
      );
      expect(() => binding.run()).not.toThrow();
    });

    it("says which tensor has which shape", () => {
      const session = open(["sum", "", "", "normed"], "any");
      const { residual, weight } = inputs(session, 128);
      const binding = session.bind({ residual, weight }, { sum: residual, normed: residual });
      expect(() => binding.run()).toThrow(refused("rally.AddRmsNormQuantise: weight is [128], expected [W] = [256]"));
    });
  });

  describe("refuse", () => {
    function gemm(fill?: (graph: OnnxGraph) => void, type: "bf16" | "fp8-e4m3" = "fp8-e4m3") {
      return openGraph(place, "gemm", (graph) => {
        graph.input("data", type, ["tokens", 256]);
        graph.input("scales", "f32", [2, "tokens"]);
        graph.input("tiles", "fp8-e4m3", [1, 2, 128, 128]);
        graph.input("tile_scales", "f32", [1, 2]);
        graph.input("workspace", "u8", ["bytes"]);
        if (fill === undefined) graph.own("Fp8Gemm", ["data", "scales", "tiles", "tile_scales", "workspace"], ["y"]);
        else fill(graph);
        graph.output("y", "bf16", ["tokens", 128]);
      });
    }

    it("another type", () => {
      expect(() => gemm(undefined, "bf16")).toThrow(refused(/Fp8Gemm|float8e4m3fn/));
    });

    it("an attribute that is missing or is no such thing", () => {
      const open = (attributes: Record<string, number>) =>
        openGraph(place, "route", (graph) => {
          graph.input("x", "bf16", ["tokens", 256]);
          graph.input("router", "f32", [8, 256]);
          graph.own("RouteTopK", ["x", "router"], ["ids", "weights"], attributes);
          graph.output("ids", "i32", ["tokens", 2]);
          graph.output("weights", "f32", ["tokens", 2]);
        });
      expect(() => open({})).toThrow(refused("rally.RouteTopK: attribute top_k (an integer) is missing"));
    });

    function run(numTokens: number, workspace: number): void {
      const session = gemm();
      const shapes = {
        data: session.allocate("fp8-e4m3", [numTokens, 256]),
        scales: session.allocate("f32", [2, numTokens]),
        tiles: session.allocate("fp8-e4m3", [1, 2, 128, 128]),
        tile_scales: session.allocate("f32", [1, 2]),
        workspace: session.allocate("u8", [workspace]),
      };
      session.bind(shapes, { y: session.allocate("bf16", [numTokens, 128]) }).run();
    }

    it("a workspace that is too small", () => {
      const needed = new KernelSizes(place.library).gemmWorkspace(4, 128, 256);
      run(4, needed);
      expect(() => run(4, needed - 1)).toThrow(
        refused(`rally.Fp8Gemm: workspace has ${needed - 1} bytes, ${needed} are needed`),
      );
    });

    it("sizes that the kernel does not do", () => {
      expect(() => run(257, 2 ** 20)).toThrow(
        refused(/rally.Fp8Gemm: its kernel does not do these sizes: T = 257, K = 256/),
      );
    });
  });
});

describe.skipIf(!(await haveAddon()))("sizes", () => {
  it("come from the library, or a typed error does", () => {
    expect(() => new KernelSizes("/no/such/library.so").kvPage("e4m3", 256)).toThrow(
      expect.objectContaining({
        code: "provider-unavailable",
        message: expect.stringContaining("/no/such/library.so"),
      }),
    );
  });
});
