/** How far a result may be from the reference: |found - expected| ≤ absolute + relative × |expected|. */
export interface Tolerance {
  /** The same for all values, or each value's own. */
  readonly absolute: number | Float64Array;
  readonly relative: number;
}

export interface Verdict {
  /** The largest error as a part of what is allowed. */
  readonly error: number;
  /** Where the first value is wrong, and how; nothing if all are right. */
  readonly mismatch?: string;
}

/** A NaN is wrong anywhere. */
export function judge(name: string, found: ArrayLike<number>, expected: Float64Array, tolerance: Tolerance): Verdict {
  if (found.length !== expected.length) {
    return { error: Infinity, mismatch: `${name} has ${found.length} values, expected ${expected.length}` };
  }
  const { absolute, relative } = tolerance;
  let error = 0;
  let mismatch: string | undefined;
  for (let i = 0; i < expected.length; i++) {
    const [value, right] = [found[i] as number, expected[i] as number];
    const allowed = (typeof absolute === "number" ? absolute : (absolute[i] as number)) + relative * Math.abs(right);
    const off = Math.abs(value - right);
    if (!(off <= allowed)) mismatch ??= `${name}[${i}] is ${value}, expected ${right} ± ${allowed.toPrecision(3)}`;
    error = Number.isNaN(off) ? Infinity : Math.max(error, off === 0 ? 0 : off / allowed);
  }
  return { error, ...(mismatch !== undefined && { mismatch }) };
}

/** The errors' root mean square. */
export function judgeRms(name: string, found: Float64Array, expected: Float64Array, most: number): Verdict {
  const size = rms(expected.map((right, i) => right - (found[i] as number)));
  if (size <= most) return { error: size / most };
  const mismatch = `${name} is off by ${size.toPrecision(3)} (root mean square), expected at most ${most.toPrecision(3)}`;
  return { error: Infinity, mismatch };
}

export function exactly(name: string, found: ArrayLike<number>, expected: ArrayLike<number>): Verdict {
  for (let i = 0; i < expected.length; i++) {
    if (found[i] === expected[i]) continue;
    return { error: Infinity, mismatch: `${name}[${i}] is ${found[i]}, expected ${expected[i]}` };
  }
  return { error: 0 };
}

export function all(...verdicts: readonly Verdict[]): Verdict {
  const wrong = verdicts.find(({ mismatch }) => mismatch !== undefined);
  return { ...wrong, error: Math.max(...verdicts.map(({ error }) => error)) };
}

export function rms(values: Float64Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
}

/** bf16 keeps 8 bits; what sums behind it is off by much less than the values' usual size. */
export function bf16Tolerance(expected: Float64Array): { readonly absolute: number; readonly relative: number } {
  return { relative: 2 ** -8 * 1.01, absolute: 0.01 * rms(expected) };
}

/** e4m3 keeps 4 bits, and what is smaller than 2^-6 of 448 parts of a group's largest fewer. */
export function e4m3Tolerance(expected: Float64Array): Tolerance {
  return { relative: 2 ** -4 * 1.05, absolute: 0.01 * rms(expected) };
}
