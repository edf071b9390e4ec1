import { randomUUID } from "node:crypto";
import { crc32 } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { decodeLogEvent, decodePlacement } from "../../actors/protocol/decode.ts";
import { readPlacement } from "../../actors/protocol/placement.ts";
import { openRequestQueue } from "../../actors/protocol/streams.ts";
import { type Subjects, subjectsOf } from "../../actors/protocol/subjects.ts";
import { encode } from "../../infra/codec.ts";
import type { KeyValue, WorkQueue } from "../../infra/durable.ts";
import { connectNats, type NatsConnection } from "../../infra/nats-connect.ts";
import { startDeployment, type TestDeployment } from "../support/deployment.ts";
import { FUZZ_SEED, FUZZ_TIMEOUT_MS, NUM_FUZZ_MESSAGES } from "../support/fuzz-run.ts";
import { MESSAGES } from "../support/messages.ts";
import { FuzzRandom, mutateBytes, mutateMessage } from "../support/mutations.ts";
import { mixedRequests, tokensOf } from "../support/requests.ts";

const DEPLOYMENT = "default";
/** Each takes a while when it is warned of: a fifth of what the actors get in one process. */
const NUM_MESSAGES = NUM_FUZZ_MESSAGES / 5;
const WARM_UP = NUM_MESSAGES / 4;
const PER_FLUSH = 100;
/** A full queue refuses everybody, as it must; this is not about that. */
const MOST_JOBS = 200;
/** Buffers of new sizes, warnings on their way, what the collector has not yet come to. */
const MOST_GROWTH_MIB = 96;

