/**
 * Random numbers that a seed and a name decide. Every part of a run draws from a stream of its own, so that one more draw
 * here moves nothing there.
 */
export class SeededRandom {
  readonly #state: Uint32Array;

  constructor(seed: number, name: string) {
    const text = `${seed}/${name}`;
    this.#state = Uint32Array.from([0x811c9dc5, 0x9e3779b9, 0x85ebca6b, 1], (offset) => hash(text, offset));
    for (let i = 0; i < 12; i++) this.next();
  }

  /** [0, 1) */
  next(): number {
    // sfc32: three words of state and a counter.
    const s = this.#state;
    const [a = 0, b = 0, c = 0, counter = 0] = s;
    const sum = (a + b + counter) >>> 0;
    s[3] = counter + 1;
    s[0] = b ^ (b >>> 9);
    s[1] = c + (c << 3);
    s[2] = ((c << 21) | (c >>> 11)) + sum;
    return sum / 2 ** 32;
  }

  /** From `min` to `max`, both included. */
  integer(min: number, max: number): number {
    return min + Math.floor(this.next() * (max - min + 1));
  }

  pick<T>(items: readonly T[]): T {
    const item = items[this.integer(0, items.length - 1)];
    if (item === undefined) throw new Error("broken invariant: nothing to pick from");
    return item;
  }

  /** Each as likely as its weight says. */
  weighted<T extends { readonly weight: number }>(items: readonly T[]): T {
    let left = this.next() * items.reduce((sum, { weight }) => sum + weight, 0);
    for (const item of items) {
      left -= item.weight;
      if (left < 0) return item;
    }
    return this.pick(items.slice(-1));
  }

  /** Gap between two events of a Poisson process. */
  exponential(mean: number): number {
    return -mean * Math.log(1 - this.next());
  }
}

/** FNV-1a. */
function hash(text: string, offset: number): number {
  let value = offset;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
  return value >>> 0;
}
