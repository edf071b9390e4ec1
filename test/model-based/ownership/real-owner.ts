import { AttentionActor } from "../../../actors/attention/attention-actor.ts";
import { ACK_WAIT_MS } from "../../../actors/protocol/streams.ts";
import { subjectsOf } from "../../../actors/protocol/subjects.ts";
import type { SimulatedClock } from "../../../infra/clock.ts";
import type { DurableLog, Job, LogEntry } from "../../../infra/durable.ts";
import type { RallyError } from "../../../infra/errors.ts";
import { MemoryBus } from "../../../infra/memory-bus.ts";
import { fakeConfig } from "../../support/fake-model.ts";
import { FakeTokenizer } from "../../support/fake-tokenizer.ts";
import type { Rules } from "./world.ts";

const subjects = subjectsOf("d");

export interface SentAppend {
  readonly payload: Uint8Array;
  readonly options: { readonly id: string; readonly expectedLastSeq: number };
  readonly resolve: (answer: { readonly seq: number; readonly duplicate: boolean }) => void;
  readonly reject: (error: RallyError) => void;
}

/** One attention actor whose every contact with the world waits for the test's word. */
export class RealOwner {
  readonly actor: AttentionActor;
  give: ((jobs: Job[]) => void) | undefined;
  reading: ((entries: LogEntry[]) => void) | undefined;
  sent: SentAppend | undefined;
  /** Once it is told to end. */
  drained: Promise<void> | undefined;
  key = 0;

  constructor(name: string, clock: SimulatedClock, log: DurableLog, rules: Rules) {
    this.actor = new AttentionActor({
      bus: new MemoryBus({ clock }),
      queue: {
        put: async () => undefined,
        depth: async () => 0,
        peek: async () => undefined,
        progress: async () => ({ lastDelivered: 0, numInHand: 0 }),
        discard: async () => undefined,
        pull: () => new Promise((resolve) => (this.give = resolve)),
      },
      log: {
        read: () => new Promise((resolve) => (this.reading = resolve)),
        append: (_, payload, options) =>
          new Promise((resolve, reject) => (this.sent = { payload, options, resolve, reject })),
        follow: (subject, handler) => log.follow(subject, handler),
        purge: (subject) => log.purge(subject),
      },
      clock,
      subjects,
      deployment: "d",
      attentionId: name,
      config: fakeConfig,
      tokenizer: new FakeTokenizer(),
      engine: { admit: ({ key }) => void (this.key = key), release: () => undefined },
      maxSequences: 8,
      ackWaitMs: ACK_WAIT_MS,
      appendsPerSecond: Infinity,
      maxLostOwners: rules.maxLostOwners,
      warn: () => undefined,
    });
    this.actor.start();
  }
}
