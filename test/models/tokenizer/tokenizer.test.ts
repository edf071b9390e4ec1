import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { loadTokenizer, type Tokenizer } from "../../../models/tokenizer/tokenizer.ts";
import { TestRandom } from "../../support/random-values.ts";
import { decodeAll, loadContent, readReference, tokenizerJson } from "../../support/tokenizer-files.ts";

let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await loadContent(await tokenizerJson());
});

const reference = await readReference();

describe("gives the ids that Hugging Face's tokenizers give", () => {
  it.each(reference.cases.map((example) => [example.name, example] as const))("%s", async (_, example) => {
    const json = await tokenizerJson();
    json["pre_tokenizer"] = example.pre_tokenizer;
    json["model"] = { ...reference.model, ignore_merges: example.ignore_merges };
    const subject = await loadContent(json);
    for (const [i, text] of reference.texts.entries()) {
      expect([text, subject.encode(text)]).toEqual([text, example.ids[i]]);
    }
  });

  it("with merges written as text", async () => {
    const json = await tokenizerJson();
    json["model"] = { ...reference.model, merges: reference.model.merges.map((pair) => pair.join(" ")) };
    const subject = await loadContent(json);
    for (const text of reference.texts) expect(subject.encode(text)).toEqual(tokenizer.encode(text));
  });
});

describe("text comes back as it was", () => {
  it("for every code point of every plane", () => {
    for (let plane = 0; plane <= 16; plane++) {
      for (let start = plane * 0x10000; start < (plane + 1) * 0x10000; start += 0x800) {
        const isSurrogate = start >= 0xd800 && start < 0xe000;
        if (isSurrogate) continue;
        let text = "";
        for (let point = start; point < start + 0x800; point++) text += String.fromCodePoint(point);
        const isWhole = decodeAll(tokenizer, tokenizer.encode(text)) === text;
        expect(isWhole, `the block from U+${start.toString(16)}`).toBe(true);
      }
    }
  });

  it("for random text", () => {
    const random = new TestRandom(3);
    for (let n = 0; n < 300; n++) {
      let text = "";
      for (let i = random.below(40); i > 0; i--) {
        const point = random.below(random.pick([0x80, 0x800, 0x10000, 0x110000]));
        if (point < 0xd800 || point > 0xdfff) text += String.fromCodePoint(point);
      }
      expect(decodeAll(tokenizer, tokenizer.encode(text))).toBe(text);
    }
  });

  it("except for lone surrogates, which become U+FFFD", () => {
    expect(decodeAll(tokenizer, tokenizer.encode("a\ud800b\udc00\ud83d\ude00\ude00"))).toBe("a\ufffdb\ufffd😀\ufffd");
  });

  it("with a byte order mark in it", () => {
    expect(decodeAll(tokenizer, tokenizer.encode("\ufeffa\ufeff"))).toBe("\ufeffa\ufeff");
  });
});

describe("special and added tokens", () => {
  it("cannot be smuggled in by text", () => {
    const ids = tokenizer.encode("<|begin|><think>");
    expect(Math.max(...ids)).toBeLessThan(621);
    expect(decodeAll(tokenizer, ids)).toBe("<|begin|><think>");
  });

  it("decode to nothing when special, to their text when only added", () => {
    const [a] = tokenizer.encode("a");
    expect(tokenizer.vocabSize).toBe(623);
    expect(decodeAll(tokenizer, [621, a ?? -1, 622])).toBe("a<think>");
  });

  it("leave a character whole that they come in the middle of", () => {
    const [first, ...rest] = tokenizer.encode("Ж");
    expect(rest.length).toBe(1);
    expect(decodeAll(tokenizer, [first ?? -1, 621, ...rest])).toBe("Ж");
  });
});

describe("decoding token by token", () => {
  it("holds back what is not yet a character", () => {
    const ids = tokenizer.encode("\u{1d49c}");
    expect(ids.length).toBeGreaterThan(1);
    const stream = tokenizer.decodeStream();
    const texts = ids.map((id) => stream.push(id));
    expect(texts).toEqual([...ids.slice(1).map(() => ""), "\u{1d49c}"]);
    expect(stream.end()).toBe("");
  });

  it("writes U+FFFD for bytes that are none, as soon as that is certain", () => {
    const [lead] = tokenizer.encode("\u{1d49c}");
    const [a] = tokenizer.encode("a");
    const stream = tokenizer.decodeStream();
    expect([stream.push(lead ?? -1), stream.push(a ?? -1), stream.push(lead ?? -1), stream.end()]).toEqual([
      "",
      "\ufffda",
      "",
      "\ufffd",
    ]);
  });

  it("gives what decoding at once gives, for any tokens", () => {
    const random = new TestRandom(4);
    const bytesOf = byteReader();
    for (let n = 0; n < 500; n++) {
      const ids = Array.from({ length: 12 }, () => random.below(621));
      const whole = new TextDecoder("utf-8", { ignoreBOM: true }).decode(Buffer.concat(ids.map(bytesOf)));
      expect(decodeAll(tokenizer, ids)).toBe(whole);
    }
  });

  it("takes ids that no token has for nothing", () => {
    expect(decodeAll(tokenizer, [100_000, -1, 1.5, Number.NaN])).toBe("");
  });
});

const isPrintable = (byte: number) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte < 0x100 && byte !== 0xad);

