import { assert, RallyError } from "../../infra/errors.ts";
import type { KvSlots } from "../kv-cache.ts";
import { PAGE_TOKENS } from "./device-graphs.ts";

/** Which pages of the device's KV memory are free. The caches of all micro-batches take from it. */
export class PagePool {
  readonly numPages: number;
  /** Pages from here on have never been taken. */
  #numTouched = 0;
  readonly #returned: number[] = [];

  constructor(numPages: number) {
    this.numPages = numPages;
  }

  get numFree(): number {
    return this.numPages - this.#numTouched + this.#returned.length;
  }

  /** RallyError `overloaded` if none is left. */
  take(): number {
    const page = this.#returned.pop();
    if (page !== undefined) return page;
    if (this.#numTouched < this.numPages) return this.#numTouched++;
    const message = `all ${this.numPages} pages of the GPU's KV cache are taken, of ${PAGE_TOKENS} tokens each`;
    throw new RallyError("overloaded", message, { limit: this.numPages });
  }

  give(pages: readonly number[]): void {
    this.#returned.push(...pages);
    assert(this.#returned.length <= this.#numTouched, "a page is given back once");
  }
}

/** The slots of one micro-batch. A slot is a list of pages, so moving it moves no keys. */
export class PagedCache implements KvSlots {
  readonly maxSlots: number;
  readonly maxLength: number;
  readonly #pool: PagePool;
  readonly #pages: number[][];

  constructor(pool: PagePool, { maxSlots, maxLength }: { readonly maxSlots: number; readonly maxLength: number }) {
    this.#pool = pool;
    this.maxSlots = maxSlots;
    this.maxLength = maxLength;
    this.#pages = Array.from({ length: maxSlots }, () => []);
  }

  /** The slot's pages, now enough for `length` tokens and no more. RallyError `overloaded`. */
  pages(slot: number, length: number): readonly number[] {
    assert(length <= this.maxLength, `KV length ${length} within ${this.maxLength}`);
    const pages = this.#at(slot);
    const needed = Math.ceil(length / PAGE_TOKENS);
    while (pages.length < needed) pages.push(this.#pool.take());
    this.#pool.give(pages.splice(needed));
    return pages;
  }

  clear(slot: number): void {
    this.#pool.give(this.#at(slot).splice(0));
  }

  swap(a: number, b: number): void {
    [this.#pages[a], this.#pages[b]] = [this.#at(b), this.#at(a)];
  }

  /** Nothing to do: pages are taken when a pass is laid out. */
  reserve(): void {}

  shrink(): void {}

  #at(slot: number): number[] {
    const pages = this.#pages[slot];
    assert(pages !== undefined, `slot ${slot} exists`);
    return pages;
  }
}
