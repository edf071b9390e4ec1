import { encode } from "../../infra/codec.ts";
import { HeapScratch, type ScratchMemory } from "../../infra/scratch-memory.ts";
import { decodeActivationBatch, decodeExpertResult } from "./decode.ts";
import { POSITION_LIMITS } from "./limits.ts";
import { type LayoutRules, MessageLayout } from "./message-layout.ts";
import type { ActivationBatch, ExpertResult } from "./messages.ts";
import { CHECK_KEY, UNSEALED } from "./seal.ts";

/** What crosses once per layer, micro-batch and shard, with a memory of how the last ones lay. */

type Answer = ExpertResult & { readonly kind: "result" };

const ACTIVATIONS: LayoutRules = {
  texts: ["kind", "deployment", "attentionId"],
  numbers: limitsOf("epoch", "passId", "microBatch", "layer", "part", "attempt", "deadline"),
  tensors: ["hidden", "expertIds", "expertWeights"],
};

const ANSWER: LayoutRules = {
  texts: ["kind", "expertId"],
  numbers: limitsOf("shard", "passId", "microBatch", "layer", "part", "attempt", "waitUs", "computeUs"),
  tensors: ["output"],
};

/** Layouts that are kept: as many as a micro-batch has sizes, times the peers that send. */
const MAX_LAYOUTS = 1024;

export class BatchEncoder {
  readonly #layouts = new Map<number, MessageLayout<ActivationBatch>>();
  readonly #scratch: ScratchMemory;

  constructor(scratch: ScratchMemory = new HeapScratch()) {
    this.#scratch = scratch;
  }

  /** Unsealed; valid until the next call. */
  encode(batch: ActivationBatch): Uint8Array {
    const layout = layoutFor(this.#layouts, batch.hidden.shape[0] ?? 0, batch, ACTIVATIONS);
    return written(layout, batch, this.#scratch);
  }
}

export class AnswerEncoder {
  readonly #layouts = new Map<number, MessageLayout<Answer>>();
  readonly #scratch: ScratchMemory;

  constructor(scratch: ScratchMemory = new HeapScratch()) {
    this.#scratch = scratch;
  }

  /** Unsealed; valid until the next call. */
  encode(result: ExpertResult): Uint8Array {
    if (result.kind === "refused") return encode({ ...result, [CHECK_KEY]: UNSEALED });
    const layout = layoutFor(this.#layouts, result.output.shape[0] ?? 0, result, ANSWER);
    return written(layout, result, this.#scratch);
  }
}

/** As `decodeActivationBatch`, `decodeExpertResult`. */
export class BatchDecoder {
  readonly #layouts = new KnownLayouts<ActivationBatch>(ACTIVATIONS);

  decode(bytes: Uint8Array): ActivationBatch {
    const known = this.#layouts.read(bytes);
    if (known !== undefined) return known;
    const batch = decodeActivationBatch(bytes);
    this.#layouts.learn(batch, bytes);
    return batch;
  }
}

export class ResultDecoder {
  readonly #layouts = new KnownLayouts<Answer>(ANSWER);

  decode(bytes: Uint8Array): ExpertResult {
    const known = this.#layouts.read(bytes);
    if (known !== undefined) return known;
    const result = decodeExpertResult(bytes);
    if (result.kind === "result") this.#layouts.learn(result, bytes);
    return result;
  }
}

/** Found by the number of bytes, which is the same for all senders with names of the same length. */
class KnownLayouts<T extends object> {
  readonly #rules: LayoutRules;
  readonly #bySize = new Map<number, MessageLayout<T>[]>();
  #count = 0;

  constructor(rules: LayoutRules) {
    this.#rules = rules;
  }

  read(bytes: Uint8Array): T | undefined {
    for (const layout of this.#bySize.get(bytes.length) ?? []) {
      const message = layout.read(bytes);
      if (message !== undefined) return message;
    }
    return undefined;
  }

  /** Of a message that was found good. Other senders may lay theirs out in another way. */
  learn(message: T, bytes: Uint8Array): void {
    const layout = new MessageLayout(message, this.#rules);
    if (layout.read(bytes) === undefined) return;
    // Far more than there are: somebody sends one of each kind.
    if (this.#count === MAX_LAYOUTS) {
      this.#bySize.clear();
      this.#count = 0;
    }
    this.#count++;
    const others = this.#bySize.get(layout.size);
    if (others === undefined) this.#bySize.set(layout.size, [layout]);
    else others.push(layout);
  }
}

function layoutFor<T extends object>(
  layouts: Map<number, MessageLayout<T>>,
  numRows: number,
  message: T,
  rules: LayoutRules,
): MessageLayout<T> {
  const known = layouts.get(numRows);
  if (known?.fits(message) === true) return known;
  const layout = new MessageLayout(message, rules);
  if (layouts.size >= MAX_LAYOUTS) layouts.clear();
  layouts.set(numRows, layout);
  return layout;
}

function written<T extends object>(layout: MessageLayout<T>, message: T, scratch: ScratchMemory): Uint8Array {
  const bytes = scratch.take(layout.size);
  layout.write(message, bytes);
  return bytes;
}

function limitsOf(...names: readonly (keyof typeof POSITION_LIMITS)[]): Readonly<Record<string, number>> {
  return Object.fromEntries(names.map((name) => [name, POSITION_LIMITS[name]]));
}
