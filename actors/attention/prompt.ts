import { RallyError } from "../../infra/errors.ts";
import type { ModelConfig } from "../../models/config.ts";
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts";
import type { GenerateRequest } from "../protocol/messages.ts";

/**
 * The ids that a request's prompt stands for: text gets the model's BOS, ids are taken as they are. RallyError `bad-request` or
 * `context-exceeded` if the model cannot take them.
 */
export function promptIds(
  { prompt, maxTokens }: Pick<GenerateRequest, "prompt" | "maxTokens">,
  tokenizer: Tokenizer,
  config: ModelConfig,
): readonly number[] {
  const { contextLength, vocabSize, bosTokenId } = config;
  const room = contextLength - maxTokens;
  if (room < 1) throw exceeded("a prompt", 1);
  const ids = typeof prompt === "string" ? encoded(prompt) : prompt;
  if (ids.length === 0) {
    throw new RallyError("bad-request", "prompt must have at least one token, found none", {
      field: "prompt",
      found: 0,
    });
  }
  if (ids.length > room) throw exceeded(`prompt (${ids.length} tokens)`, ids.length);
  const unknown = ids.find((id) => id >= vocabSize);
  if (unknown === undefined) return ids;
  throw new RallyError("bad-request", `prompt has token id ${unknown}, the vocabulary ${vocabSize}`, {
    field: "prompt",
    found: unknown,
    limit: vocabSize - 1,
  });

  function encoded(text: string): number[] {
    const bos = bosTokenId === undefined ? [] : [bosTokenId];
    // The tokenizer refuses by itself what is certain not to fit, long before it has cut it up.
    return [...bos, ...tokenizer.encode(text, room - bos.length)];
  }

  function exceeded(what: string, promptTokens: number): RallyError {
    return new RallyError(
      "context-exceeded",
      `${what} and maxTokens (${maxTokens}) need at least ${promptTokens + maxTokens} tokens, the context is ${contextLength}`,
      { field: "maxTokens", promptTokens, maxTokens, limit: contextLength },
    );
  }
}
