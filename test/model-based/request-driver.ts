import { expect } from "vitest";
import type { GenerateRequest, TokenEvent } from "../../actors/protocol/messages.ts";
import { subjectsOf } from "../../actors/protocol/subjects.ts";
import { encode } from "../../infra/codec.ts";
import { RallyError } from "../../infra/errors.ts";
import { AttentionBench, ended, request, type RunningActor, START } from "../support/attention-bench.ts";
import { fakeConfig } from "../support/fake-model.ts";
import { FakeTokenizer } from "../support/fake-tokenizer.ts";
import { referenceTokens } from "../support/reference-tokens.ts";
import { quiet } from "../support/turns.ts";

export interface Circumstances {
  /** `held`: no append is stored before the end. `unanswered`: each is stored, but its sender hears nothing the first time. */
  readonly store: "fine" | "held" | "unanswered";
  /** How an owner loses its request: somebody else writes to the log, or it gives the request back. */
  readonly fence: "log" | "drain";
}

const SUBJECT = subjectsOf("d").tokens("r");
const REQUEST: GenerateRequest = request("r", { maxTokens: 6, deadline: START + 60_000 });
const OUTPUT: readonly number[] = await referenceTokens({
  key: 1,
  tokenIds: [fakeConfig.bosTokenId ?? 0, ...new FakeTokenizer().encode(String(REQUEST.prompt))],
  numPromptTokens: String(REQUEST.prompt).length + 1,
  maxTokens: REQUEST.maxTokens,
  sampling: REQUEST.sampling,
  logprobs: undefined,
});

/** One request at a real attention actor with a real engine; each event of the request machine made to happen to it. */
export class RequestDriver {
  readonly #bench: AttentionBench;
  readonly #actor: RunningActor;
  readonly #circumstances: Circumstances;
  /** Whether the queue gives the actor anything. */
  #isServed = false;
  #serve: () => void = () => undefined;
  #openStore: () => void = () => undefined;
  #heir: RunningActor | undefined;
  #drained: Promise<void> | undefined;
  #copies = 0;

