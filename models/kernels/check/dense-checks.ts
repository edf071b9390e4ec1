import { bf16, e4m3, f32, i32, type OpCase, type OpCheck, zeros } from "./case.ts";
import { all, bf16Tolerance, e4m3Tolerance, exactly, judge } from "./judge.ts";
import { fromBf16, fromE4m3, fromQuantised, type Random } from "./numbers.ts";
import { largest, multiply, rmsNorm, scaleSquares, unpackTiles } from "./reference.ts";

const EPSILON = 1e-5;
const epsilon = { float: EPSILON };

function addRmsNormQuantise(random: Random, numTokens: number, width: number, numPartials: number): OpCase {
  const residual = random.bf16(numTokens * width);
  const weight = random.bf16(width, 0.5);
  const partials = random.bf16(numPartials * numTokens * width);
  const parts = fromBf16(partials);
  const sum = fromBf16(residual).map((value, i) => {
    let total = value;
    for (let p = 0; p < numPartials; p++) total += parts[p * residual.length + i] as number;
    return total;
  });
  return {
    inputs: {
      residual: bf16(residual, numTokens, width),
      weight: bf16(weight, width),
      ...(numPartials > 0 && { partials: bf16(partials, numPartials, numTokens, width) }),
    },
    outputs: {
      sum: ["bf16", [numTokens, width]],
      data: ["fp8-e4m3", [numTokens, width]],
      scales: ["f32", [width / 128, numTokens]],
      normed: ["bf16", [numTokens, width]],
    },
    attributes: { epsilon },
    judge: (found) => {
      // The norm is that of the sum as it is stored.
      const stored = fromBf16(found.bf16("sum"));
      const normed = rmsNorm(stored, fromBf16(weight), EPSILON);
      const quantised = fromQuantised(found.e4m3("data"), found.f32("scales"), numTokens);
      return all(
        judge("sum", stored, sum, bf16Tolerance(sum)),
        judge("normed", fromBf16(found.bf16("normed")), normed, bf16Tolerance(normed)),
        judge("data", quantised, normed, e4m3Tolerance(normed)),
      );
    },
  };
}

function rmsNormQuantise(random: Random, numTokens: number, width: number, stride: number, offset: number): OpCase {
  const x = random.bf16(numTokens * stride);
  const weight = random.bf16(width, 0.5);
  const columns = Float64Array.from(
    { length: numTokens * width },
    (_, i) => fromBf16(x.subarray(Math.floor(i / width) * stride + offset + (i % width)).subarray(0, 1))[0] as number,
  );
  const expected = rmsNorm(columns, fromBf16(weight), EPSILON);
  return {
    inputs: { x: bf16(x, numTokens, stride), weight: bf16(weight, width) },
    outputs: { data: ["fp8-e4m3", [numTokens, width]], scales: ["f32", [width / 128, numTokens]] },
    attributes: { epsilon, offset },
    judge: (found) => {
      const values = fromQuantised(found.e4m3("data"), found.f32("scales"), numTokens);
      return judge("data", values, expected, e4m3Tolerance(expected));
    },
  };
}

interface Product {
  readonly t: number;
  readonly n: number;
  readonly k: number;
  readonly adds: boolean;
}

function fp8Gemm(random: Random, workspace: number, { t, n, k, adds }: Product): OpCase {
  const [data, scales] = [random.e4m3(t * k), random.scales((k / 128) * t)];
  const [tiles, tileScales] = [random.e4m3(n * k), random.scales((n / 128) * (k / 128), 0.1)];
  const addend = random.bf16(t * n);
  const weight = scaleSquares(unpackTiles(fromE4m3(tiles), n, k), tileScales, k);
  const product = multiply(fromQuantised(data, scales, t), weight, k);
  const added = fromBf16(addend);
  const expected = adds ? product.map((value, i) => value + (added[i] as number)) : product;
  return {
    inputs: {
      data: e4m3(data, t, k),
      scales: f32(scales, k / 128, t),
      tiles: e4m3(tiles, n / 128, k / 128, 128, 128),
      tile_scales: f32(tileScales, n / 128, k / 128),
      workspace: zeros(workspace),
      ...(adds && { addend: bf16(addend, t, n) }),
    },
    outputs: { y: ["bf16", [t, n]] },
    judge: (found) => judge("y", fromBf16(found.bf16("y")), expected, bf16Tolerance(expected)),
  };
}

