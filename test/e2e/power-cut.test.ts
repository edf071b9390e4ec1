import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { RallyClient } from "../../actors/client/rally-client.ts";
import { RallyHome } from "../support/rally-home.ts";
import { longRequests, startLoad } from "../support/load.ts";

interface Ready {
  readonly pid: number;
  readonly topology: { readonly nats: { readonly url: string } };
}

/** Promises 1 to 3 when everything is gone at once, and comes back on the same store. */
describe("a power cut", () => {
  let home: RallyHome;
  let client: RallyClient | undefined;

  beforeEach(async () => {
    home = await RallyHome.make();
  });
  afterEach(async () => {
    await client?.close();
    client = undefined;
    await home.remove();
  });

  it("loses nothing: accepted requests end with the same tokens", { timeout: 300_000 }, async () => {
    const requests = longRequests(8, 60);
    const before = home.rally(["up", "--json"]);
    const { topology } = await before.event<Ready>("ready");
    client = await RallyClient.connect(topology.nats);
    const expected = await startLoad(client, requests).results;

    const load = startLoad(client, requests);
    await load.underWay(10);
    await home.killEverything();
    await before.status;
    expect(load.generations.some(({ tokens }, i) => tokens.length < (expected[i]?.length ?? 0))).toBe(true);

    const after = home.rally(["up", "--json"]);
    const again = await after.event<Ready>("ready");
    // Where they all are still looking for it.
    expect(again.topology.nats.url).toBe(topology.nats.url);
    expect(await load.results).toEqual(expected);

    // Somebody who was not there sees every token once, too.
    const other = await RallyClient.connect(again.topology.nats);
    try {
      for (const [i, { requestId }] of load.generations.entries()) {
        const indexes: number[] = [];
        const ids: number[] = [];
        for await (const { index, id } of other.resume(requestId)) {
          indexes.push(index);
          ids.push(id);
        }
        expect(ids).toEqual(expected[i]);
        expect(indexes).toEqual([...ids.keys()]);
      }
    } finally {
      await other.close();
    }
    after.child.kill("SIGTERM");
    expect(await after.status).toBe(0);
    await home.expectNothingLeft();
  });

  it("while requests wait in the queue and while actors start", { timeout: 300_000 }, async () => {
    const requests = longRequests(4, 20);
    const first = home.rally(["up", "--json"]);
    const { topology } = await first.event<Ready>("ready");
    client = await RallyClient.connect(topology.nats);
    const expected = await startLoad(client, requests).results;
    // Nobody pulls while the attention actor is stopped.
    for (const pid of home.actorPids("attention")) process.kill(pid, "SIGSTOP");
    const load = startLoad(client, requests);
    await new Promise((resolve) => setTimeout(resolve, 500));
    await home.killEverything();
    await first.status;

    const second = home.rally(["up", "--json"]);
    while (home.actorPids("expert").length === 0) await new Promise((resolve) => setTimeout(resolve, 20));
    await home.killEverything();
    await second.status;

    const third = home.rally(["up", "--json"]);
    await third.event("ready");
    expect(await load.results).toEqual(expected);
  });
});
