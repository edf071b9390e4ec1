import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { NatsProxy } from "../../infra/chaos/nats-proxy.ts";
import type { FlowDirection } from "../../infra/chaos/network-fault.ts";
import { SeededRandom } from "../../infra/chaos/seeded.ts";
import { systemClock } from "../../infra/clock.ts";
import { DUPLICATE_WINDOW_MS } from "../../infra/durable-limits.ts";
import type { Durable, DurableLog, LogEntry } from "../../infra/durable.ts";
import { RallyError } from "../../infra/errors.ts";
import { unlessDamaged } from "../../infra/nats-answer.ts";
import { CHECK_HEADER, checkOf, ID_HEADER } from "../../infra/nats-checksum.ts";
import { NatsDurable } from "../../infra/nats-durable.ts";
import { JetStream } from "../../infra/nats-jetstream.ts";
import type { NatsLink } from "../../infra/nats-link.ts";
import { openWireLink } from "../../infra/nats-wire-link.ts";
import { startTestServer, type TestServer } from "../support/nats.ts";

const text = (payload: Uint8Array): string => Buffer.from(payload).toString();
const bytes = (value: string): Uint8Array => Buffer.from(value.repeat(20));
const numbers = (count: number): string[] => Array.from({ length: count }, (_, i) => `entry ${i};`);
const whole = (values: readonly string[]): string[] => values.map((value) => value.repeat(20));
/** What is handed out, without the damaged ones, which are empty. */
const said = (entries: readonly LogEntry[]): string[] =>
  entries.filter(({ payload }) => payload.length > 0).map(({ payload }) => text(payload));

