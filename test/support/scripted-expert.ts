import { decodeActivationBatch } from "../../actors/protocol/decode.ts";
import type { ActivationBatch, ExpertResult } from "../../actors/protocol/messages.ts";
import type { Subjects } from "../../actors/protocol/subjects.ts";
import type { Bus, Subscription } from "../../infra/bus.ts";
import { encode } from "../../infra/codec.ts";
import { RallyError, type ErrorCode, type ErrorFields } from "../../infra/errors.ts";
import { fromWireF32, toWireF32 } from "../../infra/tensor.ts";

/** An expert actor under a test's control: keeps what it gets, answers when and what the test says. */
export class ScriptedExpert {
  readonly received: { readonly batch: ActivationBatch; readonly reply: string }[] = [];
  readonly #bus: Bus;
  readonly #shard: number;
  readonly #subscription: Subscription;

  constructor(bus: Bus, subjects: Subjects, shard: number) {
    this.#bus = bus;
    this.#shard = shard;
    this.#subscription = bus.subscribe(subjects.ffn(shard), ({ payload, reply }) => {
      // Tensors are views of a payload that is only lent.
      this.received.push({ batch: decodeActivationBatch(Uint8Array.from(payload)), reply: reply ?? "" });
    });
  }

  stop(): void {
    this.#subscription.unsubscribe();
  }

  /** (shard + 1) × hidden + `offset`, for the message received as number `index`. */
  answer(index: number, offset = 0, change: Partial<ExpertResult & { readonly kind: "result" }> = {}): void {
    const { batch } = this.#at(index);
    const shape = batch.hidden.shape;
    const hidden = fromWireF32(batch.hidden, shape);
    const output = hidden.map((x) => (this.#shard + 1) * x + offset);
    const result = { kind: "result", output: toWireF32(output, shape, "f32"), waitUs: 1000, computeUs: 2000 } as const;
    this.#send(index, { ...this.#header(batch), ...result, ...change });
  }

  refuse(index: number, code: ErrorCode, fields: ErrorFields = {}): void {
    const error = new RallyError(code, `refused: ${code}`, fields).toWire();
    this.#send(index, { ...this.#header(this.#at(index).batch), kind: "refused", error });
  }

  sendRaw(index: number, payload: Uint8Array): void {
    this.#bus.publish(this.#at(index).reply, payload);
  }

  #send(index: number, result: ExpertResult): void {
    this.#bus.publish(this.#at(index).reply, encode(result));
  }

  #header({ passId, microBatch, layer, part, attempt }: ActivationBatch) {
    return { passId, microBatch, layer, part, attempt, shard: this.#shard, expertId: `expert-${this.#shard}` };
  }

  #at(index: number) {
    const message = this.received.at(index);
    if (message === undefined) throw new Error(`shard ${this.#shard} has received ${this.received.length} messages`);
    return message;
  }
}
