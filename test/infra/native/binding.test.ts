import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Lane } from "../../../infra/native/lane.ts";
import { type NativeOptions, NativeSession } from "../../../infra/native/native-session.ts";
import { openOrtSession } from "../../../infra/ort-session.ts";
import { OnnxGraph } from "../../../models/graph/onnx.ts";
import { haveAddon, runtime } from "../../support/addon.ts";

const refused = (text: string) =>
  expect.objectContaining({ code: "session-failed", message: expect.stringContaining(text) });
const closed = expect.objectContaining({ code: "closed" });

describe.skipIf(!(await haveAddon()))("the addon", () => {
  let dir: string;
  let sumFile: string;

  beforeAll(() => {
    dir = mkdtempSync(path.join(tmpdir(), "rally-test-"));
    // next = state + x
    sumFile = write("sum", (graph) => {
      graph.input("state", "f32", [4]);
      graph.input("x", "f32", [4]);
      graph.node("Add", ["state", "x"], ["next"]);
      graph.output("next", "f32", [4]);
    });
  });
  afterAll(() => rmSync(dir, { recursive: true }));

  function write(name: string, fill: (graph: OnnxGraph) => void): string {
    const graph = new OnnxGraph(name);
    fill(graph);
    const file = path.join(dir, `${name}.onnx`);
    writeFileSync(file, graph.finish());
    return file;
  }

  function open(file = sumFile, options: Partial<NativeOptions> = {}): NativeSession {
    return NativeSession.open(file, { numThreads: 1, ...options });
  }

  const f32 = (...values: number[]) => Float32Array.from(values);

  /** A session whose state lives across runs, in two tensors that take turns, or in one. */
  function accumulator(session: NativeSession, inPlace: boolean) {
    const [first, second] = [session.allocate("f32", [4]), session.allocate("f32", [4])];
    const x = f32(1, 2, 3, 4);
    (first.data as Float32Array).fill(0);
    const inputs = { state: first, x: session.tensor(x, [4]) };
    const there = session.bind(inputs, { next: inPlace ? first : second });
    const back = inPlace ? there : session.bind({ ...inputs, state: second }, { next: first });
    return { x, there, back, first, second };
  }

  describe("bindings", () => {
    it.each([false, true])("keep tensors across runs, in place: %s", (inPlace) => {
      const session = open();
      const { x, there, back, first } = accumulator(session, inPlace);
      there.run();
      // JavaScript's memory is read at each run.
      x[0] = 10;
      back.run();
      expect([...(first.data as Float32Array)]).toEqual([11, 4, 6, 8]);
    });

    it("append to a KV cache in place", () => {
      const [numHeads, headDim, room] = [2, 8, 16];
      const width = numHeads * headDim;
      const file = write("gqa", (graph) => {
        graph.input("query", "f32", [1, 1, width]);
        for (const name of ["key", "value"]) graph.input(name, "f32", [1, 1, headDim]);
        for (const name of ["past_key", "past_value"]) graph.input(name, "f32", [1, 1, room, headDim]);
        graph.input("seqlens", "i32", [1]);
        graph.input("total", "i32", [1]);
        const inputs = ["query", "key", "value", "past_key", "past_value", "seqlens", "total"];
        graph.contrib("GroupQueryAttention", inputs, ["out", "present_key", "present_value"], {
          num_heads: numHeads,
          kv_num_heads: 1,
        });
        graph.output("out", "f32", [1, 1, width]);
        for (const name of ["present_key", "present_value"]) graph.output(name, "f32", [1, 1, room, headDim]);
      });
      const session = open(file);
      const [keys, values] = [1, 2].map(() => session.allocate("f32", [1, 1, room, headDim]));
      if (keys === undefined || values === undefined) throw new Error("two caches");
      for (const cache of [keys, values]) (cache.data as Float32Array).fill(Number.NaN);
      const tensor = (data: Float32Array | Int32Array, dims: readonly number[]) => session.tensor(data, dims);
      const [query, out] = [new Float32Array(width).fill(1), new Float32Array(width)];
      const own = { key: new Float32Array(headDim), value: new Float32Array(headDim) };
      const [seqlens, total] = [Int32Array.of(0), Int32Array.of(0)];
      const binding = session.bind(
        {
          query: tensor(query, [1, 1, width]),
          key: tensor(own.key, [1, 1, headDim]),
          value: tensor(own.value, [1, 1, headDim]),
          past_key: keys,
          past_value: values,
          seqlens: tensor(seqlens, [1]),
          total: tensor(total, [1]),
        },
        { out: tensor(out, [1, 1, width]), present_key: keys, present_value: values },
      );
      for (let step = 0; step < 3; step++) {
        // Equal keys: each token attends to all so far alike.
        own.value.fill(step);
        [seqlens[0], total[0]] = [step, step + 1];
        binding.run();
      }
      expect([...out]).toEqual(Array.from({ length: width }, () => expect.closeTo(1, 5)));
      const cached = [...(values.data as Float32Array)];
      expect(cached.slice(0, 3 * headDim)).toEqual(
        [0, 1, 2].flatMap((step) => Array.from({ length: headDim }, () => step)),
      );
      expect(cached.slice(3 * headDim).every(Number.isNaN)).toBe(true);
    });

    it("copy before and after each run", () => {
      const session = open();
      const tensor = () => session.allocate("f32", [4]);
      const [state, x, next, fed, fetched] = [tensor(), tensor(), tensor(), tensor(), tensor()];
      state.upload(f32(1, 1, 1, 1));
      const binding = session.bind({ state, x }, { next }, { before: [[fed, x]], after: [[next, fetched]] });
      for (const value of [1, 2]) {
        fed.fillWith(f32(value));
        binding.run();
        expect([...fetched.download(new Float32Array(4))]).toEqual([1, 1, 1, 1].map((one) => one + value));
      }
      const wide = session.allocate("f32", [5]);
      expect(() => session.bind({ state, x }, { next }, { before: [[wide, x]] })).toThrow(refused("20 bytes"));
      wide.release();
      expect(() => session.bind({ state, x }, { next }, { after: [[next, wide]] })).toThrow(closed);
    });

    it("are timed, run by run", () => {
      const session = open();
      const { there, second } = accumulator(session, false);
      const times = there.timeRuns(3);
      expect(times).toHaveLength(3);
      for (const time of times) expect(time).toBeGreaterThan(100);
      expect([...(second.data as Float32Array)]).toEqual([1, 2, 3, 4]);
      expect(there.timeRuns(0)).toHaveLength(0);
    });

    it("refuse what does not fit, by name, and bind on", () => {
      const session = open();
      const [state, next, wide] = [
        session.allocate("f32", [4]),
        session.allocate("f32", [4]),
        session.allocate("f32", [5]),
      ];
      const x = session.tensor(f32(1, 2, 3, 4), [4]);
      expect(() => session.bind({ state, nothing: x }, { next })).toThrow(refused("nothing"));
      expect(() => session.bind({ state, x: session.tensor(f32(1), [4]) }, { next })).toThrow(refused("16 bytes"));
      expect(() => session.bind({ state: wide, x }, { next }).run()).toThrow(refused("Got: 5 Expected: 4"));
      expect(() => session.bind({ state }, { next })).toThrow(refused("nothing is bound to x"));
      expect(() => session.allocate("f32", [-1])).toThrow(refused("a dimension is -1"));
      expect(() => session.allocate("f32", [2 ** 31, 2 ** 31, 2 ** 31])).toThrow(refused("too large"));
      session.bind({ state, x }, { next }).run();
    });

    it("are closed after release; what they hold stays as long as they do", () => {
      const session = open();
      const { there, first, second } = accumulator(session, false);
      const seen = second.data as Float32Array;
      for (const tensor of [first, second]) {
        tensor.release();
        tensor.release();
        expect(() => tensor.data).toThrow(closed);
      }
      session.release();
      expect(() => session.bind({}, {})).toThrow(closed);
      expect(() => session.allocate("f32", [1])).toThrow(closed);
      there.run();
      there.release();
      there.release();
      expect(() => there.run()).toThrow(closed);
      expect([...seen]).toEqual([1, 2, 3, 4]);
    });

    it("hold every element type, narrow floats as their bits", () => {
      const session = open();
      const lengths = (["f32", "f16", "bf16", "fp8-e4m3", "i8", "u8", "i32", "i64"] as const).map((type) => {
        const { data } = session.allocate(type, [2, 3], "host");
        return [data.constructor.name, data.byteLength];
      });
      expect(lengths).toEqual([
        ["Float32Array", 24],
        ["Uint16Array", 12],
        ["Uint16Array", 12],
        ["Uint8Array", 6],
        ["Int8Array", 6],
        ["Uint8Array", 6],
        ["Int32Array", 24],
        ["BigInt64Array", 48],
      ]);
    });
  });

  describe("tensors", () => {
    it("are written, read and filled in part and as a whole", () => {
      const tensor = open().allocate("i32", [7]);
      const read = () => [...tensor.download(new Int32Array(7))];
      tensor.fillWith(Int32Array.of(1, 2, 3));
      expect(read()).toEqual([1, 2, 3, 1, 2, 3, 1]);
      tensor.fillWith(Int32Array.of(9, 8, 7, 6, 5, 4, 3, 2, 1));
      expect(read()).toEqual([9, 8, 7, 6, 5, 4, 3]);
      tensor.fillWith(new Uint8Array(1));
      tensor.upload(Int32Array.of(5, 6), 8);
      expect(read()).toEqual([0, 0, 5, 6, 0, 0, 0]);
      expect([...tensor.download(new Int32Array(2), 12)]).toEqual([6, 0]);
      open().allocate("f32", [0]).fillWith(f32(1));
    });

    it("refuse what does not lie in them, and are closed after release", () => {
      const session = open();
      const tensor = session.allocate("i32", [7]);
      expect(() => tensor.upload(new Int32Array(8))).toThrow(
        refused("32 bytes from 0 on do not lie in a tensor of 28"),
      );
      expect(() => tensor.download(new Int32Array(1), 28)).toThrow(refused("4 bytes from 28"));
      expect(() => tensor.download(new Int32Array(1), -4)).toThrow(refused("not a size"));
      expect(() => tensor.fillWith(new Uint8Array(0))).toThrow(refused("nothing to fill"));
      expect(() => session.deviceMemory()).toThrow(refused("no device"));
      tensor.release();
      expect(() => tensor.fillWith(new Uint8Array(1))).toThrow(closed);
    });
  });

  describe("lanes", () => {
    /** A graph that takes a while: a long row of matrix products. */
    function slow(session: NativeSession) {
      const result = new Float32Array(SIZE * SIZE);
      const a = session.tensor(new Float32Array(SIZE * SIZE).fill(1 / SIZE), [SIZE, SIZE]);
      return { result, binding: session.bind({ a }, { product: session.tensor(result, [SIZE, SIZE]) }) };
    }
    const SIZE = 256;

    const writeSlow = () =>
      write("slow", (graph) => {
        graph.input("a", "f32", [SIZE, SIZE]);
        let last = "a";
        for (let i = 0; i < 100; i++) last = graph.node("MatMul", [last, "a"], [i === 99 ? "product" : `p${i}`]);
        graph.output("product", "f32", [SIZE, SIZE]);
      });

    it("run while the event loop goes on, in order, beside each other", async () => {
      const session = open(writeSlow());
      const [one, other] = [slow(session), slow(session)];
      const [lane, beside] = [new Lane(), new Lane()];
      const order: number[] = [];
      let turns = 0;
      let over = false;
      const turn = () => {
        turns++;
        if (!over) setImmediate(turn);
      };
      setImmediate(turn);
      await Promise.all([
        lane.run(one.binding).then(() => order.push(1)),
        lane.run(one.binding).then(() => order.push(2)),
        beside.run(other.binding),
      ]);
      over = true;
      expect(order).toEqual([1, 2]);
      expect(turns).toBeGreaterThan(50);
      for (const { result } of [one, other]) expect(result[0]).toBeCloseTo(1 / SIZE, 6);
      await Promise.all([lane.close(), beside.close()]);
      await expect(lane.run(one.binding)).rejects.toThrow(closed);
    });

    it("reject what fails, and go on", async () => {
      const session = open();
      const lane = new Lane();
      const wide = session.allocate("f32", [5]);
      const bad = session.bind({ state: wide, x: wide }, { next: wide });
      const { there, second } = accumulator(session, false);
      await expect(lane.run(bad)).rejects.toThrow(refused("Got: 5 Expected: 4"));
      await lane.run(there);
      expect([...(second.data as Float32Array)]).toEqual([1, 2, 3, 4]);
      there.release();
      await expect(lane.run(there)).rejects.toThrow(closed);
      await lane.close();
      await lane.close();
    });

    it("do not run one binding twice at once", async () => {
      const { binding } = slow(open(writeSlow()));
      const lanes = [new Lane(), new Lane()];
      const refusals = new Set<string>();
      // A thread that starts late finds the other's run over; not each time.
      for (let attempt = 0; attempt < 50 && refusals.size === 0; attempt++) {
        for (const result of await Promise.allSettled(lanes.map((lane) => lane.run(binding)))) {
          if (result.status === "rejected") refusals.add((result.reason as Error).message);
        }
      }
      expect([...refusals]).toEqual([expect.stringContaining("running already")]);
      await Promise.all(lanes.map((lane) => lane.close()));
    });

    it("finish what they were given, though everything else lets go of it", async () => {
      const lane = new Lane();
      const session = open(writeSlow());
      const { result, binding } = slow(session);
      const running = lane.run(binding);
      const closing = lane.close();
      binding.release();
      session.release();
      await Promise.all([running, closing]);
      expect(result[0]).toBeCloseTo(1 / SIZE, 6);
    });
  });

  it("registers libraries of operators of our own", () => {
    const library = path.join(dir, "libtwice.so");
    const source = fileURLToPath(new URL("../../support/custom-op/twice.cc", import.meta.url));
    const flags = [
      "-std=c++17",
      "-O1",
      "-fPIC",
      "-shared",
      "-fvisibility=hidden",
      "-isystem",
      runtime?.headerFolder ?? "",
    ];
    execFileSync("c++", [...flags, "-o", library, source]);
    const file = write("twice", (graph) => {
      graph.input("x", "f32", ["n"]);
      graph.own("Twice", ["x"], ["y"]);
      graph.output("y", "f32", ["n"]);
    });
    expect(() => open(file)).toThrow(refused("rally"));
    expect(() => open(file, { customOpLibraries: [`${library}x`] })).toThrow(refused("libtwice.sox"));
    const y = new Float32Array(3);
    for (let i = 0; i < 2; i++) {
      const session = open(file, { customOpLibraries: [library] });
      session.run({ x: session.tensor(f32(1, 2, 3), [3]) }, { y: session.tensor(y, [3]) });
      session.release();
    }
    expect([...y]).toEqual([2, 4, 6]);
  });

  it("shares one ONNX Runtime with onnxruntime-node", () => {
    const [ours, theirs] = [open(), openOrtSession(sumFile, { numThreads: 1 })];
    const maps = readFileSync("/proc/self/maps", "utf8").matchAll(/\S*libonnxruntime\.so\.1$/gm);
    expect(new Set([...maps].map(([file]) => file)).size).toBe(1);
    for (const session of [ours, theirs]) session.release();
  });

  it("gives the runs that onnxruntime-node gives, bit for bit", () => {
    const data = Float32Array.from({ length: 4 }, (_, i) => Math.sin(i) * 1e3);
    const results = [openOrtSession, NativeSession.open.bind(NativeSession)].map((openIt) => {
      const session = openIt(sumFile, { numThreads: 1 });
      const next = new Float32Array(4);
      const x = session.tensor(data, [4]);
      session.run({ x, state: x }, { next: session.tensor(next, [4]) });
      session.release();
      return next;
    });
    expect(results[0]).toEqual(results[1]);
  });

  it.skipIf(existsSync("/proc/driver/nvidia"))("says that cuda cannot be had", () => {
    expect(() => open(sumFile, { provider: "cuda", cudaGraph: true })).toThrow(
      expect.objectContaining({ code: "provider-unavailable", message: expect.stringContaining("rally doctor") }),
    );
  });

  it("takes no provider's options for the cpu, which has none", () => {
    expect(() => open(sumFile, { providerOptions: { device_id: "0" } })).toThrow(refused("no options"));
  });
});
