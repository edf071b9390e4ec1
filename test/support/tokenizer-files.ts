import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { loadTokenizer, type Tokenizer } from "../../models/tokenizer/tokenizer.ts";

/** What another reader of the format makes of the same texts; see test/fixtures/tokenizer/README.md. */
export interface TokenizerReference {
  readonly model: { readonly vocab: Readonly<Record<string, number>>; readonly merges: readonly (readonly string[])[] };
  readonly texts: readonly string[];
  readonly cases: readonly {
    readonly name: string;
    readonly pre_tokenizer: unknown;
    readonly ignore_merges: boolean;
    /** [texts.length] */
    readonly ids: readonly (readonly number[])[];
  }[];
}

const fixture = path.join(import.meta.dirname, "../fixtures/tokenizer/reference.json");

export async function readReference(): Promise<TokenizerReference> {
  return JSON.parse(await readFile(fixture, "utf8")) as TokenizerReference;
}

/** The content of a small tokenizer.json: 621 tokens, two added ones behind them. */
export async function tokenizerJson(): Promise<Record<string, unknown>> {
  const { model } = await readReference();
  return {
    version: "1.0",
    added_tokens: [
      { id: 621, content: "<|begin|>", special: true },
      { id: 622, content: "<think>", special: false },
    ],
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: true },
    post_processor: null,
    decoder: { type: "ByteLevel" },
    model: { type: "BPE", ...model },
  };
}

/** Loads `content` as a model folder's tokenizer.json. */
export async function loadContent(content: unknown): Promise<Tokenizer> {
  const folder = await mkdtemp(path.join(tmpdir(), "rally-tokenizer-"));
  try {
    await writeFile(
      path.join(folder, "tokenizer.json"),
      typeof content === "string" ? content : JSON.stringify(content),
    );
    return await loadTokenizer(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

export function decodeAll(tokenizer: Tokenizer, ids: readonly number[]): string {
  const stream = tokenizer.decodeStream();
  return ids.map((id) => stream.push(id)).join("") + stream.end();
}
