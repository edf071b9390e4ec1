import { decode } from "../../infra/codec.ts";
import { checkWireTensor, type WireTensor } from "../../infra/tensor.ts";
import { validateSampling } from "../../models/sampling/params.ts";
import { isTokenId, MAX_TOKEN_ID, tokensOf, usageOf, wireErrorOf } from "./event-fields.ts";
import { FieldReader } from "./fields.ts";
import { POSITION_LIMITS, REQUEST_LIMITS } from "./limits.ts";
import type {
  ActivationBatch,
  EndEvent,
  ExpertNotice,
  ExpertResult,
  FinishReason,
  GenerateRequest,
  LogEvent,
  Offer,
  OfferAnswer,
  Placement,
} from "./messages.ts";

const REQUEST_FIELDS = [
  "kind",
  "requestId",
  "deployment",
  "prompt",
  "maxTokens",
  "sampling",
  "stop",
  "logprobs",
  "deadline",
  "idleLimitMs",
];

const MAX_ID = Number.MAX_SAFE_INTEGER;
const NAME = 64;
const MAX_EXPERTS = 65_536;

/** RallyError `bad-request` for a readable map with a wrong field, `bad-message` for bytes that are none. */
export function decodeGenerateRequest(bytes: Uint8Array): GenerateRequest {
  return checkGenerateRequest(decode(bytes));
}

export function decodeOffer(bytes: Uint8Array): Offer {
  const fields = new FieldReader(decode(bytes), "offer");
  if (fields.raw("kind") !== "offer") throw fields.refuse("kind", fields.raw("kind"), '"offer"');
  return {
    kind: "offer",
    maxTokens: fields.integer("maxTokens", 1, REQUEST_LIMITS.maxTokens),
    deadline: fields.integer("deadline", 1, MAX_ID),
  };
}

export function decodeOfferAnswer(bytes: Uint8Array): OfferAnswer {
  const fields = new FieldReader(decode(bytes), "answer to an offer");
  if (fields.raw("kind") !== "offered") throw fields.refuse("kind", fields.raw("kind"), '"offered"');
  return { kind: "offered", ...(fields.has("error") && { error: wireErrorOf(fields) }) };
}

/** The request id of a message that is otherwise wrong, so that its sender can be told; also where text is not UTF-8. */
export function requestIdOf(bytes: Uint8Array): string | undefined {
  try {
    return new FieldReader(decode(bytes, "replace"), "request").name("requestId");
  } catch {
    return undefined;
  }
}

export function checkGenerateRequest(value: unknown): GenerateRequest {
  const fields = new FieldReader(value, "request", "bad-request");
  if (fields.raw("kind") !== "generate") throw fields.refuse("kind", fields.raw("kind"), '"generate"');
  fields.only(REQUEST_FIELDS);
  const requestId = fields.name("requestId");
  return {
    kind: "generate",
    requestId,
    deployment: fields.text("deployment", NAME),
    prompt: checkPrompt(fields),
    maxTokens: fields.integer("maxTokens", 1, REQUEST_LIMITS.maxTokens),
    sampling: validateSampling(fields.raw("sampling")),
    stop: checkStops(fields),
    ...(fields.has("logprobs") && { logprobs: fields.integer("logprobs", 0, REQUEST_LIMITS.logprobs) }),
    deadline: fields.integer("deadline", 1, MAX_ID),
    ...(fields.has("idleLimitMs") && {
      idleLimitMs: fields.integer("idleLimitMs", REQUEST_LIMITS.idleLimitMs.least, REQUEST_LIMITS.idleLimitMs.most),
    }),
  };
}

function checkStops(fields: FieldReader): readonly string[] {
  if (!fields.has("stop")) return [];
  const { stops, stopCharacters } = REQUEST_LIMITS;
  const list = fields.list("stop", stops);
  const isStop = (text: unknown): text is string =>
    typeof text === "string" && text.length >= 1 && text.length <= stopCharacters;
  if (list.every(isStop)) return list;
  throw fields.refuse(
    "stop",
    list.find((text) => !isStop(text)),
    `strings of 1 to ${stopCharacters} characters`,
  );
}

function checkPrompt(fields: FieldReader): string | readonly number[] {
  const prompt = fields.raw("prompt");
  if (typeof prompt === "string") return fields.text("prompt", REQUEST_LIMITS.promptCharacters);
  if (!Array.isArray(prompt)) throw fields.refuse("prompt", prompt, "text or a list of token ids");
  const ids = fields.list("prompt", REQUEST_LIMITS.promptTokens);
  if (ids.length === 0) throw fields.refuse("prompt", prompt, "at least one token id");
  if (ids.every(isTokenId)) return ids;
  throw fields.refuse(
    "prompt",
    ids.find((id) => !isTokenId(id)),
    `token ids from 0 to ${MAX_TOKEN_ID}`,
  );
}

/** Undefined for what is no log event: anybody can publish to a log's subject, and readers step over it. */
export function readLogEvent(bytes: Uint8Array): LogEvent | undefined {
  try {
    return decodeLogEvent(bytes);
  } catch {
    return undefined;
  }
}

export function decodeLogEvent(bytes: Uint8Array): LogEvent {
  const fields = new FieldReader(decode(bytes), "log event");
  const common = { requestId: fields.name("requestId"), owner: fields.text("owner", NAME) };
  const kind = fields.raw("kind");
  switch (kind) {
    case "tokens":
      return { kind, ...common, ...tokensOf(fields) };
    case "completed": {
      const finishReason = fields.raw("finishReason");
      if (finishReason !== "stop" && finishReason !== "length" && finishReason !== "eos") {
        throw fields.refuse("finishReason", finishReason, "stop, length or eos");
      }
      const reason: FinishReason = finishReason;
      return { kind, ...common, finishReason: reason, text: fields.text("text", MAX_ID, 0), usage: usageOf(fields) };
    }
    case "failed":
      return { kind, ...common, error: wireErrorOf(fields), usage: usageOf(fields) };
    case "cancelled":
      return { kind, ...common, usage: usageOf(fields) };
    default:
      throw fields.refuse("kind", kind, "tokens, completed, failed or cancelled");
  }
}

