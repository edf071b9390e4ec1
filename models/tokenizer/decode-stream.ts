/** Turns token ids into text one by one. An incomplete character waits for its other bytes. */
export interface DecodeStream {
  push(id: number): string;
  /** What was held back: an incomplete character comes out as U+FFFD. */
  end(): string;
}

/** Bytes of every token id, in one block; special tokens and unused ids have none. */
export class TokenBytes {
  readonly #bytes: Uint8Array;
  readonly #offsets: Uint32Array;

  constructor(bytesById: readonly (Uint8Array | undefined)[]) {
    this.#offsets = new Uint32Array(bytesById.length + 1);
    for (const [id, bytes] of bytesById.entries()) {
      this.#offsets[id + 1] = (this.#offsets[id] as number) + (bytes?.length ?? 0);
    }
    this.#bytes = new Uint8Array(this.#offsets.at(-1) ?? 0);
    for (const [id, bytes] of bytesById.entries()) if (bytes !== undefined) this.#bytes.set(bytes, this.#offsets[id]);
  }

  /** Length of the longest token in bytes. */
  get longest(): number {
    return this.#offsets.reduce((most, offset, i) => Math.max(most, offset - (this.#offsets[i - 1] ?? 0)), 0);
  }

  of(id: number): Uint8Array {
    const [from, to] = [this.#offsets[id], this.#offsets[id + 1]];
    return from === undefined || to === undefined ? new Uint8Array() : this.#bytes.subarray(from, to);
  }
}

export class Utf8DecodeStream implements DecodeStream {
  readonly #tokens: TokenBytes;
  // A byte order mark in the middle of generated text is a character like any other.
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  constructor(tokens: TokenBytes) {
    this.#tokens = tokens;
  }

  push(id: number): string {
    const bytes = this.#tokens.of(id);
    return bytes.length === 0 ? "" : this.#decoder.decode(bytes, { stream: true });
  }

  end(): string {
    return this.#decoder.decode();
  }
}
