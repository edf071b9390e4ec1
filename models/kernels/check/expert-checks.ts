import { bf16, e4m3, f32, i32, type OpCase, type OpCheck, zeros } from "./case.ts";
import { all, bf16Tolerance, exactly, judge, judgeRms, rms } from "./judge.ts";
import { fromBf16, fromE4m3, fromQuantised, type Random } from "./numbers.ts";
import { largest, multiply, scaleSquares, silu, softmax, unpackTiles } from "./reference.ts";

function routeTopK(random: Random, numTokens: number, width: number, numExperts: number, topK: number): OpCase {
  const x = random.bf16(numTokens * width);
  const router = random.f32(numExperts * width, 1 / Math.sqrt(width));
  const logits = multiply(fromBf16(x), Float64Array.from(router), width);
  const rows = Array.from({ length: numTokens }, (_, t) =>
    softmax([...logits.subarray(t * numExperts, (t + 1) * numExperts)]),
  );
  const chosen = rows.map((row) => largest(row, topK));
  const weights = Float64Array.from(chosen.flatMap((ids, t) => ids.map((id) => rows[t]?.[id] as number)));
  return {
    inputs: { x: bf16(x, numTokens, width), router: f32(router, numExperts, width) },
    outputs: { expert_ids: ["i32", [numTokens, topK]], expert_weights: ["f32", [numTokens, topK]] },
    attributes: { top_k: topK },
    judge: (found) =>
      all(
        exactly("expert_ids", found.i32("expert_ids"), chosen.flat()),
        judge("expert_weights", found.f32("expert_weights"), weights, { absolute: 1e-6, relative: 1e-4 }),
      ),
  };
}

interface Shard {
  readonly numTokens: number;
  readonly topK: number;
  readonly numExperts: number;
  /** Expert e of the first numLocal - 1 is local expert e; the last is the shared one. */
  readonly numLocal: number;
  readonly width: number;
  readonly inter: number;
}

function expertFfn(random: Random, workspace: number, shard: Shard): OpCase {
  const { numTokens, topK, numExperts, numLocal, width, inter } = shard;
  const [data, scales] = [random.e4m3(numTokens * width), random.scales((width / 128) * numTokens)];
  const expertIds = new Int32Array(numTokens * topK);
  for (let t = 0; t < numTokens; t++) expertIds.set(largest(random.f32(numExperts), topK), t * topK);
  const expertWeights = random.f32(expertIds.length).map(Math.abs);
  const shared = numLocal - 1;
  const localOf = Int32Array.from({ length: numExperts }, (_, e) => (e < shared ? e : -1));
  const [gateUp, gateUpScales] = [
    random.e4m3(numLocal * 2 * inter * width),
    random.scales(numLocal * ((2 * inter) / 128) * (width / 128), 0.1),
  ];
  const [down, downScales] = [
    random.e4m3(numLocal * width * inter),
    random.scales(numLocal * (width / 128) * (inter / 128), 0.1),
  ];
  const x = fromQuantised(data, scales, numTokens);
  const expected = new Float64Array(numTokens * width);
  // Of each value: the sum of the squares of what is summed to it.
  const squares = new Float64Array(numTokens * width);
  for (let local = 0; local < numLocal; local++) {
    const up = localMatrix(gateUp, gateUpScales, local, 2 * inter, width);
    const back = localMatrix(down, downScales, local, width, inter);
    const middle = swiGlu(multiply(x, up, width), inter);
    const result = multiply(middle, back, inter);
    const resultSquares = multiply(middle.map(square), back.map(square), inter);
    for (let i = 0; i < expected.length; i++) {
      const t = Math.floor(i / width);
      let weight = local === shared ? 1 : 0;
      for (let k = 0; k < topK; k++) {
        const id = expertIds[t * topK + k] as number;
        if (localOf[id] === local) weight += expertWeights[t * topK + k] as number;
      }
      expected[i] = (expected[i] as number) + weight * (result[i] as number);
      squares[i] = (squares[i] as number) + weight * weight * (resultSquares[i] as number);
    }
  }
  return {
    inputs: {
      data: e4m3(data, numTokens, width),
      scales: f32(scales, width / 128, numTokens),
      expert_ids: i32(expertIds, numTokens, topK),
      expert_weights: f32(expertWeights, numTokens, topK),
      local_of: i32(localOf, numExperts),
      gate_up: e4m3(gateUp, numLocal, (2 * inter) / 128, width / 128, 128, 128),
      gate_up_scales: f32(gateUpScales, numLocal, (2 * inter) / 128, width / 128),
      down: e4m3(down, numLocal, width / 128, inter / 128, 128, 128),
      down_scales: f32(downScales, numLocal, width / 128, inter / 128),
      workspace: zeros(workspace),
    },
    outputs: { y: ["bf16", [numTokens, width]] },
    attributes: { shared_local: shared },
    judge: (found) => {
      // What is between the two products is narrowed to e4m3, each value by at most its sixteenth.
      const { relative, absolute } = bf16Tolerance(expected);
      const spread = squares.map((sum) => absolute + (3 / 16) * Math.sqrt(sum));
      const y = fromBf16(found.bf16("y"));
      return all(
        judge("y", y, expected, { relative, absolute: spread }),
        judgeRms("y", y, expected, 0.04 * rms(expected)),
      );
    },
  };
}

/** [n, k] of one expert. */
function localMatrix(tiles: Uint8Array, scales: Float32Array, local: number, n: number, k: number): Float64Array {
  const own = fromE4m3(tiles.subarray(local * n * k, (local + 1) * n * k));
  const numTiles = (n * k) / 16_384;
  return scaleSquares(unpackTiles(own, n, k), scales.subarray(local * numTiles, (local + 1) * numTiles), k);
}

/** [T, inter] from [T, 2 * inter], where gate and up take turns in blocks of 64. */
function swiGlu(both: Float64Array, inter: number): Float64Array {
  return Float64Array.from({ length: both.length / 2 }, (_, i) => {
    const [t, column] = [Math.floor(i / inter), i % inter];
    const at = t * 2 * inter + Math.floor(column / 64) * 128 + (column % 64);
    return silu(both[at] as number) * (both[at + 64] as number);
  });
}

const square = (value: number) => value * value;

export const EXPERT_CHECKS: readonly OpCheck[] = [
  { op: "RouteTopK", what: "7 x 512, 3 of 48", make: (random) => routeTopK(random, 7, 512, 48, 3) },
  ...[
    { numTokens: 5, topK: 2, numExperts: 8, numLocal: 3, width: 256, inter: 128 },
    { numTokens: 40, topK: 3, numExperts: 12, numLocal: 4, width: 384, inter: 256 },
  ].map((shard): OpCheck => ({
    op: "ExpertFfn",
    what: `${shard.numTokens} tokens, ${shard.numLocal} experts of ${shard.width} x ${shard.inter}`,
    make: (random, sizes) =>
      expertFfn(
        random,
        sizes.expertWorkspace(shard.numTokens, shard.topK, shard.numLocal, shard.width, shard.inter),
        shard,
      ),
  })),
];
