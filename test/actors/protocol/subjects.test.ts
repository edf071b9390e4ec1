import { describe, expect, it } from "vitest";
import { checkName, isName, subjectsOf } from "../../../actors/protocol/subjects.ts";

describe("names in subjects", () => {
  it.each(["a", "A-z_09", "x".repeat(64)])("%s is one", (name) => {
    expect(isName(name)).toBe(true);
    expect(checkName("deployment", name)).toBe(name);
  });

  it.each(["", "x".repeat(65), "a.b", "*", ">", "a b", "a\n", "é", "$SYS"])("%j is none", (name) => {
    expect(isName(name)).toBe(false);
    expect(() => checkName("deployment", name)).toThrow(
      expect.objectContaining({ code: "bad-request", fields: expect.objectContaining({ field: "deployment" }) }),
    );
  });
});

it("every subject of a deployment begins with its name, and streams are named after it", () => {
  const subjects = subjectsOf("prod", 7);
  expect([
    subjects.request,
    subjects.offer,
    subjects.tokens("r1"),
    subjects.cancel("r1"),
    subjects.follow("r1"),
    subjects.ffn(3),
    subjects.act("attention-0", 3),
    subjects.ffn(3, "expert-1"),
    subjects.act("attention-0", 3, "expert-1"),
    subjects.actAll("attention-0"),
    subjects.experts,
    subjects.probe(),
    subjects.probe("expert-1"),
    subjects.probed("attention-0", "expert-1"),
  ]).toEqual([
    "rally.prod.request",
    "rally.prod.offer",
    "rally.prod.tokens.r1",
    "rally.prod.cancel.r1",
    "rally.prod.follow.r1",
    "rally.prod.ffn.7.3",
    "rally.prod.act.attention-0.7.3",
    "rally.prod.ffn.7.3.expert-1",
    "rally.prod.act.attention-0.7.3.expert-1",
    "rally.prod.act.attention-0.7.>",
    "rally.prod.experts.7",
    "rally.prod.probe.7",
    "rally.prod.probe.7.expert-1",
    "rally.prod.probed.attention-0.7.expert-1",
  ]);
  expect([subjects.requestStream, subjects.tokenStream, subjects.placementBucket]).toEqual([
    "RALLY_prod_REQUESTS",
    "RALLY_prod_TOKENS",
    "rally_prod_placement",
  ]);
  expect(() => subjectsOf("a.b")).toThrow(/deployment must be/u);
});
