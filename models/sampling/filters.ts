/**
 * Filters over softmax numerators by ascending id, the likeliest token's being 1. Each sets to 0 what may not be drawn, and
 * finds a threshold instead of sorting: time in proportion to the vocabulary for all but the flattest distributions.
 */

/** Buckets by size, eight to each power of two, down to 2^-64. */
const BUCKETS = 512;
const ONE = 0x3ff00000; // upper word of the double 1.0
const BUCKET_SHIFT = 17;

/** Keeps the shortest run of likeliest tokens whose mass reaches `share` of the whole; of equals the lower ids. */
export function keepNucleus(weights: Float64Array, share: number): void {
  // The upper word of a positive double orders as the double does. This machine is little-endian: it is the second one.
  const words = new Uint32Array(weights.buffer, weights.byteOffset, weights.length * 2);
  const bucketOf = (id: number): number =>
    Math.min(BUCKETS - 1, (ONE - (words[2 * id + 1] as number)) >>> BUCKET_SHIFT);
  const masses = new Float64Array(BUCKETS);
  for (let i = 0; i < weights.length; i++) {
    const bucket = bucketOf(i);
    masses[bucket] = (masses[bucket] as number) + (weights[i] as number);
  }
  let total = 0;
  for (const mass of masses) total += mass;
  let bucket = 0;
  let above = 0;
  while (bucket < BUCKETS - 1 && above + (masses[bucket] as number) < share * total)
    above += masses[bucket++] as number;

  const border: number[] = [];
  for (let i = 0; i < weights.length; i++) if (bucketOf(i) === bucket) border.push(weights[i] as number);
  const ascending = Float64Array.from(border).sort();
  let mass = above;
  let at = ascending.length;
  while (at > 0 && (at === ascending.length || mass < share * total)) mass += ascending[--at] as number;
  const threshold = ascending[at] as number;
  const numEqual = ascending.lastIndexOf(threshold) - at + 1;
  keepFrom(weights, threshold, numEqual);
}

/** Keeps weights above `threshold` and the first `numEqual` that equal it. */
function keepFrom(weights: Float64Array, threshold: number, numEqual: number): void {
  let left = numEqual;
  for (let i = 0; i < weights.length; i++) {
    const weight = weights[i] as number;
    if (weight < threshold || (weight === threshold && left-- <= 0)) weights[i] = 0;
  }
}

/** Keeps weights of at least `share` of the largest. */
export function keepAtLeast(weights: Float64Array, share: number): void {
  for (let i = 0; i < weights.length; i++) if ((weights[i] as number) < share) weights[i] = 0;
}