export function isEnd(event: LogEvent): event is EndEvent {
  return event.kind !== "tokens";
}

export function decodeActivationBatch(bytes: Uint8Array): ActivationBatch {
  const fields = new FieldReader(decode(bytes), "activation batch");
  const kind = fields.raw("kind");
  if (kind !== "activations") throw fields.refuse("kind", kind, '"activations"');
  const hidden = floatRowsOf(fields, "hidden");
  const expertWeights = floatRowsOf(fields, "expertWeights");
  const expertIds = rowsOf(fields, "expertIds");
  if (expertIds.dtype !== "i32") throw fields.refuse("expertIds.dtype", expertIds.dtype, "i32");
  const [numRouted] = expertIds.shape;
  if (numRouted !== hidden.shape[0]) throw fields.refuse("expertIds.shape", numRouted, `${hidden.shape[0]} rows`);
  if (expertWeights.shape.join() !== expertIds.shape.join()) {
    throw fields.refuse("expertWeights.shape", expertWeights.shape.join(), expertIds.shape.join());
  }
  return {
    kind,
    deployment: fields.text("deployment", NAME),
    epoch: within(fields, "epoch"),
    // It becomes part of a subject to answer on.
    attentionId: fields.name("attentionId"),
    ...positionOf(fields),
    deadline: within(fields, "deadline"),
    hidden,
    expertIds,
    expertWeights,
  };
}

export function decodeExpertResult(bytes: Uint8Array): ExpertResult {
  const fields = new FieldReader(decode(bytes), "expert result");
  const common = {
    ...positionOf(fields),
    shard: within(fields, "shard"),
    // It becomes part of the subject that the actor is addressed by.
    expertId: fields.name("expertId"),
  };
  const kind = fields.raw("kind");
  switch (kind) {
    case "result":
      return {
        kind,
        ...common,
        output: floatRowsOf(fields, "output"),
        waitUs: within(fields, "waitUs"),
        computeUs: within(fields, "computeUs"),
      };
    case "refused":
      return { kind, ...common, error: wireErrorOf(fields) };
    default:
      throw fields.refuse("kind", kind, "result or refused");
  }
}

export function decodeExpertNotice(bytes: Uint8Array): ExpertNotice {
  const fields = new FieldReader(decode(bytes), "expert notice");
  const kind = fields.raw("kind");
  if (kind !== "expert") throw fields.refuse("kind", kind, '"expert"');
  const state = fields.raw("state");
  if (state !== "serving" && state !== "leaving") throw fields.refuse("state", state, "serving or leaving");
  return { kind, expertId: fields.name("expertId"), shard: within(fields, "shard"), state };
}

export function decodePlacement(bytes: Uint8Array): Placement {
  const fields = new FieldReader(decode(bytes), "placement");
  const kind = fields.raw("kind");
  if (kind !== "placement") throw fields.refuse("kind", kind, '"placement"');
  return {
    kind,
    epoch: fields.integer("epoch", 0, MAX_ID),
    deployment: fields.text("deployment", NAME),
    modelHash: fields.text("modelHash", 128),
    shards: shardsOf(fields),
    ...sharedExpertsOf(fields),
  };
}

function sharedExpertsOf(fields: FieldReader): Pick<Placement, "sharedExperts"> {
  if (!fields.has("sharedExperts")) return {};
  const sharedExperts = fields.raw("sharedExperts");
  if (sharedExperts !== "attention") throw fields.refuse("sharedExperts", sharedExperts, '"attention", or nothing');
  return { sharedExperts };
}

/** Each expert in one shard at most: in two it would be added twice. */
function shardsOf(fields: FieldReader): number[][] {
  const placed = new Set<number>();
  return fields.list("shards", MAX_EXPERTS).map((experts) => {
    if (!Array.isArray(experts)) throw fields.refuse("shards", experts, "lists of expert ids");
    return experts.map((id: unknown) => {
      if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= MAX_EXPERTS) {
        throw fields.refuse("shards", id, `expert ids from 0 to ${MAX_EXPERTS - 1}`);
      }
      if (placed.has(id)) throw fields.refuse("shards", id, "each expert in one shard");
      placed.add(id);
      return id;
    });
  });
}

/** [numTokens, width] */
function rowsOf(fields: FieldReader, field: string): WireTensor {
  const tensor = checkWireTensor(fields.raw(field), field);
  if (tensor.shape.length !== 2) throw fields.refuse(`${field}.shape`, tensor.shape, "[numTokens, width]");
  return tensor;
}

function floatRowsOf(fields: FieldReader, field: string): WireTensor {
  const tensor = rowsOf(fields, field);
  if (tensor.dtype === "i32") throw fields.refuse(`${field}.dtype`, tensor.dtype, "f32, f16 or int8-row");
  return tensor;
}

function positionOf(fields: FieldReader) {
  return {
    passId: within(fields, "passId"),
    microBatch: within(fields, "microBatch"),
    layer: within(fields, "layer"),
    part: within(fields, "part"),
    attempt: within(fields, "attempt"),
  };
}

function within(fields: FieldReader, field: keyof typeof POSITION_LIMITS): number {
  return fields.integer(field, 0, POSITION_LIMITS[field]);
}
