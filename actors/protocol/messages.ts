import type { WireError } from "../../infra/errors.ts";
import type { WireTensor } from "../../infra/tensor.ts";
import type { SamplingParams } from "../../models/sampling/params.ts";

/**
 * Every message that crosses NATS, as msgpack maps with exactly these keys. `docs` for other languages: actors/protocol/README.md.
 * Decoding and validation: `decode.ts`, once, where the bytes arrive; trusted afterwards.
 */

/** To `.request`, through JetStream: the publish ack is the admission. A sender may leave out `sampling` and `stop`. */
export interface GenerateRequest {
  readonly kind: "generate";
  readonly requestId: string;
  readonly deployment: string;
  /** Text, or token ids taken as they are. */
  readonly prompt: string | readonly number[];
  readonly maxTokens: number;
  readonly sampling: SamplingParams;
  /** At most 4, each 1 … 200 characters; the text ends before the first that appears. */
  readonly stop: readonly string[];
  /** Alternatives reported per token: 0 is the chosen token's own logprob only; undefined is none at all. */
  readonly logprobs?: number;
  /** Milliseconds since the Unix epoch by which the request has ended, one way or another. */
  readonly deadline: number;
  /** Cancelled when nobody has followed it for so many milliseconds; undefined: never. */
  readonly idleLimitMs?: number;
}

/** To `.offer`, core NATS: a request of so many tokens would come now. */
export interface Offer {
  readonly kind: "offer";
  readonly maxTokens: number;
  /** As the request's. */
  readonly deadline: number;
}

/** On the reply subject of an offer. With an error the request would not be done in time; it may be sent all the same. */
export interface OfferAnswer {
  readonly kind: "offered";
  readonly error?: WireError;
}

export interface TokenLogprob {
  readonly logprob: number;
  /** Likeliest first: [token id, logprob]. */
  readonly top: readonly (readonly [number, number])[];
}

/**
 * To `.tokens.<requestId>`: `ids.length` tokens from `index` on. `texts[i]` is what token i adds to the text; it may be empty
 * while a character is incomplete or a stop string may be forming, so only the joined text is meaningful.
 */
export interface TokenEvent {
  readonly kind: "tokens";
  readonly requestId: string;
  /** Id of the attention actor that owns the request; changes when another takes over. */
  readonly owner: string;
  readonly index: number;
  readonly ids: readonly number[];
  readonly texts: readonly string[];
  readonly logprobs?: readonly TokenLogprob[];
  /** In each owner's first event: fingerprint of what was asked, so that no other request goes on with this log. */
  readonly request?: string;
  /** Without tokens: the owner gives the request back in good order, and was not lost with it. */
  readonly left?: true;
}

export type FinishReason = "stop" | "length" | "eos";

export interface Usage {
  readonly promptTokens: number;
  readonly outputTokens: number;
}

/** The terminal event: exactly one per request, last in the log. `text` is what no token event has carried yet. */
export type EndEvent =
  | {
      readonly kind: "completed";
      readonly requestId: string;
      readonly owner: string;
      readonly finishReason: FinishReason;
      readonly text: string;
      readonly usage: Usage;
    }
  | {
      readonly kind: "failed";
      readonly requestId: string;
      readonly owner: string;
      readonly error: WireError;
      readonly usage: Usage;
    }
  | { readonly kind: "cancelled"; readonly requestId: string; readonly owner: string; readonly usage: Usage };

export type LogEvent = TokenEvent | EndEvent;

/** To `.ffn.<shard>`: one layer's FFN input, answered on `.act.<attentionId>`. Like the answer it ends with a checksum: `seal.ts`. */
export interface ActivationBatch {
  readonly kind: "activations";
  readonly deployment: string;
  readonly epoch: number;
  readonly attentionId: string;
  /** Unique per attention actor and trip of a micro-batch; results of an older trip are dropped. */
  readonly passId: number;
  readonly microBatch: number;
  readonly layer: number;
  /** Rows of one trip may be split over several messages to fit `max_payload`: which part this is. */
  readonly part: number;
  readonly attempt: number;
  /** Milliseconds since the Unix epoch; later than that nobody wants the result. */
  readonly deadline: number;
  /** [numTokens, hiddenSize] */
  readonly hidden: WireTensor;
  /** int32 [numTokens, topK]. */
  readonly expertIds: WireTensor;
  /** f32 [numTokens, topK]. */
  readonly expertWeights: WireTensor;
}

/** To `.act.<attentionId>`: the weighted sum of one shard's experts, a row per token, or why not. */
export type ExpertResult =
  | {
      readonly kind: "result";
      readonly passId: number;
      readonly microBatch: number;
      readonly layer: number;
      readonly part: number;
      readonly shard: number;
      readonly attempt: number;
      readonly expertId: string;
      /** [numTokens, hiddenSize] */
      readonly output: WireTensor;
      /** Time in the expert actor: waiting for its turn, and computing. Microseconds. */
      readonly waitUs: number;
      readonly computeUs: number;
    }
  | {
      readonly kind: "refused";
      readonly passId: number;
      readonly microBatch: number;
      readonly layer: number;
      readonly part: number;
      readonly shard: number;
      readonly attempt: number;
      readonly expertId: string;
      readonly error: WireError;
    };

/** To `.experts`, and to whoever probes: an expert actor is there, or about to leave. */
export interface ExpertNotice {
  readonly kind: "expert";
  readonly expertId: string;
  readonly shard: number;
  /** "leaving": answers what it has and still gets, but wants nothing more. */
  readonly state: "serving" | "leaving";
}

/** In the placement bucket under key `current`: which shard holds which experts. */
export interface Placement {
  readonly kind: "placement";
  readonly epoch: number;
  readonly deployment: string;
  /** Content hash of config and weights; actors of another model do not mix. */
  readonly modelHash: string;
  readonly shards: readonly (readonly number[])[];
  /** Attention actors compute the shared experts. Left out: each shard computes a slice of them. */
  readonly sharedExperts?: "attention";
}

export type Message =
  | GenerateRequest
  | Offer
  | OfferAnswer
  | LogEvent
  | ActivationBatch
  | ExpertResult
  | ExpertNotice
  | Placement;
