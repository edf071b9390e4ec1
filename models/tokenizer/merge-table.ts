/** Merge rules by pair of token ids: open addressing in typed arrays, several times faster than a Map keyed by doubles. */
export class MergeTable {
  readonly #mask: number;
  readonly #lefts: Int32Array;
  readonly #rights: Int32Array;
  readonly #ranks: Int32Array;
  readonly #results: Int32Array;

  constructor(merges: readonly { readonly left: number; readonly right: number; readonly result: number }[]) {
    const size = 2 ** Math.ceil(Math.log2(Math.max(4, merges.length * 2)));
    this.#mask = size - 1;
    this.#lefts = new Int32Array(size).fill(-1);
    this.#rights = new Int32Array(size);
    this.#ranks = new Int32Array(size);
    this.#results = new Int32Array(size);
    for (const [rank, { left, right, result }] of merges.entries()) {
      const slot = this.#slot(left, right);
      // A pair listed twice keeps its last rank, as in other readers of the format.
      this.#lefts[slot] = left;
      this.#rights[slot] = right;
      this.#ranks[slot] = rank;
      this.#results[slot] = result;
    }
  }

  /** The rule's place among all rules, lower first; -1 if the pair does not merge. */
  rank(left: number, right: number): number {
    const slot = this.#slot(left, right);
    return this.#lefts[slot] === -1 ? -1 : (this.#ranks[slot] as number);
  }

  /** The merged token of a pair that has a rank. */
  result(left: number, right: number): number {
    return this.#results[this.#slot(left, right)] as number;
  }

  #slot(left: number, right: number): number {
    let slot = (Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)) >>> 0;
    slot = (slot ^ (slot >>> 15)) & this.#mask;
    while (this.#lefts[slot] !== -1 && (this.#lefts[slot] !== left || this.#rights[slot] !== right)) {
      slot = (slot + 1) & this.#mask;
    }
    return slot;
  }
}