describe(`${NUM_MESSAGES} mutated and random messages through nats-server, seed ${FUZZ_SEED}`, () => {
  let deployment: TestDeployment;
  let nats: NatsConnection;
  let subjects: Subjects;
  let queue: WorkQueue;
  let bucket: KeyValue;
  let epoch = 0;

  beforeAll(async () => {
    deployment = await startDeployment();
    nats = await connectNats(deployment.supervisor.nats.settings, { name: "fuzz" });
    const placement = await readPlacement(nats.durable, subjectsOf(DEPLOYMENT));
    epoch = placement?.epoch ?? 0;
    subjects = subjectsOf(DEPLOYMENT, epoch);
    queue = await openRequestQueue(nats.durable, subjects);
    bucket = await nats.durable.keyValue(subjects.placementBucket);
  }, 180_000);
  afterAll(async () => {
    await nats?.close();
    await deployment?.stop();
  });

  it(
    "no process dies or grows, and the requests of others get their tokens",
    async () => {
      const requests = mixedRequests(8);
      const expected = await tokensOf(deployment.client, requests, 8);
      const { pids } = deployment.supervisor;
      const random = new FuzzRandom(FUZZ_SEED);
      const [attention] = (await deployment.supervisor.stats()).filter(({ role }) => role === "attention");
      const good = await bucket.get("current");
      const over = new AbortController();
      const serving = (async () => {
        let numServed = 0;
        for (; !over.signal.aborted; numServed += requests.length) {
          expect(await tokensOf(deployment.client, requests, 4)).toEqual(expected);
        }
        return numServed;
      })();
      let rssBefore: readonly number[] = [];
      try {
        for (let number = 0; number < NUM_MESSAGES; number++) {
          if (number === WARM_UP) rssBefore = await rss();
          await throwOne(random, attention?.id ?? "");
          if (number % PER_FLUSH !== 0) continue;
          await nats.bus.flush();
          while ((await queue.depth()) > MOST_JOBS) await new Promise((resolve) => setTimeout(resolve, 50));
        }
      } finally {
        over.abort();
        if (good !== undefined) await bucket.put("current", good.value);
      }
      expect(await serving).toBeGreaterThan(0);
      expect(await tokensOf(deployment.client, requests, 8)).toEqual(expected);
      expect(deployment.supervisor.pids).toEqual(pids);
      const growth = (await rss()).map((bytes, i) => Math.round((bytes - (rssBefore[i] ?? 0)) / 2 ** 20));
      if (NUM_FUZZ_MESSAGES > 100_000) process.stderr.write(`growth of the processes in MiB: ${growth.join(", ")}\n`);
      expect(Math.max(...growth)).toBeLessThan(MOST_GROWTH_MIB);
      await expectNothingHeld();
    },
    FUZZ_TIMEOUT_MS,
  );

  async function rss(): Promise<number[]> {
    return (await deployment.supervisor.stats()).map(({ rssBytes }) => rssBytes);
  }

  async function throwOne(random: FuzzRandom, attentionId: string): Promise<void> {
    const any = () => mutateMessage(encode(random.pick(Object.values(MESSAGES))), random);
    const publish = (subject: string, payload: Uint8Array) => nats.bus.publish(subject, payload);
    switch (random.below(8)) {
      case 0:
        return publish(
          subjects.request,
          mutateMessage(encode({ ...MESSAGES.request, deployment: DEPLOYMENT }), random),
        );
      case 1:
        return publish(subjects.tokens(random.pick([randomUUID(), "victim"])), foreignEntry(random));
      case 2:
        return publish(subjects.cancel(random.pick([randomUUID(), "x".repeat(65), "$"])), any());
      case 3:
        return publish(subjects.ffn(random.below(2)), random.below(2) === 0 ? doorbell(random) : any());
      case 4:
        return publish(subjects.act(attentionId, random.below(3)), random.below(2) === 0 ? doorbell(random) : any());
      case 5:
        return publish(
          random.pick([subjects.experts, subjects.probe(), subjects.follow("victim"), subjects.offer]),
          any(),
        );
      case 6:
        return publish(`$SRV.${random.pick(["PING", "INFO", "STATS"])}`, any());
      default:
        // One that can be read is believed: only its deployment's own actors may be able to write there.
        if (random.below(20) === 0) await bucket.put(random.pick(["current", "next"]), unreadablePlacement(random));
    }
  }

  async function expectNothingHeld(): Promise<void> {
    for (let tries = 0; (await queue.depth()) > 0 && tries < 100; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    expect(await queue.depth()).toBe(0);
    for (const role of await deployment.supervisor.stats()) {
      expect(role.badMessages).toBeGreaterThan(NUM_MESSAGES / 50);
      if (role.role === "attention") {
        const { activeSequences, waitingSequences, kvTokens, pendingDispatches, creditsInUse } = role;
        const held = [activeSequences, waitingSequences, kvTokens, pendingDispatches, creditsInUse];
        expect(held).toEqual([0, 0, 0, 0, 0]);
      } else expect(role.waiting).toBe(0);
    }
  }
});

/** In msgpack, 0xc1 starts nothing. */
function doorbell(random: FuzzRandom): Uint8Array {
  const bytes = new Uint8Array(68);
  bytes.set(Buffer.from("\xc1shared\n", "latin1"));
  const view = new DataView(bytes.buffer, 24);
  const numbers = [0, 1, 3, 16, 4096, 100_000, 2 ** 31, 2 ** 53 - 1, process.pid, process.ppid];
  for (let field = 0; field < 5; field++) view.setFloat64(8 * field, random.pick(numbers), true);
  if (random.below(10) > 0) new DataView(bytes.buffer, 64).setUint32(0, crc32(bytes.subarray(8, 64)));
  return random.below(2) === 0 ? bytes : mutateBytes(bytes, random);
}

/** Nothing that a request's owner could have written. */
function foreignEntry(random: FuzzRandom): Uint8Array {
  for (;;) {
    const payload = mutateMessage(encode(random.pick([MESSAGES.tokens, MESSAGES.completed])), random);
    try {
      decodeLogEvent(payload);
    } catch {
      return payload;
    }
  }
}

function unreadablePlacement(random: FuzzRandom): Uint8Array {
  for (;;) {
    const payload = mutateMessage(encode(MESSAGES.placement), random);
    try {
      decodePlacement(payload);
    } catch {
      return payload;
    }
  }
}
