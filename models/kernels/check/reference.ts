/** The operators in float64, slow and plain. Matrices are row-major. */

/** x [T, K] times W [N, K] transposed. */
export function multiply(x: Float64Array, weight: Float64Array, k: number): Float64Array {
  const [numTokens, n] = [x.length / k, weight.length / k];
  const y = new Float64Array(numTokens * n);
  for (let row = 0; row < n; row++) {
    const weights = weight.subarray(row * k, (row + 1) * k);
    for (let t = 0; t < numTokens; t++) {
      let sum = 0;
      for (let i = 0, at = t * k; i < k; i++, at++) sum += (x[at] as number) * (weights[i] as number);
      y[t * n + row] = sum;
    }
  }
  return y;
}

/** Of each row of x [T, width]. */
export function rmsNorm(x: Float64Array, weight: Float64Array, epsilon: number): Float64Array {
  const width = weight.length;
  const y = new Float64Array(x.length);
  for (let from = 0; from < x.length; from += width) {
    const row = x.subarray(from, from + width);
    const factor = 1 / Math.sqrt(row.reduce((sum, value) => sum + value * value, 0) / width + epsilon);
    for (let i = 0; i < width; i++) y[from + i] = (row[i] as number) * factor * (weight[i] as number);
  }
  return y;
}

/** Rotate-half over the whole of each head of one token. */
export function rope(values: Float64Array, position: number, headDim: number, cosSin: Float32Array): Float64Array {
  const half = headDim / 2;
  const rotated = new Float64Array(values.length);
  for (let from = 0; from < values.length; from += headDim) {
    for (let i = 0; i < half; i++) {
      const [cos, sin] = cosSin.subarray((position * half + i) * 2) as unknown as [number, number];
      const [a, b] = [values[from + i] as number, values[from + i + half] as number];
      rotated[from + i] = a * cos - b * sin;
      rotated[from + i + half] = b * cos + a * sin;
    }
  }
  return rotated;
}

/** One token's heads [numHeads, headDim] against its keys and values, each [length][headDim]. */
export function attend(
  query: Float64Array,
  keys: readonly Float64Array[],
  values: readonly Float64Array[],
  headDim: number,
): Float64Array {
  const out = new Float64Array(query.length);
  for (let from = 0; from < query.length; from += headDim) {
    const logits = keys.map((key) => {
      let dot = 0;
      for (let i = 0; i < headDim; i++) dot += (query[from + i] as number) * (key[i] as number);
      return dot / Math.sqrt(headDim);
    });
    const weights = softmax(logits);
    values.forEach((value, p) => {
      for (let i = 0; i < headDim; i++)
        out[from + i] = (out[from + i] as number) + (weights[p] as number) * (value[i] as number);
    });
  }
  return out;
}

export function softmax(logits: readonly number[]): number[] {
  const most = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - most));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

/** The k largest, descending, ties by the lower index. */
export function largest(values: ArrayLike<number>, k: number): number[] {
  const order = Array.from(values, (_, i) => i);
  return order.sort((a, b) => (values[b] as number) - (values[a] as number) || a - b).slice(0, k);
}

export function silu(x: number): number {
  return x / (1 + Math.exp(-x));
}

/** Row-major [n, k] from the order that kernels read weights in: see Weights in kernels.h. */
export function unpackTiles<T extends Uint8Array | Float64Array>(tiles: T, n: number, k: number): T {
  const rows = tiles.slice() as T;
  for (let row = 0; row < n; row++) {
    const firstTile = (row >> 7) * (k / 128);
    const r = row % 128;
    for (let i = 0; i < k; i++) {
      const inTile = r * 128 + ((((i % 128) >> 4) ^ (r % 8)) << 4) + (i % 16);
      rows[row * k + i] = tiles[(firstTile + (i >> 7)) * 16_384 + inTile] as number;
    }
  }
  return rows;
}

/** Multiplies weights [n, k] by the scale of each square of 128, in place. */
export function scaleSquares(weight: Float64Array, scales: Float32Array, k: number): Float64Array {
  for (let row = 0, at = 0; at < weight.length; row++) {
    const first = (row >> 7) * (k / 128);
    for (let i = 0; i < k; i++, at++) {
      weight[at] = (weight[at] as number) * (scales[first + (i >> 7)] as number);
    }
  }
  return weight;
}