describe("bytes that change between us and JetStream", () => {
  let server: TestServer;
  let round = 0;
  let proxies: NatsProxy[];
  let links: NatsLink[];
  let direct: Durable;

  beforeAll(async () => {
    server = await startTestServer();
  });
  afterAll(() => server.stop());

  beforeEach(async () => {
    round++;
    proxies = [];
    links = [];
    direct = (await over(server.url)).durable;
  });
  afterEach(async () => {
    for (const link of links) await link.close();
    for (const proxy of proxies) await proxy.close();
  });

  async function over(url: string): Promise<{ durable: Durable; link: NatsLink }> {
    const link = await openWireLink({ url }, "test");
    links.push(link);
    return { durable: new NatsDurable(link), link };
  }

  interface Damage {
    readonly direction?: FlowDirection;
    readonly probability: number;
    /** Of subjects. */
    readonly prefix?: string;
  }

  /** A way to the server on which bytes change from when it is told to. */
  async function damagedWay({ direction, probability, prefix = "" }: Damage) {
    const { host, port } = { host: "127.0.0.1", port: Number(new URL(server.url).port) };
    const proxy = await NatsProxy.listen({
      clock: systemClock,
      // Two ways that damage alike would undo each other's damage.
      random: new SeededRandom(round, `damage ${proxies.length}`),
      upstream: () => ({ host, port }),
    });
    proxies.push(proxy);
    const way = await over(`nats://127.0.0.1:${proxy.port}`);
    const concerns = (subject: string) => subject.startsWith(prefix);
    return { ...way, begin: () => proxy.inject({ kind: "corrupt", direction, probability, concerns }) };
  }

  const logOptions = () => ({ name: `L${round}`, subjects: `log${round}.*`, maxAgeMs: 3_600_000, maxBytes: 1 << 24 });
  const subject = () => `log${round}.one`;

  /** As owners append: again under the same id until it is answered; the next one goes on from what is in the log. */
  async function appendAll(log: DurableLog, values: readonly string[]): Promise<{ readonly numFenced: number }> {
    let expectedLastSeq = 0;
    let owner = 0;
    for (let i = 0; i < values.length;) {
      try {
        const id = `${subject()}:${i}:${owner}`;
        ({ seq: expectedLastSeq } = await log.append(subject(), bytes(values[i] ?? ""), { id, expectedLastSeq }));
        i++;
      } catch (thrown) {
        const { code } = RallyError.from(thrown);
        if (code !== "stale-owner" && code !== "corrupted") throw thrown;
        if (code === "corrupted") continue;
        // The answer to the last append has named another place.
        const entries = await log.read(subject());
        i = said(entries).length;
        expectedLastSeq = entries.at(-1)?.seq ?? 0;
        owner++;
      }
    }
    return { numFenced: owner };
  }

  it("an entry that is stored damaged is stored again, before anything follows it", async () => {
    const way = await damagedWay({ direction: "to-server", probability: 0.3, prefix: "log" });
    const [writer, reader] = [await way.durable.log(logOptions()), await direct.log(logOptions())];
    const followed: LogEntry[] = [];
    await reader.follow(subject(), (entry) => void followed.push(entry));
    way.begin();
    // Damaged numbers fence nobody out.
    expect(await appendAll(writer, numbers(100))).toEqual({ numFenced: 0 });
    const entries = await reader.read(subject());
    expect(said(entries)).toEqual(whole(numbers(100)));
    expect(entries.length).toBeGreaterThan(110);
    await expect.poll(() => followed).toEqual(entries);
  });

  it("the writer is not misled when only its own echo is damaged", async () => {
    const way = await damagedWay({ direction: "from-server", probability: 1, prefix: "log" });
    const [writer, reader] = [await way.durable.log(logOptions()), await direct.log(logOptions())];
    way.begin();
    await appendAll(writer, numbers(20));
    const entries = await reader.read(subject());
    expect(entries.map(({ payload }) => text(payload))).toEqual(whole(numbers(20)));
  });

  it("a repeated append finds out that the first was stored damaged", async () => {
    const { link, durable } = await over(server.url);
    const log = await durable.log(logOptions());
    const store = (id: string, expected: number) =>
      link.publish(subject(), bytes("b"), undefined, [
        [ID_HEADER, id],
        [CHECK_HEADER, checkOf(bytes("a"))],
        ["Nats-Expected-Last-Subject-Sequence", String(expected)],
      ]);
    // Two copies that were damaged alike, of an append whose answer was lost.
    store("a", 0);
    await link.flush();
    const [first] = await log.read(subject());
    store(`a~${first?.seq}`, first?.seq ?? 0);
    await link.flush();
    const { seq } = await log.append(subject(), bytes("a"), { id: "a", expectedLastSeq: 0 });
    expect((await log.append(subject(), bytes("a"), { id: "a", expectedLastSeq: 0 })).seq).toBe(seq);
    const entries = await log.read(subject());
    expect(entries.map(({ payload }) => text(payload))).toEqual(["", "", ...whole(["a"])]);
    expect(entries.at(-1)).toMatchObject({ seq });
  });

  it("a reader reads again what was damaged on its way out", async () => {
    const way = await damagedWay({ direction: "from-server", probability: 0.3, prefix: "log" });
    const [writer, reader] = [await direct.log(logOptions()), await way.durable.log(logOptions())];
    const followed: LogEntry[] = [];
    way.begin();
    await reader.follow(subject(), (entry) => void followed.push(entry));
    await appendAll(writer, numbers(60));
    const expected = whole(numbers(60));
    await expect.poll(() => followed.map(({ payload }) => text(payload)), { timeout: 10_000 }).toEqual(expected);
    expect((await reader.read(subject())).map(({ payload }) => text(payload))).toEqual(expected);
  });

  it("a place in the log that was damaged on its way back fences nobody out either", async () => {
    const way = await damagedWay({ direction: "from-server", probability: 0.3, prefix: "_INBOX" });
    const [writer, reader] = [await way.durable.log(logOptions()), await direct.log(logOptions())];
    way.begin();
    expect(await appendAll(writer, numbers(150))).toEqual({ numFenced: 0 });
    expect((await reader.read(subject())).map(({ payload }) => text(payload))).toEqual(whole(numbers(150)));
  });

  it("but what another writer of this process has put there does", async () => {
    const log = await direct.log(logOptions());
    const append = (id: string, expectedLastSeq: number) =>
      log.append(subject(), bytes(id), { id: `${subject()}:${id}`, expectedLastSeq });
    const { seq } = await append("one", 0);
    await append("ending", seq);
    await expect(append("claim", seq)).rejects.toMatchObject({ code: "stale-owner" });
    expect(said(await log.read(subject()))).toEqual(whole(["one", "ending"]));
  });

  it("what others write without a checksum is taken as it is", async () => {
    const { link, durable } = await over(server.url);
    const log = await durable.log(logOptions());
    link.publish(subject(), bytes("plain"));
    await link.flush();
    expect(said(await log.read(subject()))).toEqual(whole(["plain"]));
  });

  const queueOptions = () => ({
    name: `Q${round}`,
    subject: `queue${round}`,
    maxJobs: 1000,
    maxJobBytes: 10_000,
    ackWaitMs: 1000,
  });

  it("a job that is stored damaged is put again; workers get the damaged one empty, under its id", async () => {
    const way = await damagedWay({ direction: "to-server", probability: 0.3, prefix: "queue" });
    const [putter, worker] = [await way.durable.queue(queueOptions()), await direct.queue(queueOptions())];
    way.begin();
    for (const value of numbers(40)) await unlessDamaged(() => putter.put(value, bytes(value)));
    const jobs = await worker.pull(200, 1000);
    // Twice, where only its id was damaged: who puts jobs can bear that.
    const good = new Set(jobs.flatMap(({ payload }) => (payload.length > 0 ? [text(payload)] : [])));
    expect([...good]).toEqual(whole(numbers(40)));
    const damaged = jobs.filter(({ payload }) => payload.length === 0);
    expect(damaged.length).toBeGreaterThan(2);
    // A few whose headers were damaged instead.
    expect(jobs.filter(({ id }) => !numbers(40).includes(id ?? "")).length).toBeLessThan(5);
  });

  it("a worker reads again a job that was damaged on its way out", async () => {
    const way = await damagedWay({ direction: "from-server", probability: 0.4, prefix: "queue" });
    const [putter, worker] = [await direct.queue(queueOptions()), await way.durable.queue(queueOptions())];
    for (const value of numbers(40)) await putter.put(value, bytes(value));
    way.begin();
    const jobs = await worker.pull(40, 1000);
    expect(jobs.map(({ payload }) => text(payload))).toEqual(whole(numbers(40)));
  });

  it("whoever looks at the jobs that wait sees them as they were put, though questions and answers are damaged", async () => {
    const [inward, outward] = [
      await damagedWay({ direction: "to-server", probability: 0.2, prefix: "$JS.API" }),
      await damagedWay({ direction: "from-server", probability: 0.4 }),
    ];
    const putter = await direct.queue(queueOptions());
    const watchers = [await inward.durable.queue(queueOptions()), await outward.durable.queue(queueOptions())];
    for (const value of numbers(40)) await putter.put(value, bytes(value));
    inward.begin();
    outward.begin();
    for (const watcher of watchers) {
      const seen: string[] = [];
      for (let seq = 0; ;) {
        const job = await watcher.peek(seq);
        if (job === undefined) break;
        seq = job.seq;
        seen.push(text(job.payload));
      }
      expect(seen).toEqual(whole(numbers(40)));
    }
  });

  it("of a job that is kept damaged, whoever looks sees nothing", async () => {
    const { link, durable } = await over(server.url);
    const watcher = await durable.queue(queueOptions());
    link.publish(queueOptions().subject, bytes("b"), undefined, [[CHECK_HEADER, checkOf(bytes("a"))]]);
    await link.flush();
    const job = await watcher.peek(0);
    expect(job?.payload).toEqual(new Uint8Array(0));
  });

  it("a value that is stored damaged is put again, and read again when damaged on its way out", async () => {
    const inward = await damagedWay({ direction: "to-server", probability: 0.4, prefix: "$KV" });
    const outward = await damagedWay({ direction: "from-server", probability: 0.4, prefix: "" });
    const bucket = `b${round}`;
    const [writer, reader] = [await inward.durable.keyValue(bucket), await outward.durable.keyValue(bucket)];
    const seen: string[] = [];
    await reader.watch("key", ({ value }) => void (value.length > 0 && seen.push(text(value))));
    inward.begin();
    outward.begin();
    const present = await direct.keyValue(bucket);
    let revision = 0;
    for (const value of numbers(30)) {
      try {
        revision = await writer.put("key", bytes(value), revision);
      } catch (thrown) {
        // The revision that it was to follow was damaged.
        expect(RallyError.from(thrown).code).toBe("stale-owner");
        revision = await present.put("key", bytes(value));
      }
      const found = await reader.get("key");
      expect(text(found?.value ?? new Uint8Array())).toBe(value.repeat(20));
      expect(found?.revision).toBe(revision);
    }
    await expect.poll(() => seen.at(-1), { timeout: 10_000 }).toBe(whole(numbers(30)).at(-1));
  });

  it("what is asked of JetStream is done as it was meant, though questions are damaged", async () => {
    const way = await damagedWay({ direction: "to-server", probability: 0.3, prefix: "$JS.API" });
    const writer = await direct.log(logOptions());
    await appendAll(writer, ["first"]);
    way.begin();
    const followed: number[] = [];
    for (let i = 0; i < 60; i++) {
      const log = await way.durable.log(logOptions());
      const subscription = await log.follow(subject(), () => void followed.push(i));
      await expect.poll(() => followed.at(-1)).toBe(i);
      subscription.unsubscribe();
    }
    expect(followed).toEqual(Array.from({ length: 60 }, (_, i) => i));
    const { link } = await over(server.url);
    const { config } = await new JetStream(link).call(`STREAM.INFO.${logOptions().name}`);
    expect(config).toMatchObject({
      subjects: [logOptions().subjects],
      max_age: 3_600_000 * 1e6,
      max_bytes: logOptions().maxBytes,
      max_msgs: -1,
      discard: "new",
      duplicate_window: DUPLICATE_WINDOW_MS * 1e6,
    });
  }, 30_000);

  it("whatever is damaged, questions and answers of JetStream too: all arrives, once and in order", async () => {
    const [inward, outward] = [await damagedWay({ probability: 0.1 }), await damagedWay({ probability: 0.1 })];
    inward.begin();
    outward.begin();
    const [writer, reader] = await Promise.all([inward.durable.log(logOptions()), outward.durable.log(logOptions())]);
    const followed: LogEntry[] = [];
    await reader.follow(subject(), (entry) => void followed.push(entry));
    await appendAll(writer, numbers(100));
    const expected = whole(numbers(100));
    await expect.poll(() => said(followed), { timeout: 20_000 }).toEqual(expected);
    const late: LogEntry[] = [];
    await reader.follow(subject(), (entry) => void late.push(entry));
    await expect.poll(() => said(late), { timeout: 20_000 }).toEqual(expected);
    expect(said(await (await direct.log(logOptions())).read(subject()))).toEqual(expected);
  }, 60_000);
});
