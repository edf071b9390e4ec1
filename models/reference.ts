import { readFileSync } from "node:fs";
import path from "node:path";
import { Checkpoint } from "./checkpoint.ts";
import type { ModelConfig } from "./config.ts";
import { parseStep3Config } from "./step3/config.ts";
import { type FfnWeights, Step3Weights } from "./step3/weights.ts";

/** What the reference computes of one sequence. */
export interface ReferenceResult {
  /** [numTokens, vocabSize] */
  readonly logits: Float64Array;
  /** Per MoE layer, in order of layers: [numTokens, topK], descending weight. */
  readonly expertIds: readonly Int32Array[];
  readonly expertWeights: readonly Float64Array[];
}

/**
 * The model computed plainly, in float64 from the stored weights, one sequence at a time without a cache: the truth that the
 * fast stages are held to. Shares no arithmetic with them.
 */
export class Reference {
  readonly config: ModelConfig;
  readonly #weights: Step3Weights;
  readonly #layers: readonly LayerWeights[];

  constructor(modelDir: string) {
    const configFile = path.join(modelDir, "config.json");
    const json = JSON.parse(readFileSync(configFile, "utf8")) as Record<string, unknown>;
    const { config, weightBlock } = parseStep3Config(json, configFile);
    this.config = config;
    this.#weights = new Step3Weights(new Checkpoint(modelDir, weightBlock), config);
    this.#layers = config.layerKinds.map((kind, layer) => ({
      ...this.#weights.attention(layer),
      ...(kind === "dense"
        ? { dense: this.#weights.dense(layer), experts: [] }
        : {
            dense: this.#weights.shared(layer),
            experts: Array.from({ length: config.numExperts }, (_, expert) => this.#weights.expert(layer, expert)),
          }),
    }));
  }

  forward(tokenIds: readonly number[]): ReferenceResult {
    const { hiddenSize, rmsNormEps, vocabSize } = this.config;
    const embedding = this.#weights.embedding();
    const expertIds: Int32Array[] = [];
    const expertWeights: Float64Array[] = [];
    let rows: Float64Array[] = tokenIds.map((id) =>
      Float64Array.from(embedding.subarray(id * hiddenSize, (id + 1) * hiddenSize)),
    );
    for (const layer of this.#layers) {
      rows = this.#attention(layer, rows);
      const normed = rows.map((row) => rmsNorm(row, layer.ffnNorm, rmsNormEps));
      const { router } = layer;
      const routes = router === undefined ? [] : normed.map((row) => this.#route(matrixVector(router, row)));
      rows = rows.map((row, token) => {
        const input = normed[token] as Float64Array;
        let output = add(row, swiGlu(layer.dense, input));
        for (const { expert, weight } of routes[token] ?? []) {
          output = add(output, swiGlu(layer.experts[expert] as FfnWeights, input), weight);
        }
        return output;
      });
      if (router === undefined) continue;
      expertIds.push(Int32Array.from(routes.flatMap((route) => route.map(({ expert }) => expert))));
      expertWeights.push(Float64Array.from(routes.flatMap((route) => route.map(({ weight }) => weight))));
    }
    const { norm, lmHead } = this.#weights.head();
    const logits = new Float64Array(rows.length * vocabSize);
    for (const [token, row] of rows.entries()) {
      logits.set(matrixVector(lmHead, rmsNorm(row, norm, rmsNormEps)), token * vocabSize);
    }
    return { logits, expertIds, expertWeights };
  }

  #attention(layer: LayerWeights, rows: readonly Float64Array[]): Float64Array[] {
    const { numHeads, headDim, rmsNormEps } = this.config;
    const normed = rows.map((row) => rmsNorm(row, layer.inputNorm, rmsNormEps));
    const keys = normed.map((row, position) => this.#rotate(matrixVector(layer.key, row), position));
    const values = normed.map((row) => matrixVector(layer.value, row));
    return rows.map((row, position) => {
      const low = rmsNorm(matrixVector(layer.qDown, normed[position] as Float64Array), layer.interNorm, rmsNormEps);
      const query = this.#rotate(matrixVector(layer.qUp, low), position);
      const heads = new Float64Array(numHeads * headDim);
      for (let head = 0; head < numHeads; head++) {
        const headQuery = query.subarray(head * headDim, (head + 1) * headDim);
        const scores = keys.slice(0, position + 1).map((key) => dot(headQuery, key) / Math.sqrt(headDim));
        for (const [other, share] of softmax(scores).entries()) {
          const value = values[other] as Float64Array;
          for (let d = 0, at = head * headDim; d < headDim; d++, at++) {
            heads[at] = (heads[at] as number) + share * (value[d] as number);
          }
        }
      }
      return add(row, matrixVector(layer.output, heads));
    });
  }

  /** Rotate-half RoPE of each head; the angle is in f32, as the model was trained. */
  #rotate(vector: Float64Array, position: number): Float64Array {
    const { headDim, ropeTheta } = this.config;
    const half = headDim / 2;
    return vector.map((value, i) => {
      const d = i % headDim;
      const frequency = Math.fround(1 / Math.fround(ropeTheta ** ((2 * (d % half)) / headDim)));
      const angle = Math.fround(position * frequency);
      const other = (d < half ? -1 : 1) * (vector[d < half ? i + half : i - half] as number);
      return value * Math.cos(angle) + other * Math.sin(angle);
    });
  }

  #route(logits: Float64Array): { readonly expert: number; readonly weight: number }[] {
    return softmax([...logits])
      .map((weight, expert) => ({ expert, weight }))
      .sort((a, b) => b.weight - a.weight || a.expert - b.expert)
      .slice(0, this.config.topK);
  }
}

type LayerWeights = ReturnType<Step3Weights["attention"]> & {
  /** The dense FFN, or the shared expert of a MoE layer. */
  readonly dense: FfnWeights;
  readonly experts: readonly FfnWeights[];
};

function swiGlu({ gate, up, down }: FfnWeights, input: Float64Array): Float64Array {
  const raised = matrixVector(up, input);
  const product = matrixVector(gate, input).map((value, i) => (value / (1 + Math.exp(-value))) * (raised[i] as number));
  return matrixVector(down, product);
}

/** matrix [rows, vector.length] times vector. */
function matrixVector(matrix: Float32Array, vector: Float64Array): Float64Array {
  const columns = vector.length;
  const result = new Float64Array(matrix.length / columns);
  for (let row = 0, at = 0; row < result.length; row++) {
    let sum = 0;
    for (let column = 0; column < columns; column++) sum += (matrix[at++] as number) * (vector[column] as number);
    result[row] = sum;
  }
  return result;
}

function rmsNorm(row: Float64Array, scale: Float32Array, eps: number): Float64Array {
  const factor = 1 / Math.sqrt(dot(row, row) / row.length + eps);
  return row.map((value, i) => value * factor * (scale[i] as number));
}

function softmax(scores: readonly number[]): number[] {
  const largest = Math.max(...scores);
  const exps = scores.map((score) => Math.exp(score - largest));
  const sum = exps.reduce((total, value) => total + value, 0);
  return exps.map((value) => value / sum);
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

function add(a: Float64Array, b: Float64Array, factor = 1): Float64Array {
  return a.map((value, i) => value + factor * (b[i] as number));
}
