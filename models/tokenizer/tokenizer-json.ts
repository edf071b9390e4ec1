import { compilePattern, literalPattern } from "./regex.ts";
import type { JsonReader } from "./json-reader.ts";
import {
  inSequence,
  type PreTokenizer,
  SPLIT_BEHAVIORS,
  type SplitBehavior,
  splitBy,
  withPrefixSpace,
} from "./pre-tokenizer.ts";

/** What a Hugging Face tokenizer.json says, as far as byte-level BPE goes. */
export interface TokenizerSpec {
  readonly vocab: ReadonlyMap<string, number>;
  readonly merges: readonly { readonly left: number; readonly right: number; readonly result: number }[];
  readonly ignoreMerges: boolean;
  readonly addedTokens: readonly AddedToken[];
  readonly normalize: (text: string) => string;
  readonly preTokenize: PreTokenizer;
}

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

const GPT2_PATTERN = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
const DIGIT_PATTERN = String.raw`\p{N}`;

/**
 * Components that would change the ids or the text are refused unless implemented. The post-processor is left out on purpose:
 * it adds begin-of-sequence tokens, which the attention actor does.
 */
export function readTokenizerJson(file: JsonReader): TokenizerSpec {
  const model = file.at("model");
  const type = model.at("type");
  if (!type.isNothing && type.text() !== "BPE") throw type.unsupported(type.text());
  for (const key of ["continuing_subword_prefix", "end_of_word_suffix"]) {
    const affix = model.at(key);
    if (!affix.isNothing && affix.text() !== "") throw affix.unsupported(JSON.stringify(affix.text()));
  }
  const byteFallback = model.at("byte_fallback");
  if (byteFallback.flag(false)) throw byteFallback.unsupported("true");
  const dropout = model.at("dropout");
  if (!dropout.isNothing && dropout.raw() !== 0) throw dropout.unsupported(String(dropout.raw()));

  const vocab = readVocab(model.at("vocab"));
  const preTokenizer = file.at("pre_tokenizer");
  checkDecoder(file.at("decoder"));
  if (!hasByteLevel(preTokenizer)) throw preTokenizer.unsupported("without ByteLevel");
  return {
    vocab,
    merges: readMerges(model.at("merges"), vocab),
    ignoreMerges: model.at("ignore_merges").flag(false),
    addedTokens: readAddedTokens(file.at("added_tokens")),
    normalize: readNormalizer(file.at("normalizer")),
    preTokenize: readPreTokenizer(preTokenizer),
  };
}

function readVocab(reader: JsonReader): Map<string, number> {
  const vocab = new Map<string, number>();
  const ids = new Set<number>();
  for (const token of Object.keys(reader.map())) {
    const entry = reader.at(token);
    const id = entry.id();
    if (ids.has(id)) throw entry.refuse("an id that no other token has");
    ids.add(id);
    vocab.set(token, id);
  }
  return vocab;
}

function readMerges(reader: JsonReader, vocab: ReadonlyMap<string, number>): TokenizerSpec["merges"] {
  return reader.list().map((rule) => {
    const [left, right, ...rest] = Array.isArray(rule.raw())
      ? rule.list().map((half) => half.text())
      : rule.text().split(" ");
    if (left === undefined || right === undefined || rest.length > 0) throw rule.refuse("a pair of tokens");
    const [leftId, rightId, result] = [vocab.get(left), vocab.get(right), vocab.get(left + right)];
    if (leftId === undefined || rightId === undefined || result === undefined) {
      throw rule.refuse("a pair of tokens that are in the vocabulary, as is the two joined");
    }
    return { left: leftId, right: rightId, result };
  });
}

function readAddedTokens(reader: JsonReader): AddedToken[] {
  if (reader.isNothing) return [];
  return reader.list().map((token) => ({
    id: token.at("id").id(),
    content: token.at("content").text(),
    special: token.at("special").flag(false),
  }));
}

function readNormalizer(reader: JsonReader): (text: string) => string {
  if (reader.isNothing) return (text) => text;
  const type = reader.at("type").text();
  switch (type) {
    case "Sequence": {
      const stages = reader.at("normalizers").list().map(readNormalizer);
      return (text) => stages.reduce((result, stage) => stage(result), text);
    }
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD":
      return (text) => text.normalize(type);
    default:
      throw reader.unsupported(type);
  }
}

function readPreTokenizer(reader: JsonReader): PreTokenizer {
  const type = reader.at("type").text();
  switch (type) {
    case "Sequence":
      return inSequence(reader.at("pretokenizers").list().map(readPreTokenizer));
    case "Split": {
      const pattern = reader.at("pattern");
      const regex = pattern.at("Regex");
      const compiled = regex.isNothing ? literalPattern(pattern.at("String").text()) : compilePattern(regex.text());
      return splitBy(compiled, readBehavior(reader.at("behavior")), reader.at("invert").flag(false));
    }
    case "Digits":
      return splitBy(
        compilePattern(DIGIT_PATTERN),
        reader.at("individual_digits").flag(false) ? "Isolated" : "Contiguous",
      );
    case "ByteLevel": {
      const stages: PreTokenizer[] = [];
      if (reader.at("add_prefix_space").flag(true)) stages.push(withPrefixSpace);
      if (reader.at("use_regex").flag(true)) stages.push(splitBy(compilePattern(GPT2_PATTERN), "Isolated"));
      return inSequence(stages);
    }
    default:
      throw reader.unsupported(type);
  }
}

function readBehavior(reader: JsonReader): SplitBehavior {
  const found = reader.text();
  const behavior = SPLIT_BEHAVIORS.find((known) => known === found);
  if (behavior === undefined) throw reader.unsupported(found);
  return behavior;
}

/** ByteLevel turns text into the byte alphabet, so it must be there and nothing may come after it. */
function hasByteLevel(reader: JsonReader): boolean {
  if (reader.isNothing) return false;
  const type = reader.at("type").text();
  if (type === "ByteLevel") return true;
  if (type !== "Sequence") return false;
  const stages = reader.at("pretokenizers").list();
  const last = stages.at(-1);
  for (const stage of stages.slice(0, -1)) if (hasByteLevel(stage)) throw stage.unsupported("ByteLevel before the end");
  return last !== undefined && hasByteLevel(last);
}

function checkDecoder(reader: JsonReader): void {
  if (reader.isNothing) throw reader.unsupported("missing");
  const type = reader.at("type").text();
  if (type === "Sequence") {
    const stages = reader.at("decoders").list();
    const [only] = stages;
    if (only === undefined || stages.length > 1) throw reader.unsupported(`a sequence of ${stages.length}`);
    checkDecoder(only);
  } else if (type !== "ByteLevel") throw reader.unsupported(type);
}
