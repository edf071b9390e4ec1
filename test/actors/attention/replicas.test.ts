import { describe, expect, it } from "vitest";
import { type Replica, Replicas, type Send } from "../../../actors/attention/replicas.ts";
import { SimulatedClock } from "../../../infra/clock.ts";

function open(...ids: readonly string[]) {
  const clock = new SimulatedClock();
  const replicas = new Replicas(clock, 2);
  const added = ids.map((id) => replicas.add(0, id) as Replica);
  const send = (replica: Replica, expiresAt = 1000) => {
    const message: Send = {
      passId: 1,
      layer: 0,
      part: 0,
      attempt: 0,
      numRows: 1,
      replica,
      sentAt: clock.elapsed(),
      expiresAt,
    };
    replica.open.push(message);
  };
  const chosen = (count: number) => Array.from({ length: count }, () => replicas.choose(0, [])?.id);
  return { clock, replicas, added: added as [Replica, Replica, Replica], send, chosen };
}

describe("which replica gets the next message", () => {
  it("nobody, where none is known", () => {
    expect(open().replicas.choose(0, [])).toBeUndefined();
    expect(open("a").replicas.choose(1, [])).toBeUndefined();
    expect(open("a").replicas.choose(0, ["a"])).toBeUndefined();
  });

  it("each in turn, as long as they are equal", () => {
    expect(open("a", "b", "c").chosen(6)).toEqual(["a", "b", "c", "a", "b", "c"]);
  });

  it("the one with the fewest unanswered messages", () => {
    const { added, send, chosen, clock } = open("a", "b");
    send(added[0]);
    expect(chosen(3)).toEqual(["b", "b", "b"]);
    send(added[1]);
    send(added[1], 500);
    expect(chosen(2)).toEqual(["a", "a"]);
    // What was lost does not count for ever.
    clock.advance(1000);
    expect(chosen(4)).toEqual(["b", "a", "b", "a"]);
  });

  it("none that is set aside or excluded", () => {
    const { added, replicas, chosen } = open("a", "b", "c");
    added[1].isAside = true;
    expect(chosen(4)).toEqual(["a", "c", "a", "c"]);
    expect(replicas.choose(0, ["a"])?.id).toBe("c");
    expect(replicas.choose(0, ["a", "c"])).toBeUndefined();
  });

  it("a slow one only when the others have as many times as much to do, and again once that is long ago", () => {
    const { added, replicas, send, chosen, clock } = open("a", "b");
    replicas.paced(added[0], 1);
    for (let i = 0; i < 20; i++) replicas.paced(added[1], 10);
    expect(chosen(3)).toEqual(["a", "a", "a"]);
    for (let i = 0; i < 8; i++) send(added[0]);
    expect(chosen(1)).toEqual(["a"]);
    for (let i = 0; i < 2; i++) send(added[0]);
    expect(chosen(1)).toEqual(["b"]);
    clock.advance(1000);
    expect(chosen(2)).toEqual(["a", "a"]);
    clock.advance(2500);
    expect(new Set(chosen(2))).toEqual(new Set(["a", "b"]));
  });

  it("is not decided by small differences, nor by all being slow at once", () => {
    const { added, replicas, chosen } = open("a", "b");
    replicas.paced(added[0], 1.8);
    expect(new Set(chosen(2))).toEqual(new Set(["a", "b"]));
    for (let i = 0; i < 20; i++) for (const replica of added) replicas.paced(replica, 20);
    expect(new Set(chosen(2))).toEqual(new Set(["a", "b"]));
  });
});

describe("who is known", () => {
  it("is bounded, and only of shards that exist", () => {
    const { replicas } = open();
    expect(replicas.add(2, "a")).toBeUndefined();
    for (let i = 0; i < 300; i++) replicas.add(1, `r${i}`);
    expect(replicas.find(1, "r255")).toBeDefined();
    expect(replicas.find(1, "r256")).toBeUndefined();
  });

  it("does not come back after it has left, under the same id", () => {
    const { replicas, added } = open("a", "b");
    replicas.remove(added[0]);
    expect(replicas.add(0, "a")).toBeDefined();
    replicas.leave("b");
    replicas.remove(added[1]);
    expect(replicas.add(0, "b")).toBeUndefined();
    for (let i = 0; i < 1000; i++) replicas.leave(`other${i}`);
    expect(replicas.add(0, "b")).toBeDefined();
  });
});
