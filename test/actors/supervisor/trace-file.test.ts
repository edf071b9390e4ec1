import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { writeTraceFile } from "../../../actors/supervisor/trace-file.ts";
import type { TraceEvent } from "../../../actors/protocol/role.ts";

let dir: string;

beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), "rally-test-"));
});
afterEach(() => rmSync(dir, { recursive: true }));

const span = (pid: number, ts: number): TraceEvent => {
  return { name: "attend", cat: "attention", ph: "X", ts, dur: 1.5, pid, tid: 0, args: { layer: 2 } };
};
const name = (pid: number, text: string): TraceEvent => {
  return { name: "process_name", cat: "__metadata", ph: "M", ts: 0, dur: 0, pid, tid: 0, args: { name: text } };
};

test("is Chrome trace JSON, begins at zero and puts attention first", async () => {
  const file = path.join(dir, "trace.json");
  const start = 1_795_500_000_000_000;
  await writeTraceFile(file, [
    name(7, "expert-0-a"),
    name(8, "attention-0-b"),
    span(7, start + 20.25),
    span(8, start + 10),
  ]);
  const { traceEvents } = JSON.parse(readFileSync(file, "utf8")) as { traceEvents: TraceEvent[] };
  expect(traceEvents.filter(({ ph }) => ph === "X").map(({ pid, ts, dur }) => [pid, ts, dur])).toEqual([
    [7, 10.25, 1.5],
    [8, 0, 1.5],
  ]);
  const order = traceEvents.filter((event) => event.name === "process_sort_index");
  expect(order.map(({ pid, args }) => [pid, args["sort_index"]])).toEqual([
    [7, 1],
    [8, 0],
  ]);
});

test("many events", async () => {
  const file = path.join(dir, "trace.json");
  await writeTraceFile(
    file,
    Array.from({ length: 20_000 }, (_, i) => span(1, i)),
  );
  expect((JSON.parse(readFileSync(file, "utf8")) as { traceEvents: unknown[] }).traceEvents).toHaveLength(20_000);
});

test("a file that cannot be written is a bad setting", async () => {
  await expect(writeTraceFile(path.join(dir, "no", "trace.json"), [])).rejects.toMatchObject({ code: "bad-settings" });
  await expect(
    writeTraceFile(
      dir,
      Array.from({ length: 9000 }, () => span(1, 1)),
    ),
  ).rejects.toThrow(/cannot be written/);
});