  private constructor(bench: AttentionBench, circumstances: Circumstances) {
    this.#bench = bench;
    this.#circumstances = circumstances;
    this.#actor = bench.actor("a", {
      budget: 0,
      queue: {
        put: (id, payload) => bench.queue.put(id, payload),
        depth: () => bench.queue.depth(),
        peek: (afterSeq) => bench.queue.peek(afterSeq),
        progress: () => bench.queue.progress(),
        discard: (seq) => bench.queue.discard(seq),
        pull: async (max, waitMs) => {
          for (;;) {
            while (!this.#isServed) await new Promise<void>((resolve) => (this.#serve = resolve));
            const jobs = await bench.queue.pull(max, waitMs);
            if (this.#isServed) return jobs;
            for (const job of jobs) job.release();
          }
        },
      },
    });
    const storeOpen = new Promise<void>((resolve) => (this.#openStore = resolve));
    const { store } = circumstances;
    if (store === "held") this.#actor.log.fates = Array.from({ length: 50 }, () => storeOpen);
    if (store === "unanswered") {
      this.#actor.log.fates = Array.from({ length: 50 }, (_, i) => (i % 2 === 0 ? "unanswered" : "fine"));
    }
  }

  /** In the state `queued`. */
  static async open(circumstances: Circumstances): Promise<RequestDriver> {
    const driver = new RequestDriver(await AttentionBench.open(), circumstances);
    await driver.#bench.put(REQUEST);
    return driver;
  }

  async event(type: string, state: string, next: string | undefined): Promise<void> {
    switch (type) {
      case "admit":
        await this.#admit(state, next);
        break;
      case "firstToken":
        await this.#token(state, false);
        break;
      case "finish":
        // Of a request whose tokens are all in the log, the owner writes the ending at once.
        if (state !== "prefilling") await this.#token(state, true);
        break;
      case "fail":
        await this.#fail(state);
        break;
      case "cancel":
        this.#bench.cancel("r");
        // Nobody owns it: whoever hears the cancel ends it after a while.
        if (state === "queued") await this.#bench.advance(600);
        break;
      case "fence":
        await this.#fence(state);
        break;
      default:
        throw new Error(`unknown event ${type}`);
    }
    await quiet(type === "finish" ? 80 : 8);
    if (this.#circumstances.store === "unanswered") await this.#bench.advance(400);
  }

  async expectState(state: string): Promise<void> {
    const isOwned = state === "prefilling" || state === "decoding";
    const isHeld = this.#circumstances.store === "held";
    // An ending that is not in the log yet keeps the request in its owner's hands.
    if (isOwned || !isHeld) expect(this.#actor.actor.counts.owned).toBe(isOwned ? 1 : 0);
    expect(this.#actor.engine.counts.activeSequences).toBe(isOwned ? 1 : 0);
    const { ids, ends } = await this.#bench.story("r");
    if (isHeld) return;
    expect(ids).toEqual(OUTPUT.slice(0, ids.length));
    if (state === "queued" || state === "prefilling") expect(ids).toEqual([]);
    if (state === "decoding") expect(ids.length).toBeGreaterThan(0);
    const isEnded = state === "completed" || state === "failed" || state === "cancelled";
    expect(ends.map(({ kind }) => kind)).toEqual(isEnded ? [state] : []);
  }

  /** Lets whatever is left go its way: one ending, and nothing of the request anywhere. */
  async finish(state: string): Promise<void> {
    const bench = this.#bench;
    this.#openStore();
    this.#openQueue();
    this.#actor.go();
    this.#heir ??= bench.actor("heir");
    this.#heir.go();
    await ended(bench, ["r"], 10_000);
    await bench.advance(3000);
    const { ids, ends } = await bench.story("r");
    expect(ids).toEqual(OUTPUT.slice(0, ids.length));
    expect(ends).toHaveLength(1);
    const [end] = ends;
    if (end?.kind === "completed") expect(ids).toEqual(OUTPUT);
    // An ending that was still held back when its owner gave the request back is the heir's to write.
    const isHeirs = this.#circumstances.store === "held" && this.#drained !== undefined;
    if (!isHeirs && ["completed", "failed", "cancelled"].includes(state)) expect(end?.kind).toBe(state);
    expect(await bench.queue.depth()).toBe(0);
    await this.#drained;
    await bench.close();
    for (const { actor, engine } of bench.actors) {
      expect(actor.counts.owned).toBe(0);
      expect(engine.counts).toMatchObject({ activeSequences: 0, kvTokens: 0, underWay: false });
    }
    expect(bench.clock.pending).toBe(0);
  }

  #openQueue(): void {
    this.#isServed = true;
    this.#serve();
  }

  async #admit(state: string, next: string | undefined): Promise<void> {
    if (state === "lost") {
      this.#heir ??= this.#bench.actor("heir", { budget: 0 });
      return;
    }
    if (state !== "queued") {
      // The queue brings it again, as it does when an owner was silent, or when a client has sent it twice.
      await this.#bench.put(encode(REQUEST), `copy ${this.#copies++}`);
      return;
    }
    if (next === "finish") {
      await this.#append({ index: 0, ids: OUTPUT });
      // Of what the owner writes, the claim.
      if (this.#circumstances.store === "held") this.#actor.log.fates.unshift("fine");
    }
    this.#openQueue();
  }

  async #token(state: string, isLast: boolean): Promise<void> {
    if (state === "prefilling" || state === "decoding") return this.#actor.go(isLast ? Infinity : 1);
    // The engine was a step ahead, or is one for a request that it was never given.
    const [key = 1] = this.#actor.admitted;
    const { ids } = await this.#bench.story("r");
    const finish = isLast ? { finish: "length" as const } : {};
    this.#actor.actor.tokens([{ key, index: ids.length, id: 5, ...finish }]);
  }

  async #fail(state: string): Promise<void> {
    if (state === "queued") {
      await this.#bench.advance(REQUEST.deadline - START, 10_000);
      this.#openQueue();
      return;
    }
    const [key = 1] = this.#actor.admitted;
    this.#actor.actor.failed(key, new RallyError("session-failed", "the graph broke"));
    this.#actor.engine.release(key);
  }

  async #fence(state: string): Promise<void> {
    if (this.#circumstances.fence === "drain" && state !== "queued") {
      this.#drained ??= this.#actor.actor.drain(0);
      await this.#bench.advance(100);
    } else if (state === "queued") {
      // Somebody else claims between our reading the log and our claim.
      await this.#append({ index: 0, ids: [] });
      let storeClaim = () => {};
      this.#actor.log.fates = [new Promise<void>((resolve) => (storeClaim = resolve))];
      this.#openQueue();
      await quiet(8);
      await this.#append({ index: 0, ids: [] });
      this.#isServed = false;
      storeClaim();
    } else if (state === "prefilling" || state === "decoding") {
      await this.#append({ index: (await this.#bench.story("r")).ids.length, ids: [] });
      this.#isServed = false;
      this.#actor.go(1);
    }
  }

  /** As another owner writes. */
  async #append({ index, ids }: Pick<TokenEvent, "index" | "ids">): Promise<void> {
    const event = { kind: "tokens", requestId: "r", owner: "x", index, ids, texts: ids.map(() => "") };
    const last = (await this.#bench.log.read(SUBJECT)).at(-1)?.seq ?? 0;
    await this.#bench.log.append(SUBJECT, encode(event), { id: `x ${last}`, expectedLastSeq: last });
  }
}
