import { decodeActivationBatch } from "../../actors/protocol/decode.ts";
import type { ActivationBatch, ExpertNotice, ExpertResult } from "../../actors/protocol/messages.ts";
import { encodedSealed } from "./sealed.ts";
import type { Subjects } from "../../actors/protocol/subjects.ts";
import type { Bus, BusHandler, Subscription } from "../../infra/bus.ts";
import { encode } from "../../infra/codec.ts";
import { RallyError, type ErrorCode, type ErrorFields } from "../../infra/errors.ts";
import { fromWireF32, toWireF32 } from "../../infra/tensor.ts";

/** An expert actor under a test's control: keeps what it gets, answers when and what the test says. */
export class ScriptedExpert {
  readonly received: { readonly batch: ActivationBatch; readonly reply: string }[] = [];
  readonly #bus: Bus;
  readonly #shard: number;
  readonly #id: string;
  readonly #subscriptions: readonly Subscription[];
  /** Probes that were not answered. */
  readonly probes: string[] = [];
  answersProbes = false;

  constructor(bus: Bus, subjects: Subjects, shard: number, id = `expert-${shard}`) {
    this.#bus = bus;
    this.#shard = shard;
    this.#id = id;
    const receive: BusHandler = ({ payload, reply }) => {
      // Tensors are views of a payload that is only lent.
      this.received.push({ batch: decodeActivationBatch(Uint8Array.from(payload)), reply: reply ?? "" });
    };
    this.#subscriptions = [
      bus.subscribe(subjects.ffn(shard), receive, { queue: "shard" }),
      bus.subscribe(subjects.ffn(shard, id), receive),
      bus.subscribe(subjects.probe(id), ({ reply = "" }) => {
        if (this.answersProbes) this.say("serving", reply);
        else this.probes.push(reply);
      }),
    ];
  }

  /** As SIGKILL seen from the server. */
  stop(): void {
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
  }

  say(state: ExpertNotice["state"], to: string): void {
    const notice: ExpertNotice = { kind: "expert", expertId: this.#id, shard: this.#shard, state };
    this.#bus.publish(to, encode(notice));
  }

  /** (shard + 1) × hidden + `offset`, for the message received as number `index`. */
  answer(index: number, offset = 0, change: Partial<ExpertResult & { readonly kind: "result" }> = {}): void {
    this.#bus.publish(this.#at(index).reply, encodedSealed({ ...this.#result(index, offset), ...change }));
  }

  /** The same with one bit of its last row flipped. */
  answerDamaged(index: number): void {
    const message = encodedSealed(this.#result(index, 0));
    message[message.length - 30] = (message.at(-30) ?? 0) ^ 4;
    this.#bus.publish(this.#at(index).reply, message);
  }

  #result(index: number, offset: number): ExpertResult {
    const { batch } = this.#at(index);
    const shape = batch.hidden.shape;
    const hidden = fromWireF32(batch.hidden, shape);
    const output = hidden.map((x) => (this.#shard + 1) * x + offset);
    const result = { kind: "result", waitUs: 1000, computeUs: 2000, output: toWireF32(output, shape, "f32") } as const;
    return { ...this.#header(batch), ...result };
  }

  refuse(index: number, code: ErrorCode, fields: ErrorFields = {}): void {
    const error = new RallyError(code, `refused: ${code}`, fields).toWire();
    const refusal = { ...this.#header(this.#at(index).batch), kind: "refused", error };
    this.#bus.publish(this.#at(index).reply, encodedSealed(refusal));
  }

  sendRaw(index: number, payload: Uint8Array): void {
    this.#bus.publish(this.#at(index).reply, payload);
  }

  #header({ passId, microBatch, layer, part, attempt }: ActivationBatch) {
    return { passId, microBatch, layer, part, attempt, shard: this.#shard, expertId: this.#id };
  }

  #at(index: number) {
    const message = this.received.at(index);
    if (message === undefined) throw new Error(`shard ${this.#shard} has received ${this.received.length} messages`);
    return message;
  }
}