/** Bytes of a token by the definition of the byte alphabet, apart from the code under test. */
function byteReader(): (id: number) => Buffer {
  const names = new Map(Object.entries(reference.model.vocab).map(([name, id]) => [id, name]));
  const others = Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => !isPrintable(byte));
  return (id) =>
    Buffer.from(
      Array.from(names.get(id) ?? "", (char) => {
        const point = char.codePointAt(0) ?? 0;
        return point < 0x100 ? point : (others[point - 0x100] ?? 0);
      }),
    );
}

describe("long and hostile text takes time in proportion", () => {
  it.each([
    ["one letter", "a"],
    ["a pair that merges", "he"],
    ["blanks", " "],
    ["line ends", "\n"],
    ["an emoji", "😀"],
    ["digits", "7"],
    ["words", "Once upon a time "],
  ])("%s", (_, unit) => {
    const text = (length: number) => unit.repeat(Math.ceil(length / unit.length));
    const time = (length: number) => {
      const input = text(length);
      const from = performance.now();
      const ids = tokenizer.encode(input);
      const spent = performance.now() - from;
      expect(ids.length).toBeGreaterThan(length / 64);
      return spent;
    };
    time(20_000);
    const [short, long] = [time(50_000), time(800_000)];
    // 16 times the text; quadratic time would be 256 times as long.
    expect(long).toBeLessThan(Math.max(short, 5) * 100);
  });

  it("and is refused early when it cannot fit", () => {
    const huge = "a".repeat(4_000_000);
    const from = performance.now();
    expect(() => tokenizer.encode(huge, 1024)).toThrow(/at least \d+ tokens, 1024 are allowed/);
    expect(performance.now() - from).toBeLessThan(1000);
    expect(() => tokenizer.encode("a b c d e f", 3)).toThrow(expect.objectContaining({ code: "context-exceeded" }));
    const { length } = tokenizer.encode("a b c");
    expect(tokenizer.encode("a b c", length)).toHaveLength(length);
    expect(() => tokenizer.encode("a b c", length - 1)).toThrow(/allowed/);
  });
});

describe("a tokenizer.json that cannot be honoured is refused by name", () => {
  type Json = Record<string, unknown>;
  const model = (change: Json) => (json: Json) => ({ ...json, model: { ...(json["model"] as Json), ...change } });
  const top = (change: Json) => (json: Json) => ({ ...json, ...change });
  const split = (pattern: unknown, behavior = "Isolated") =>
    top({
      pre_tokenizer: {
        type: "Sequence",
        pretokenizers: [
          { type: "Split", pattern, behavior },
          { type: "ByteLevel", use_regex: false },
        ],
      },
    });

  it.each([
    ["another model", "unsupported-model", "model.type", model({ type: "Unigram" })],
    ["byte fallback", "unsupported-model", "model.byte_fallback", model({ byte_fallback: true })],
    ["dropout", "unsupported-model", "model.dropout", model({ dropout: 0.1 })],
    ["an affix", "unsupported-model", "model.end_of_word_suffix", model({ end_of_word_suffix: "</w>" })],
    ["no vocabulary", "bad-model", "model.vocab", model({ vocab: [] })],
    ["a bad id", "bad-model", "model.vocab.a", model({ vocab: { a: -1 } })],
    ["one id twice", "bad-model", "model.vocab.b", model({ vocab: { a: 1, b: 1 } })],
    ["a missing byte", "bad-model", "model.vocab", model({ vocab: { a: 1 }, merges: [] })],
    ["no merges", "bad-model", "model.merges", model({ merges: undefined })],
    ["a merge of one", "bad-model", "model.merges[0]", model({ merges: ["ab"] })],
    ["a merge of three", "bad-model", "model.merges[0]", model({ merges: ["a b c"] })],
    ["a merge to nothing", "bad-model", "model.merges[0]", model({ merges: [["Q", "Z"]] })],
    ["a normalizer", "unsupported-model", "normalizer", top({ normalizer: { type: "Lowercase" } })],
    ["no pre-tokenizer", "unsupported-model", "pre_tokenizer", top({ pre_tokenizer: null })],
    ["a pre-tokenizer", "unsupported-model", "pre_tokenizer", top({ pre_tokenizer: { type: "Metaspace" } })],
    ["no decoder", "unsupported-model", "decoder", top({ decoder: null })],
    ["a decoder", "unsupported-model", "decoder", top({ decoder: { type: "WordPiece" } })],
    ["an added token without id", "bad-model", "added_tokens[0].id", top({ added_tokens: [{ content: "x" }] })],
    ["a behavior", "unsupported-model", "pre_tokenizer.pretokenizers[0].behavior", split({ Regex: "a" }, "Sideways")],
    ["possessive quantifiers", "unsupported-model", "pre_tokenizer", split({ Regex: String.raw`\p{L}++` })],
    ["a broken pattern", "unsupported-model", "pre_tokenizer", split({ Regex: "(a" })],
  ])("%s", async (_, code, field, change) => {
    const json = change(await tokenizerJson());
    await expect(loadContent(json)).rejects.toMatchObject({ code, fields: { field } });
  });

  it("and so is a file that is none", async () => {
    await expect(loadContent("{")).rejects.toMatchObject({ code: "bad-model" });
    await expect(loadContent("[]")).rejects.toMatchObject({ code: "bad-model" });
    const folder = await mkdtemp(path.join(tmpdir(), "rally-tokenizer-"));
    await expect(loadTokenizer(folder)).rejects.toThrow(/tokenizer.json cannot be read/);
    await rm(folder, { recursive: true });
  });
});
