import { endUnserved } from "../../../actors/attention/ending.ts";
import { openTokenLog } from "../../../actors/protocol/streams.ts";
import { subjectsOf } from "../../../actors/protocol/subjects.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import { encode } from "../../../infra/codec.ts";
import type { DurableLog } from "../../../infra/durable.ts";
import { RallyError } from "../../../infra/errors.ts";
import { MemoryDurable } from "../../../infra/memory-durable.ts";
import { request } from "../../support/attention-bench.ts";
import { quiet } from "../../support/turns.ts";
import { RealOwner, type SentAppend } from "./real-owner.ts";
import { FIRST_TOKEN_ID, wordsOf } from "./view.ts";
import { type Action, keyOfAppend, OWNERS, type Rules, type State } from "./world.ts";

const subjects = subjectsOf("d");
const SUBJECT = subjects.tokens("r");

interface QueuedJob {
  holder: "nobody" | "done" | number;
  deliveries: number;
}

/** The model's actions done by real attention actors to a real log; after each, both must look alike. */
export class RealOwners {
  readonly #rules: Rules;
  readonly #clock = new SimulatedClock();
  readonly #log: DurableLog;
  readonly #jobs: readonly QueuedJob[];
  readonly #owners: RealOwner[];
  /** By the model's name for them. */
  readonly #orphans = new Map<string, Pick<SentAppend, "payload" | "options">>();
  readonly #payload: Uint8Array;

  private constructor(rules: Rules, log: DurableLog, clock: SimulatedClock) {
    this.#rules = rules;
    this.#log = log;
    this.#clock = clock;
    this.#jobs = Array.from({ length: rules.numJobs }, () => ({ holder: "nobody", deliveries: 0 }));
    this.#owners = OWNERS.map((name) => new RealOwner(name, clock, log, rules));
    this.#payload = encode(request("r", { maxTokens: rules.numTokens, deadline: Number.MAX_SAFE_INTEGER }));
  }

  static async open(rules: Rules): Promise<RealOwners> {
    const clock = new SimulatedClock();
    return new RealOwners(rules, await openTokenLog(new MemoryDurable({ clock }), subjects), clock);
  }

  /** Does what led from `before` to `after`. */
  async apply(action: Action, before: State): Promise<void> {
    switch (action.do) {
      case "pull":
        this.#pull(action.owner, action.job);
        break;
      case "read":
        this.#owner(action.owner).reading?.(await this.#log.read(SUBJECT));
        this.#owner(action.owner).reading = undefined;
        break;
      case "generate":
        this.#generate(action.owner, before);
        break;
      case "fail":
        this.#owner(action.owner).actor.failed(this.#owner(action.owner).key, new RallyError("session-failed", "test"));
        break;
      case "store":
        await this.#store(this.#owner(action.owner).sent);
        break;
      case "answer":
        await this.#answer(this.#owner(action.owner));
        await this.#left(action.owner, before);
        break;
      case "claimTimeout":
        this.#orphan(action.owner, before);
        this.#owner(action.owner).sent?.reject(new RallyError("timeout", "no answer"));
        this.#owner(action.owner).sent = undefined;
        break;
      case "giveBack":
        await this.#giveBack(action.owner, before);
        break;
      case "leaveTimeout":
        this.#orphan(action.owner, before);
        this.#owner(action.owner).sent?.reject(new RallyError("timeout", "no answer"));
        await this.#left(action.owner, before);
        break;
      case "crash":
        this.#orphan(action.owner, before);
        this.#startAgain(action.owner);
        break;
      case "storeOrphan": {
        const orphan = before.orphans[action.orphan];
        await this.#store(orphan && this.#orphans.get(keyOfAppend(orphan)));
        break;
      }
      case "expire":
      case "redeliver":
        this.#job(action.job).holder = "nobody";
        break;
      case "stranger":
        await this.#stranger(before);
        break;
      case "forget":
        throw new Error("no clock moves here");
    }
    await quiet(2);
  }

