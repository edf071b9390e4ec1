import { beforeEach, describe, expect, it } from "vitest";
import { QueueWatch, type WaitingRequest } from "../../../actors/attention/queue-watch.ts";
import { generateRequest } from "../../../actors/client/generate-request.ts";
import { SimulatedClock } from "../../../infra/clock.ts";
import { encode } from "../../../infra/codec.ts";
import type { WorkQueue } from "../../../infra/durable.ts";
import { MemoryQueue } from "../../../infra/memory-queue.ts";
import { quiet } from "../../support/turns.ts";

const options = { name: "q", subject: "q", maxJobs: 100, maxJobBytes: 10_000, ackWaitMs: 60_000 };

describe("QueueWatch", () => {
  let clock: SimulatedClock;
  let queue: WorkQueue;
  let isFull: boolean;
  /** Whether a request that is called hopeless is ended, or somebody else's by now. */
  let isEnded: boolean;
  let hopeless: { readonly requestId: string; readonly etaMs: number }[];
  let passed: string[];
  let watch: QueueWatch;

  beforeEach(() => {
    clock = new SimulatedClock();
    queue = new MemoryQueue(options, clock, () => undefined);
    [isFull, isEnded, hopeless, passed] = [true, true, [], []];
    watch = new QueueWatch({
      queue,
      clock,
      isFull: () => isFull,
      // 10 ms per token, two workers: one in hand each.
      etaMs: (ahead, own, numInHand) => (10 * ahead) / Math.max(1, numInHand) + 10 * own,
      passed: ({ requestId }) => void passed.push(requestId),
      hopeless: async ({ requestId }: WaitingRequest, etaMs: number) => {
        hopeless.push({ requestId, etaMs });
        return isEnded;
      },
    });
  });

  async function put(requestId: string, maxTokens: number, deadlineMs: number): Promise<void> {
    const context = { deployment: "d", now: clock.now(), newId: () => requestId };
    await queue.put(requestId, encode(generateRequest({ prompt: "x", maxTokens, deadlineMs }, context)));
  }

  async function look(): Promise<void> {
    watch.watch();
    await quiet();
    clock.advance(100);
    await quiet();
  }

  it("tells what will not be done in time at once, and takes it off the queue; the rest stays in its order", async () => {
    await put("first", 100, 2_000);
    await put("second", 100, 2_500);
    // 200 tokens before its own 100: 3 s.
    await put("third", 100, 2_900);
    await put("fourth", 10, 2_200);
    await look();
    expect(hopeless).toEqual([{ requestId: "third", etaMs: 3_000 }]);
    expect(await queue.depth()).toBe(3);
    const jobs = await queue.pull(9, 0);
    expect(jobs).toHaveLength(3);
  });

  it("counts only what waits, and all that work on it", async () => {
    for (const id of ["a", "b"]) await put(id, 100, 60_000);
    expect(await queue.pull(2, 0)).toHaveLength(2);
    await put("third", 100, 60_000);
    // 100 tokens before it, for two workers: 0.5 s, and 1 s for its own.
    await put("fourth", 100, 1_700);
    await put("fifth", 100, 1_990);
    await look();
    expect(hopeless).toEqual([{ requestId: "fifth", etaMs: 2_000 }]);
  });

  it("leaves alone what somebody else has begun in the meantime", async () => {
    isEnded = false;
    await put("r", 100, 500);
    await look();
    expect(hopeless).toHaveLength(1);
    expect(await queue.depth()).toBe(1);
    await look();
    expect(hopeless).toHaveLength(1);
  });

  it("says when a deadline has passed in the queue, and does not call that hopeless", async () => {
    await put("r", 1, 400);
    await look();
    clock.advance(400);
    await look();
    expect([hopeless, passed]).toEqual([[], []]);
    clock.advance(300);
    await look();
    expect([hopeless, passed]).toEqual([[], ["r"]]);
  });

  it("knows what one that comes now has to wait for: what waits, and what was told to come since", async () => {
    expect(watch.load).toBeUndefined();
    await put("a", 100, 60_000);
    expect(await queue.pull(1, 0)).toHaveLength(1);
    await put("b", 70, 60_000);
    await put("hopeless", 100, 500);
    await look();
    expect(watch.load).toEqual({ tokensAhead: 70, tokensPromised: 0, numInHand: 1 });
    watch.promise(30);
    watch.promise(5);
    expect(watch.load).toMatchObject({ tokensAhead: 70, tokensPromised: 35 });
    await put("c", 30, 60_000);
    await look();
    expect(watch.load).toEqual({ tokensAhead: 100, tokensPromised: 0, numInHand: 1 });
    isFull = false;
    for (let i = 0; i < 11; i++) await look();
    expect(watch.load).toBeUndefined();
  });

  it("does nothing while there is a place, nor once it is closed", async () => {
    isFull = false;
    await put("r", 100, 500);
    await look();
    isFull = true;
    watch.close();
    await look();
    expect(hopeless).toEqual([]);
    expect(clock.pending).toBe(0);
  });
});