function packWeights(random: Random, n: number, k: number): OpCase {
  const weight = random.e4m3(n * k);
  return {
    inputs: { weight: e4m3(weight, n, k) },
    outputs: { tiles: ["fp8-e4m3", [n / 128, k / 128, 128, 128]] },
    judge: (found) => exactly("tiles, unpacked,", unpackTiles(found.e4m3("tiles"), n, k), weight),
  };
}

function embed(random: Random, numTokens: number, vocab: number, width: number): OpCase {
  const ids = Int32Array.from({ length: numTokens }, () => random.below(vocab));
  [ids[0], ids[1]] = [-1, vocab];
  const table = random.bf16(vocab * width);
  const rows = Array.from(ids, (id) =>
    id < 0 || id >= vocab ? new Uint16Array(width) : table.subarray(id * width, (id + 1) * width),
  );
  return {
    inputs: { ids: i32(ids, numTokens), table: bf16(table, vocab, width) },
    outputs: { out: ["bf16", [numTokens, width]] },
    judge: (found) =>
      exactly(
        "out",
        found.bf16("out"),
        rows.flatMap((row) => [...row]),
      ),
  };
}

interface Candidates {
  readonly numTokens: number;
  readonly stride: number;
  readonly vocab: number;
  readonly count: number;
}

function topCandidates(random: Random, workspace: number, { numTokens, stride, vocab, count }: Candidates): OpCase {
  const logits = random.bf16(numTokens * stride, 4);
  const values = fromBf16(logits);
  const rows = Array.from({ length: numTokens }, (_, t) => values.subarray(t * stride, t * stride + vocab));
  const best = rows.map((row) => largest(row, count));
  const logSums = rows.map((row) => {
    const most = Math.max(...row);
    return most + Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - most), 0));
  });
  return {
    inputs: { logits: bf16(logits, numTokens, stride), workspace: zeros(workspace) },
    outputs: { ids: ["i32", [numTokens, count]], values: ["f32", [numTokens, count]], log_sum: ["f32", [numTokens]] },
    attributes: { num_candidates: count, vocab },
    judge: (found) =>
      all(
        exactly("ids", found.i32("ids"), best.flat()),
        exactly(
          "values",
          found.f32("values"),
          best.flatMap((ids, t) => ids.map((id) => rows[t]?.[id] as number)),
        ),
        judge("log_sum", found.f32("log_sum"), Float64Array.from(logSums), { absolute: 1e-4, relative: 1e-5 }),
      ),
  };
}

export const DENSE_CHECKS: readonly OpCheck[] = [
  { op: "AddRmsNormQuantise", what: "5 x 512, no partials", make: (random) => addRmsNormQuantise(random, 5, 512, 0) },
  { op: "AddRmsNormQuantise", what: "3 x 7168, 2 partials", make: (random) => addRmsNormQuantise(random, 3, 7168, 2) },
  { op: "RmsNormQuantise", what: "4 x 2048 of 2560", make: (random) => rmsNormQuantise(random, 4, 2048, 2560, 256) },
  ...[
    { t: 3, n: 256, k: 512, adds: false },
    { t: 67, n: 384, k: 256, adds: true },
  ].map((shape): OpCheck => ({
    op: "Fp8Gemm",
    what: `${shape.t} x ${shape.n} x ${shape.k}${shape.adds ? ", added to" : ""}`,
    make: (random, sizes) => fp8Gemm(random, sizes.gemmWorkspace(shape.t, shape.n, shape.k), shape),
  })),
  { op: "PackWeights", what: "256 x 384", make: (random) => packWeights(random, 256, 384) },
  { op: "Embed", what: "6 of 300 x 256", make: (random) => embed(random, 6, 300, 256) },
  ...[
    { numTokens: 3, stride: 1024, vocab: 1000, count: 8 },
    { numTokens: 2, stride: 8192, vocab: 8192, count: 64 },
  ].map((shape): OpCheck => ({
    op: "TopCandidates",
    what: `${shape.count} of ${shape.numTokens} x ${shape.vocab}`,
    make: (random, sizes) =>
      topCandidates(random, sizes.candidatesWorkspace(shape.numTokens, shape.vocab, shape.count), shape),
  })),
];
