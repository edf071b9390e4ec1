import { readFile } from "node:fs/promises";
import path from "node:path";
import { RallyError } from "../../infra/errors.ts";
import { mergePairs } from "./bpe.ts";
import { BYTE_CHARS, bytesOfToken } from "./byte-alphabet.ts";
import { type DecodeStream, TokenBytes, Utf8DecodeStream } from "./decode-stream.ts";
import { JsonReader } from "./json-reader.ts";
import { MergeTable } from "./merge-table.ts";
import { readTokenizerJson, type TokenizerSpec } from "./tokenizer-json.ts";

export type { DecodeStream } from "./decode-stream.ts";

export interface Tokenizer {
  /** One more than the highest id. */
  readonly vocabSize: number;
  /**
   * Text only: what spells an added or special token is cut like any other text, so that a prompt cannot smuggle in control
   * tokens. Lone surrogates are read as U+FFFD. RallyError `context-exceeded` once it is certain that there are more than
   * `maxTokens`, without finishing the work.
   */
  encode(text: string, maxTokens?: number): number[];
  decodeStream(): DecodeStream;
}

const CACHED_PIECES = 32_768;
const CACHED_PIECE_LENGTH = 64;

/** Reads `tokenizer.json`. RallyError `bad-model` if it contradicts itself, `unsupported-model` naming what it asks for in vain. */
export async function loadTokenizer(modelDir: string): Promise<Tokenizer> {
  const file = path.join(modelDir, "tokenizer.json");
  let json: unknown;
  try {
    json = JSON.parse(await readFile(file, "utf8"));
  } catch (error) {
    throw new RallyError(
      "bad-model",
      `${file} cannot be read: ${RallyError.from(error).message}`,
      { file },
      { cause: error },
    );
  }
  return new ByteLevelBpe(readTokenizerJson(new JsonReader(json, file)), file);
}

class ByteLevelBpe implements Tokenizer {
  readonly vocabSize: number;
  readonly #spec: TokenizerSpec;
  readonly #merges: MergeTable;
  /** [256] id of each byte's token; -1 for bytes that the vocabulary lacks. */
  readonly #byteIds: Int32Array;
  readonly #tokenBytes: TokenBytes;
  readonly #longest: number;
  readonly #cache = new Map<string, Int32Array>();

  constructor(spec: TokenizerSpec, file: string) {
    this.#spec = spec;
    this.#merges = new MergeTable(spec.merges);
    this.#byteIds = Int32Array.from(BYTE_CHARS, (char) => spec.vocab.get(char) ?? -1);
    for (const [byte, id] of this.#byteIds.entries()) {
      // Bytes that no UTF-8 text contains may be missing.
      const isNeeded = byte < 0xf5 && byte !== 0xc0 && byte !== 0xc1;
      if (id >= 0 || !isNeeded) continue;
      throw new RallyError("bad-model", `${file}: model.vocab has no token for byte 0x${byte.toString(16)}`, {
        file,
        field: "model.vocab",
        byte,
      });
    }
    const bytesById: (Uint8Array | undefined)[] = [];
    for (const [token, id] of spec.vocab) bytesById[id] = bytesOfToken(token);
    for (const { id, content, special } of spec.addedTokens) {
      bytesById[id] = special ? undefined : new TextEncoder().encode(content);
    }
    this.vocabSize = bytesById.length;
    this.#tokenBytes = new TokenBytes(bytesById);
    this.#longest = this.#tokenBytes.longest;
  }

  encode(text: string, maxTokens = Infinity): number[] {
    const ids: number[] = [];
    if (text === "") return ids;
    const normalized = this.#spec.normalize(text.toWellFormed());
    for (const piece of this.#spec.preTokenize([normalized])) {
      // A character is at least a byte, so this many tokens are certain before the piece is looked at.
      const least = ids.length + Math.ceil(piece.length / this.#longest);
      if (least > maxTokens) throw tooLong(least, maxTokens);
      for (const id of this.#encodePiece(piece)) ids.push(id);
    }
    if (ids.length > maxTokens) throw tooLong(ids.length, maxTokens);
    return ids;
  }

  decodeStream(): DecodeStream {
    return new Utf8DecodeStream(this.#tokenBytes);
  }

  #encodePiece(piece: string): Int32Array {
    const cached = this.#cache.get(piece);
    if (cached !== undefined) return cached;
    const bytes = Buffer.from(piece, "utf8");
    const ids = this.#wholeToken(bytes) ?? mergePairs(this.#byteSymbols(bytes), this.#merges);
    if (piece.length <= CACHED_PIECE_LENGTH) {
      if (this.#cache.size >= CACHED_PIECES) this.#cache.clear();
      // A string of its own: a slice would keep the whole text it was cut from.
      this.#cache.set(bytes.toString("utf8"), ids);
    }
    return ids;
  }

  #wholeToken(bytes: Uint8Array): Int32Array | undefined {
    if (!this.#spec.ignoreMerges || bytes.length > this.#longest) return undefined;
    let token = "";
    for (const byte of bytes) token += BYTE_CHARS[byte] as string;
    const id = this.#spec.vocab.get(token);
    return id === undefined ? undefined : Int32Array.of(id);
  }

  #byteSymbols(bytes: Uint8Array): Int32Array {
    const symbols = new Int32Array(bytes.length);
    for (let i = 0; i < bytes.length; i++) symbols[i] = this.#byteIds[bytes[i] as number] as number;
    return symbols;
  }
}

function tooLong(found: number, limit: number): RallyError {
  return new RallyError("context-exceeded", `the text has at least ${found} tokens, ${limit} are allowed`, {
    field: "prompt",
    found,
    limit,
  });
}
