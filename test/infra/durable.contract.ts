import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Durable, DurableLog, Job, LogEntry, QueueOptions, WorkQueue } from "../../infra/durable.ts";
import { RallyError } from "../../infra/errors.ts";

/** One store that several processes share, and that a suite may take away and bring back. */
export interface DurableHarness {
  /** One process's view of the store. */
  connect(): Promise<Durable>;
  /** Lets this much time pass for the store. */
  wait(ms: number): Promise<void>;
  interrupt(): Promise<void>;
  restore(): Promise<void>;
  close(): Promise<void>;
}

const text = (payload: Uint8Array): string => Buffer.from(payload).toString();
const bytes = (value: string): Uint8Array => Buffer.from(value);

async function failure(promise: Promise<unknown>): Promise<RallyError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof RallyError) return error;
    throw error;
  }
  throw new Error("expected a RallyError");
}

/** Gathers what a follower is handed. */
class Gathered<T> {
  readonly items: T[] = [];
  #wanted = Infinity;
  #resolve: (() => void) | undefined;

  readonly take = (item: T): void => {
    this.items.push(item);
    if (this.items.length >= this.#wanted) this.#resolve?.();
  };

  async reach(count: number): Promise<T[]> {
    this.#wanted = count;
    if (this.items.length < count) await new Promise<void>((resolve) => (this.#resolve = resolve));
    return this.items;
  }
}

async function pullAndEnd(queue: WorkQueue): Promise<string[]> {
  const jobs = await queue.pull(5, 800);
  for (const job of jobs) await job.done();
  return jobs.map(({ payload }) => text(payload));
}

let unique = 0;

export function durableContract(name: string, open: () => Promise<DurableHarness>): void {
  describe(`durable contract: ${name}`, () => {
    let harness: DurableHarness;
    let a: Durable;
    let b: Durable;

    beforeEach(async () => {
      harness = await open();
      a = await harness.connect();
      b = await harness.connect();
    });
    afterEach(() => harness.close());

    describe("work queue", () => {
      let options: QueueOptions;
      let putter: WorkQueue;
      let worker: WorkQueue;

      beforeEach(async () => {
        const id = `q${unique++}`;
        options = { name: id, subject: `test.${id}`, maxJobs: 4, maxJobBytes: 1000, ackWaitMs: 1000 };
        [putter, worker] = await Promise.all([a.queue(options), b.queue(options)]);
      });

      it("delivers jobs in order, each until it is done", async () => {
        for (const job of ["1", "2", "3"]) await putter.put(job, bytes(job));
        const jobs = await worker.pull(10, 1000);
        expect(jobs.map(({ payload }) => text(payload))).toEqual(["1", "2", "3"]);
        expect(jobs.map(({ delivery }) => delivery)).toEqual([1, 1, 1]);
        expect(jobs.map(({ id }) => id)).toEqual(["1", "2", "3"]);
        expect(await worker.depth()).toBe(3);
        for (const job of jobs) await job.done();
        expect(await putter.depth()).toBe(0);
        await harness.wait(1500);
        expect(await worker.pull(10, 0)).toEqual([]);
      });

      it("a cancelled pull ends at once and takes nothing with it", async () => {
        const cancel = new AbortController();
        const pull = worker.pull(1, 60_000, cancel.signal);
        await harness.wait(50);
        cancel.abort();
        expect(await pull).toEqual([]);
        await putter.put("1", bytes("1"));
        expect(await worker.pull(1, 60_000, cancel.signal)).toEqual([]);
        const [job] = await worker.pull(1, 1000);
        expect(job?.delivery).toBe(1);
        await job?.done();
        // One signal for many pulls leaves nothing behind in it.
        const other = new AbortController();
        for (let i = 0; i < 12; i++) await worker.pull(1, 0, other.signal);
      });

      it("pulls no more than asked for", async () => {
        for (const job of ["1", "2", "3"]) await putter.put(job, bytes(job));
        const first = await worker.pull(2, 1000);
        expect(first.map(({ payload }) => text(payload))).toEqual(["1", "2"]);
        const second = await putter.pull(2, 1000);
        expect(second.map(({ payload }) => text(payload))).toEqual(["3"]);
      });

      it("lets anybody look at the jobs that are not done, in order", async () => {
        for (const job of ["1", "2", "3"]) await putter.put(job, bytes(job));
        const look = async () => {
          const seen: string[] = [];
          for (let seq = 0; ;) {
            const job = await putter.peek(seq);
            if (job === undefined) return seen;
            expect(job.seq).toBeGreaterThan(seq);
            seq = job.seq;
            seen.push(text(job.payload));
          }
        };
        expect(await look()).toEqual(["1", "2", "3"]);
        const [first, second] = await worker.pull(2, 1000);
        expect([first, second].map((job) => job?.delivery)).toEqual([1, 1]);
        expect(await look()).toEqual(["1", "2", "3"]);
        await second?.done();
        expect(await look()).toEqual(["1", "3"]);
        await first?.done();
        expect(await look()).toEqual(["3"]);
      });

      it("tells how far it has come, and lets go of a job that nobody wants any more", async () => {
        for (const job of ["1", "2", "3", "4"]) await putter.put(job, bytes(job));
        expect(await putter.progress()).toEqual({ lastDelivered: 0, numInHand: 0 });
        const [first, second] = await worker.pull(2, 1000);
        const { seq: third } = (await putter.peek(2)) ?? { seq: 0 };
        expect(await putter.progress()).toEqual({ lastDelivered: third - 1, numInHand: 2 });
        await first?.done();
        await putter.discard(third);
        await putter.discard(third);
        expect(await putter.progress()).toMatchObject({ numInHand: 1 });
        const [last] = await worker.pull(2, 1000);
        expect(text(last?.payload ?? bytes(""))).toBe("4");
        await second?.done();
        await last?.done();
        expect(await worker.pull(1, 0)).toEqual([]);
        expect(await putter.depth()).toBe(0);
      });

      it("a pull that waits gets the next job as it comes, and only one waiting pull gets it", async () => {
        const pulls = Promise.all([pullAndEnd(worker), pullAndEnd(putter)]);
        await harness.wait(50);
        await putter.put("late", bytes("late"));
        await harness.wait(1500);
        expect((await pulls).flat()).toEqual(["late"]);
      });

      it("an empty pull ends after its wait", async () => {
        const pull = worker.pull(1, 200);
        await harness.wait(400);
        expect(await pull).toEqual([]);
      });

      it("delivers a job again when its worker was silent for the ack wait", async () => {
        await putter.put("1", bytes("job"));
        const [first] = await worker.pull(1, 1000);
        await harness.wait(1100);
        const [second] = await worker.pull(1, 0);
        expect(second).toMatchObject({ delivery: 2 });
        expect(text(second?.payload ?? bytes("none"))).toBe("job");
        // The slow worker may still end the job.
        await first?.done();
        await second?.done();
        expect(await worker.depth()).toBe(0);
      });

      it("`working` keeps a job from being delivered again", async () => {
        await putter.put("1", bytes("job"));
        const [job] = await worker.pull(1, 1000);
        for (let i = 0; i < 3; i++) {
          await harness.wait(700);
          job?.working();
        }
        expect(await putter.pull(1, 0)).toEqual([]);
        await job?.done();
      });

      it("a released job comes back at once, or after its delay", async () => {
        await putter.put("1", bytes("job"));
        const [first] = await worker.pull(1, 1000);
        const next = putter.pull(1, 2000);
        first?.release();
        await harness.wait(50);
        const [second] = await next;
        expect(second?.delivery).toBe(2);
        second?.release(400);
        await harness.wait(100);
        expect(await worker.pull(1, 0)).toEqual([]);
        await harness.wait(500);
        const [third] = await worker.pull(1, 0);
        expect(third?.delivery).toBe(3);
        await third?.done();
      });

      it("refuses at once when full, counting jobs being worked on, and takes more when one is done", async () => {
        for (const job of ["1", "2", "3", "4"]) await putter.put(job, bytes(job));
        const [job] = await worker.pull(1, 1000);
        const error = await failure(putter.put("5", bytes("5")));
        expect(error.code).toBe("overloaded");
        expect(error.fields["retryAfterMs"]).toBeGreaterThan(0);
        await job?.done();
        await putter.put("5", bytes("5"));
        expect(await putter.depth()).toBe(4);
      });

      it("the same id is one job, even when that is done", async () => {
        await putter.put("same", bytes("1"));
        await worker.put("same", bytes("1"));
        expect(await putter.depth()).toBe(1);
        const [job] = await worker.pull(1, 1000);
        await job?.done();
        await putter.put("same", bytes("1"));
        expect(await putter.depth()).toBe(0);
      });

      it("takes a job of maxJobBytes and refuses a larger one", async () => {
        await putter.put("a".repeat(64), new Uint8Array(1000));
        const error = await failure(putter.put("b", new Uint8Array(1001)));
        expect(error).toMatchObject({ code: "payload-too-large", fields: { found: 1001, limit: 1000 } });
      });

      it("keeps jobs over an outage, and goes on pulling and acknowledging", async () => {
        await putter.put("1", bytes("1"));
        await putter.put("2", bytes("2"));
        const [one] = await worker.pull(1, 1000);
        await one?.done();
        // Long enough for the server to have noted it on disk.
        await harness.wait(1000);
        await harness.interrupt();
        const refused = await failure(putter.put("3", bytes("3")));
        expect(["server-unavailable", "store-unavailable", "timeout"]).toContain(refused.code);
        await harness.restore();
        const [two] = await worker.pull(1, 5000);
        expect(text(two?.payload ?? bytes("none"))).toBe("2");
        await two?.done();
        await putter.put("3", bytes("3"));
        expect(await putter.depth()).toBe(1);
      });

      it("has all its room back after an outage", async () => {
        for (const job of ["1", "2", "3", "4"]) await putter.put(job, bytes(job));
        const [first, second, third] = await worker.pull(4, 1000);
        // One is left: a queue that gets empty notes that at once.
        for (const job of [first, second, third]) await job?.done();
        await harness.wait(1000);
        await harness.interrupt();
        await harness.restore();
        const left = worker.pull(1, 3000);
        await harness.wait(3000);
        for (const job of await left) await job.done();
        for (const job of ["5", "6", "7", "8"]) await putter.put(job, bytes(job));
        expect((await failure(putter.put("9", bytes("9")))).code).toBe("overloaded");
        const jobs = await worker.pull(4, 1000);
        expect(jobs.map(({ payload }) => text(payload))).toEqual(["5", "6", "7", "8"]);
      });

      it("an outage loses no job that was in hand, whichever were done before it", async () => {
        for (const job of ["1", "2", "3", "4"]) await putter.put(job, bytes(job));
        const [first, , third] = await worker.pull(4, 1000);
        await first?.done();
        await third?.done();
        // Long enough for the server to have noted it on disk.
        await harness.wait(1000);
        await harness.interrupt();
        await harness.restore();
        const comeBack = async () => {
          const back = new Map<string, Job>();
          for (let tries = 0; tries < 20 && back.size < 2; tries++) {
            for (const job of await worker.pull(4, 0)) back.set(text(job.payload), job);
            await harness.wait(300);
          }
          return back;
        };
        // Their worker is lost with the server, and so is the next one.
        expect([...(await comeBack()).keys()].toSorted()).toEqual(["2", "4"]);
        const again = await comeBack();
        expect([...again.keys()].toSorted()).toEqual(["2", "4"]);
        for (const job of again.values()) await job.done();
        expect(await putter.depth()).toBe(0);
      });

      it("opening it with other limits changes them", async () => {
        await a.queue({ ...options, maxJobs: 1 });
        await putter.put("1", bytes("1"));
        expect((await failure(putter.put("2", bytes("2")))).code).toBe("overloaded");
      });
    });

    describe("log", () => {
      let log: DurableLog;
      let other: DurableLog;
      let subject: string;
      const append = async (writer: DurableLog, value: string, expectedLastSeq: number): Promise<number> =>
        (await writer.append(subject, bytes(value), { id: `${subject}:${value}`, expectedLastSeq })).seq;

      beforeEach(async () => {
        const id = `l${unique++}`;
        const options = { name: id, subjects: `test.${id}.*`, maxAgeMs: 3_600_000, maxBytes: 10_000_000 };
        [log, other] = await Promise.all([a.log(options), b.log(options)]);
        subject = `test.${id}.one`;
      });

      it("reads back what was appended, per subject, in order", async () => {
        let seq = 0;
        for (let i = 0; i < 20; i++) {
          seq = await append(log, String(i), seq);
          await other.append(`${subject}2`, bytes("noise"), {
            id: `noise${subject}${i}`,
            expectedLastSeq: await last(other),
          });
        }
        const entries = await other.read(subject);
        expect(entries.map(({ payload }) => text(payload))).toEqual(Array.from({ length: 20 }, (_, i) => String(i)));
        expect(entries.at(-1)?.seq).toBe(seq);
        expect(await other.read(`${subject}3`)).toEqual([]);
      });

      const last = async (from: DurableLog): Promise<number> => (await from.read(`${subject}2`)).at(-1)?.seq ?? 0;

      it("refuses an append that does not follow the last entry, and keeps nothing of it", async () => {
        const first = await append(log, "mine", 0);
        expect((await failure(append(other, "stale", 0))).code).toBe("stale-owner");
        const second = await append(other, "theirs", first);
        expect((await failure(append(log, "mine too", first))).code).toBe("stale-owner");
        expect((await failure(append(log, "ahead", second + 5))).code).toBe("stale-owner");
        expect((await log.read(subject)).map(({ payload }) => text(payload))).toEqual(["mine", "theirs"]);
      });

      it("of two owners racing for the same place exactly one wins", async () => {
        let seq = 0;
        for (let round = 0; round < 10; round++) {
          const results = await Promise.allSettled([append(log, `a${round}`, seq), append(other, `b${round}`, seq)]);
          const won = results.filter((result) => result.status === "fulfilled");
          expect(won).toHaveLength(1);
          seq = won[0]?.value ?? -1;
        }
        expect(await log.read(subject)).toHaveLength(10);
      });

      it("a repeated id answers the seq of the first, whatever came after", async () => {
        const first = await append(log, "once", 0);
        const second = await append(log, "twice", first);
        expect(await log.append(subject, bytes("once"), { id: `${subject}:once`, expectedLastSeq: 0 })).toEqual({
          seq: first,
          duplicate: true,
        });
        expect(await other.append(subject, bytes("x"), { id: `${subject}:twice`, expectedLastSeq: first })).toEqual({
          seq: second,
          duplicate: true,
        });
        expect(await log.read(subject)).toHaveLength(2);
      });

      it("follows from the beginning into the present", async () => {
        let seq = 0;
        for (let i = 0; i < 5; i++) seq = await append(log, String(i), seq);
        const gathered = new Gathered<LogEntry>();
        const copies = (entry: LogEntry): void =>
          gathered.take({ seq: entry.seq, payload: new Uint8Array(entry.payload) });
        const subscription = await other.follow(subject, copies);
        for (let i = 5; i < 30; i++) seq = await append(log, String(i), seq);
        const entries = await gathered.reach(30);
        expect(entries.map(({ payload }) => text(payload))).toEqual(Array.from({ length: 30 }, (_, i) => String(i)));
        expect(entries.at(-1)?.seq).toBe(seq);
        subscription.unsubscribe();
        await append(log, "unseen", seq);
        await harness.wait(50);
        expect(gathered.items).toHaveLength(30);
      });

      it("a follower never sees a refused append", async () => {
        const gathered = new Gathered<LogEntry>();
        await other.follow(subject, gathered.take);
        const first = await append(log, "1", 0);
        await failure(append(other, "refused", 0));
        await append(log, "2", first);
        await gathered.reach(2);
        expect(gathered.items.map(({ payload }) => text(payload))).toEqual(["1", "2"]);
      });

      it("followers over an outage see each entry once, in order", async () => {
        const gathered = new Gathered<LogEntry>();
        await other.follow(subject, gathered.take);
        let seq = 0;
        for (let i = 0; i < 10; i++) seq = await append(log, String(i), seq);
        await gathered.reach(10);
        await harness.interrupt();
        expect(["server-unavailable", "store-unavailable", "timeout"]).toContain(
          (await failure(append(log, "10", seq))).code,
        );
        await harness.restore();
        for (let i = 10; i < 20; i++) seq = await appendSoon(String(i), seq);
        await gathered.reach(20);
        expect(gathered.items.map(({ payload }) => text(payload))).toEqual(
          Array.from({ length: 20 }, (_, i) => String(i)),
        );
      });

      /** As an owner does: repeats with the same id until the store answers. */
      const appendSoon = async (value: string, expectedLastSeq: number): Promise<number> => {
        for (let attempt = 0; ; attempt++) {
          try {
            return await append(log, value, expectedLastSeq);
          } catch (error) {
            if (attempt === 100 || RallyError.from(error).code === "stale-owner") throw error;
            await harness.wait(50);
          }
        }
      };

      it("purges one subject", async () => {
        await append(log, "gone", 0);
        const kept = await log.append(`${subject}2`, bytes("kept"), { id: `k${subject}`, expectedLastSeq: 0 });
        await log.purge(subject);
        expect(await log.read(subject)).toEqual([]);
        expect((await log.read(`${subject}2`)).map(({ seq }) => seq)).toEqual([kept.seq]);
        expect(await append(log, "anew", 0)).toBeGreaterThan(kept.seq);
      });

      it("refuses when full, and says so", async () => {
        const id = `l${unique++}`;
        const small = await a.log({ name: id, subjects: `test.${id}.*`, maxAgeMs: 3_600_000, maxBytes: 20_000 });
        let seq = 0;
        const fill = async (): Promise<never> => {
          for (let i = 0; ; i++) {
            seq = (await small.append(`test.${id}.x`, new Uint8Array(1000), { id: `${id}${i}`, expectedLastSeq: seq }))
              .seq;
          }
        };
        const error = await failure(fill());
        expect(error.code).toBe("store-unavailable");
        expect(error.fields["retryAfterMs"]).toBeGreaterThan(0);
        const entries = await small.read(`test.${id}.x`);
        expect(entries.length).toBeGreaterThan(10);
        expect(entries.at(-1)?.seq).toBe(seq);
      });

      it("forgets entries older than maxAgeMs", async () => {
        const id = `l${unique++}`;
        const brief = await a.log({ name: id, subjects: `test.${id}.*`, maxAgeMs: 500, maxBytes: 1_000_000 });
        await brief.append(`test.${id}.x`, bytes("old"), { id: `${id}old`, expectedLastSeq: 0 });
        await harness.wait(1500);
        expect(await brief.read(`test.${id}.x`)).toEqual([]);
        const { duplicate } = await brief.append(`test.${id}.x`, bytes("new"), { id: `${id}new`, expectedLastSeq: 0 });
        expect(duplicate).toBe(false);
      });
    });

    describe("key-value", () => {
      it("gets what was put, with growing revisions", async () => {
        const bucket = `b${unique++}`;
        const [mine, theirs] = await Promise.all([a.keyValue(bucket), b.keyValue(bucket)]);
        expect(await mine.get("placement")).toBeUndefined();
        const first = await mine.put("placement", bytes("1"));
        const second = await theirs.put("placement", bytes("2"));
        expect(second).toBeGreaterThan(first);
        const entry = await mine.get("placement");
        expect(entry?.revision).toBe(second);
        expect(text(entry?.value ?? bytes("none"))).toBe("2");
        expect(await mine.get("other")).toBeUndefined();
      });

      it("puts only on the expected revision", async () => {
        const kv = await a.keyValue(`b${unique++}`);
        const first = await kv.put("k", bytes("1"), 0);
        expect((await failure(kv.put("k", bytes("x"), 0))).code).toBe("stale-owner");
        const second = await kv.put("k", bytes("2"), first);
        expect((await failure(kv.put("k", bytes("x"), first))).code).toBe("stale-owner");
        expect((await kv.get("k"))?.revision).toBe(second);
      });

      it("watches from the present value on, over an outage", async () => {
        const bucket = `b${unique++}`;
        const [mine, theirs] = await Promise.all([a.keyValue(bucket), b.keyValue(bucket)]);
        await mine.put("k", bytes("old"));
        await mine.put("k", bytes("0"));
        await mine.put("unrelated", bytes("x"));
        const seen = new Gathered<string>();
        const subscription = await theirs.watch("k", ({ value }) => seen.take(text(value)));
        expect(await seen.reach(1)).toEqual(["0"]);
        await mine.put("k", bytes("1"));
        await seen.reach(2);
        await harness.interrupt();
        await harness.restore();
        for (let attempt = 0; attempt < 100; attempt++) {
          try {
            await mine.put("k", bytes("2"));
            break;
          } catch {
            await harness.wait(50);
          }
        }
        expect(await seen.reach(3)).toEqual(["0", "1", "2"]);
        subscription.unsubscribe();
        await mine.put("k", bytes("3"));
        await harness.wait(50);
        expect(seen.items).toHaveLength(3);
      });

      it("watches a key that does not exist yet", async () => {
        const kv = await a.keyValue(`b${unique++}`);
        const seen = new Gathered<string>();
        await kv.watch("k", ({ value }) => seen.take(text(value)));
        await kv.put("k", bytes("first"));
        expect(await seen.reach(1)).toEqual(["first"]);
      });
    });

    it("removes a queue, a log or a bucket with all it holds, or nothing", async () => {
      const id = `r${unique++}`;
      const queue = { name: `${id}q`, subject: `test.${id}.q`, maxJobs: 4, maxJobBytes: 1000, ackWaitMs: 1000 };
      const log = { name: `${id}l`, subjects: `test.${id}.log.*`, maxAgeMs: 60_000, maxBytes: 100_000 };
      await (await a.queue(queue)).put("x", bytes("x"));
      await (await a.log(log)).append(`test.${id}.log.s`, bytes("x"), { id: `${id}x`, expectedLastSeq: 0 });
      await (await a.keyValue(`${id}kv`)).put("k", bytes("x"));
      const all = [
        ["queue", `${id}q`],
        ["log", `${id}l`],
        ["keyValue", `${id}kv`],
      ] as const;
      for (const [kind, what] of [...all, ...all]) await a.remove(kind, what);
      expect(await (await a.queue(queue)).depth()).toBe(0);
      expect(await (await a.log(log)).read(`test.${id}.log.s`)).toEqual([]);
      expect(await (await a.keyValue(`${id}kv`)).get("k")).toBeUndefined();
    });

    it("a removed queue answers a pull with an error, not with an endless nothing", async () => {
      const id = `g${unique++}`;
      const queue = await a.queue({ name: id, subject: `test.${id}`, maxJobs: 4, maxJobBytes: 1000, ackWaitMs: 1000 });
      await b.remove("queue", id);
      expect((await failure(queue.pull(1, 1000))).code).toBe("store-unavailable");
      expect((await failure(queue.put("x", bytes("x")))).code).toBe("store-unavailable");
    });

    it("many processes may open the same store at once", async () => {
      const views = await Promise.all(Array.from({ length: 6 }, () => harness.connect()));
      for (let round = 0; round < 5; round++) {
        const id = `m${unique++}`;
        const queue = { name: `${id}q`, subject: `test.${id}.q`, maxJobs: 4, maxJobBytes: 1000, ackWaitMs: 1000 };
        const logs = { name: `${id}l`, subjects: `test.${id}.log.*`, maxAgeMs: 60_000, maxBytes: 100_000 };
        await Promise.all(views.flatMap((view) => [view.queue(queue), view.log(logs), view.keyValue(`${id}kv`)]));
        const opened = await Promise.all(views.map((view) => view.queue(queue)));
        await opened[0]?.put("x", bytes("x"));
        expect(await opened[3]?.depth()).toBe(1);
      }
    });
  });
}