  /** Both sides' view in the same words. */
  async view(): Promise<unknown> {
    const entries = await this.#log.read(SUBJECT);
    return {
      log: entries.map(({ payload }) => wordsOf(payload)),
      jobs: this.#jobs.map(({ holder }) => holder),
      owners: this.#owners.map(({ actor, reading, sent }) => ({
        owned: actor.counts.owned,
        reading: reading !== undefined,
        sent: sent && [...wordsOf(sent.payload), sent.options.expectedLastSeq],
      })),
    };
  }

  async close(): Promise<void> {
    for (const { actor, give, drained: leaving } of this.#owners) {
      const drained = leaving ?? actor.drain(0);
      give?.([]);
      this.#clock.advance(0);
      // One that is reading or claiming waits for ever: its process is gone.
      await Promise.race([drained, quiet(5)]);
    }
  }

  #pull(owner: number, number: number): void {
    const job = this.#job(number);
    job.holder = owner;
    const delivery = ++job.deliveries;
    const { give } = this.#owner(owner);
    if (give === undefined) throw new Error(`owner ${owner} does not pull`);
    this.#owner(owner).give = undefined;
    give([
      {
        id: undefined,
        payload: this.#payload,
        delivery,
        working: () => undefined,
        done: async () => void (job.holder = "done"),
        release: () => {
          if (job.holder === owner && job.deliveries === delivery) job.holder = "nobody";
        },
      },
    ]);
  }

  #generate(number: number, before: State): void {
    const { index, gathered, sent } = before.owners[number] as State["owners"][number];
    const next = index + (sent?.count ?? 0) + gathered;
    const isLast = next + 1 === this.#rules.numTokens;
    const { actor, key } = this.#owner(number);
    actor.tokens([{ key, index: next, id: FIRST_TOKEN_ID + next, ...(isLast && { finish: "length" }) }]);
  }

  async #store(append: Pick<SentAppend, "payload" | "options"> | undefined): Promise<void> {
    if (append === undefined) throw new Error("nothing is on its way");
    await this.#log.append(SUBJECT, append.payload, append.options);
  }

  /** What the store says to a repeat of the append. */
  async #answer(owner: RealOwner): Promise<void> {
    const { sent } = owner;
    if (sent === undefined) throw new Error("nothing was sent");
    owner.sent = undefined;
    await this.#log.append(SUBJECT, sent.payload, sent.options).then(sent.resolve, (thrown: unknown) => {
      sent.reject(RallyError.from(thrown));
    });
  }

  async #giveBack(number: number, before: State): Promise<void> {
    this.#orphan(number, before);
    const { actor, give } = this.#owner(number);
    this.#owner(number).drained = actor.drain(0);
    this.#clock.advance(0);
    give?.([]);
    if (before.owners[number]?.sent !== null) await this.#end(number);
  }

  /** Nothing keeps an owner any more that has left its word, or could not. */
  async #left(number: number, before: State): Promise<void> {
    if (before.owners[number]?.phase === "leaving") await this.#end(number);
  }

  async #end(number: number): Promise<void> {
    await this.#owner(number).drained;
    this.#startAgain(number);
  }

  async #stranger(before: State): Promise<void> {
    const entries = await this.#log.read(SUBJECT);
    const captured: Pick<SentAppend, "payload" | "options">[] = [];
    const log: DurableLog = {
      read: async () => entries,
      append: async (_, payload, options) => {
        captured.push({ payload, options });
        return { seq: 0, duplicate: false };
      },
      follow: (subject, handler) => this.#log.follow(subject, handler),
      purge: (subject) => this.#log.purge(subject),
    };
    await endUnserved({ log, subjects, attentionId: "stranger", requestId: "r" }, { kind: "cancelled" }, "always");
    const [append] = captured;
    if (append === undefined) throw new Error("the stranger wrote nothing");
    const [kind, , count] = wordsOf(append.payload);
    if (kind !== "cancelled") throw new Error(`the stranger wrote ${kind}`);
    const common = { kind, writer: "stranger", index: 0, count, id: "end stranger" } as const;
    this.#orphans.set(keyOfAppend({ ...common, expected: before.log.length }), append);
  }

  #orphan(number: number, before: State): void {
    const { sent } = before.owners[number] as State["owners"][number];
    const real = this.#owner(number).sent;
    if (sent !== null && real !== undefined) this.#orphans.set(keyOfAppend(sent), real);
  }

  #startAgain(number: number): void {
    this.#owners[number] = new RealOwner(OWNERS[number] as string, this.#clock, this.#log, this.#rules);
  }

  #owner(number: number): RealOwner {
    return this.#owners[number] as RealOwner;
  }

  #job(number: number): QueuedJob {
    return this.#jobs[number] as QueuedJob;
  }
}
