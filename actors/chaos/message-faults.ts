import { SeededRandom } from "../../infra/chaos/seeded.ts";
import { encode } from "../../infra/codec.ts";
import { RallyError } from "../../infra/errors.ts";
import { readPlacement } from "../protocol/placement.ts";
import { openRequestQueue } from "../protocol/streams.ts";
import { type Subjects, subjectsOf } from "../protocol/subjects.ts";
import { generateRequest } from "../client/generate-request.ts";
import type { FaultOf } from "./faults.ts";
import type { InjectorOptions } from "./injector-options.ts";
import { COME_BACK, COME_BACK_MS } from "./load.ts";

const PATIENCE_MS = 15_000;

/** Faults that are messages: hostile ones, and honest ones once too often. */
export class MessageFaults {
  readonly #options: InjectorOptions;
  readonly #random: SeededRandom;
  readonly #subjects: Subjects;
  /** Request ids under which something was put on the queue that can only be refused. */
  readonly poisoned: string[] = [];
  #numSent = 0;

  constructor(options: InjectorOptions) {
    this.#options = options;
    this.#random = new SeededRandom(options.seed, "messages");
    this.#subjects = subjectsOf(options.target.deployment);
  }

  /** What was done, in words. While the server is away, as another fault may have it, this one waits for its turn. */
  async inject(fault: FaultOf<"message">): Promise<string> {
    const { clock } = this.#options;
    const until = clock.elapsed() + PATIENCE_MS;
    for (;;) {
      try {
        return await (fault.kind === "poison-message" ? this.#poison(fault.numbers.messages) : this.#deliverAgain());
      } catch (thrown) {
        if (!COME_BACK.has(RallyError.from(thrown).code) || clock.elapsed() > until) throw thrown;
      }
      await new Promise<void>((resolve) => void clock.after(COME_BACK_MS, resolve));
    }
  }

  /** Requests that are none go through the queue, as a client's would; the rest goes to everybody's subjects. */
  async #poison(count: number): Promise<string> {
    const { target } = this.#options;
    const { bus, durable } = target.connection;
    const { epoch } = (await readPlacement(durable, this.#subjects)) ?? { epoch: 0 };
    const subjects = subjectsOf(target.deployment, epoch);
    const queue = await openRequestQueue(durable, this.#subjects);
    let numRequests = 0;
    for (let i = 0; i < count; i++) {
      const number = this.#numSent++;
      const requestId = `poison-${this.#options.run}-${number}`;
      const { payload, isRequest } = this.#hostile(requestId);
      if (i % 4 === 0) {
        numRequests++;
        await queue.put(requestId, payload);
        if (isRequest) this.poisoned.push(requestId);
        continue;
      }
      const shards = target.slots.flatMap(({ shard: present }) => (present === undefined ? [] : [present]));
      const shard = this.#random.pick(shards.length > 0 ? shards : [0]);
      const subject = this.#random.pick([
        subjects.ffn(shard),
        subjects.act("nobody", shard),
        subjects.cancel("?"),
        subjects.offer,
        subjects.cancel(`nobody-${number}`),
      ]);
      bus.publish(subject, payload);
    }
    await bus.flush();
    return `${numRequests} requests and ${count - numRequests} other messages that are none`;
  }

  /** `isRequest`: it is readable enough that its sender can be told. */
  #hostile(requestId: string): { readonly payload: Uint8Array; readonly isRequest: boolean } {
    const { deployment } = this.#options.target;
    const random = this.#random;
    const request = { kind: "generate", requestId, deployment };
    switch (random.integer(0, 5)) {
      case 0:
        return noRequest(Uint8Array.from({ length: random.integer(0, 2_000) }, () => random.integer(0, 255)));
      case 1:
        return { payload: encode({ ...request, prompt: [], maxTokens: -1, deadline: 1 }), isRequest: true };
      case 2:
        return { payload: encode({ ...request, prompt: [1e12], maxTokens: 5, deadline: 2 ** 52 }), isRequest: true };
      case 3: {
        const hidden = { dtype: "f32", shape: [2 ** 40], bytes: 1 };
        return noRequest(encode({ kind: "activations", deployment, epoch: 1, hidden }));
      }
      case 4:
        return noRequest(encode({ kind: "result", passId: -1, output: null }));
      default:
        // Cut off in the middle.
        return noRequest(encode({ ...request, prompt: "x".repeat(500) }).slice(0, 300));
    }
  }

  /** Under another message id, so that the server's own check for duplicates does not catch it. */
  async #deliverAgain(): Promise<string> {
    const { target, load, pool } = this.#options;
    const queue = await openRequestQueue(target.connection.durable, this.#subjects);
    let count = 0;
    for (const { requestId, pool: index, deadlineMs } of load.live) {
      const request = pool[index];
      if (request === undefined) continue;
      const message = generateRequest(
        {
          requestId,
          prompt: request.prompt,
          maxTokens: request.maxTokens,
          sampling: request.sampling,
          deadlineMs: Math.max(1, Math.round(deadlineMs - load.elapsedMs)),
        },
        { deployment: target.deployment, now: this.#options.clock.now(), newId: () => requestId },
      );
      await queue.put(`${requestId}-again-${this.#numSent++}`, encode(message));
      count++;
    }
    return `${count} requests delivered again`;
  }
}

function noRequest(payload: Uint8Array): { readonly payload: Uint8Array; readonly isRequest: boolean } {
  return { payload, isRequest: false };
}
