import { RallyError } from "../../infra/errors.ts";
import type { DecodeStream, Tokenizer } from "../../models/tokenizer/tokenizer.ts";

/** A character per token, except that every seventh id is half of one: its text comes with the next token. */
export class FakeTokenizer implements Tokenizer {
  readonly vocabSize = 97;

  encode(text: string, maxTokens = Infinity): number[] {
    if (text.length > maxTokens) throw new RallyError("context-exceeded", `the text has ${text.length} tokens`);
    return Array.from(text, (char) => 2 + ((char.codePointAt(0) ?? 0) % 90));
  }

  decodeStream(): DecodeStream {
    let held = "";
    return {
      push(id) {
        const text = held + textOf(id);
        held = id % 7 === 3 ? text : "";
        return held === "" ? text : "";
      },
      end() {
        return held === "" ? "" : "?";
      },
    };
  }
}

export function textOf(id: number): string {
  return String.fromCodePoint(0x4e00 + id);
}
