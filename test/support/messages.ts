import { toWireF32, toWireI32 } from "../../infra/tensor.ts";
import { DEFAULT_SAMPLING } from "../../models/sampling/params.ts";

/** One good message of every kind. */
const position = { passId: 2 ** 40 + 1, microBatch: 1, layer: 7, part: 0, attempt: 2 } as const;
const usage = { promptTokens: 5, outputTokens: 3 } as const;
const event = { requestId: "r-1_A", owner: "attention-0" } as const;
const error = { code: "overloaded", message: "full", fields: { limit: 4, retryAfterMs: 20 } } as const;

export const MESSAGES = {
  request: {
    kind: "generate",
    requestId: "r-1_A",
    deployment: "d",
    prompt: "Once upon a time, ｅ𝒜",
    maxTokens: 10,
    sampling: { ...DEFAULT_SAMPLING, temperature: 1.5, topK: 5, seed: Number.MAX_SAFE_INTEGER },
    stop: ["\n", "END"],
    logprobs: 2,
    deadline: 1_790_000_000_123,
    idleLimitMs: 3000,
  },
  offer: { kind: "offer", maxTokens: 10, deadline: 1_790_000_000_123 },
  offered: { kind: "offered", error },
  tokens: {
    kind: "tokens",
    ...event,
    index: 4,
    ids: [1, 4095, 2 ** 31 - 1],
    texts: ["a", "", "𝒜"],
    logprobs: [
      { logprob: -0.5, top: [] },
      { logprob: -Infinity, top: [[1, -0.25]] },
      {
        logprob: 0,
        top: [
          [1, -1],
          [2, -2],
        ],
      },
    ],
    request: "pX0-_8",
  },
  left: { kind: "tokens", ...event, index: 4, ids: [], texts: [], request: "pX0-_8", left: true },
  completed: { kind: "completed", ...event, finishReason: "stop", text: "", usage },
  failed: { kind: "failed", ...event, error, usage },
  cancelled: { kind: "cancelled", ...event, usage },
  activations: {
    kind: "activations",
    deployment: "d",
    epoch: 3,
    attentionId: "attention-0",
    ...position,
    deadline: 1_790_000_000_123,
    hidden: toWireF32(Float32Array.of(1, 2, 3, 4, 5, 6), [2, 3], "f32"),
    expertIds: toWireI32(Int32Array.of(0, 1, 2, 3), [2, 2]),
    expertWeights: toWireF32(Float32Array.of(0.5, 0.25, 0.5, 0.125), [2, 2], "f32"),
  },
  result: {
    kind: "result",
    ...position,
    shard: 1,
    expertId: "expert-1",
    output: toWireF32(Float32Array.of(1, 2, 3, 4, 5, 6), [2, 3], "int8-row"),
    waitUs: 10,
    computeUs: 250,
  },
  refused: { kind: "refused", ...position, shard: 1, expertId: "expert-1", error },
  expert: { kind: "expert", expertId: "expert-1", shard: 1, state: "leaving" },
  placement: { kind: "placement", epoch: 3, deployment: "d", modelHash: "abc", shards: [[0, 2], [1, 3], []] },
} as const;
