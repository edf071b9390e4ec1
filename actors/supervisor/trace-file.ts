import { once } from "node:events";
import { createWriteStream } from "node:fs";
import { finished } from "node:stream/promises";
import { RallyError } from "../../infra/errors.ts";
import type { TraceEvent } from "../protocol/role.ts";

/** Attention actors above the experts in the viewer. */
const SORT_METADATA = "process_sort_index";

/**
 * Writes Chrome trace JSON, which Perfetto (https://ui.perfetto.dev) and chrome://tracing open. Times begin at zero, so that
 * microseconds keep their fractions. RallyError `bad-settings` if the file cannot be written; writing no events first finds
 * that out early.
 */
export async function writeTraceFile(file: string, events: readonly TraceEvent[]): Promise<void> {
  let origin = Infinity;
  for (const { ph, ts } of events) if (ph === "X" && ts < origin) origin = ts;
  const output = createWriteStream(file);
  const done = finished(output);
  done.catch(() => undefined);
  try {
    output.write('{"displayTimeUnit":"ms","traceEvents":[');
    let separator = "\n";
    for (const event of withOrder(events)) {
      const placed = event.ph === "X" ? { ...event, ts: event.ts - origin } : event;
      const room = output.write(separator + JSON.stringify(placed));
      separator = ",\n";
      if (!room) await Promise.race([once(output, "drain"), done]);
    }
    output.end("\n]}\n");
    await done;
  } catch (cause) {
    throw unwritable(file, cause);
  }
}

function withOrder(events: readonly TraceEvent[]): TraceEvent[] {
  const named = events.filter(({ ph, name }) => ph === "M" && name === "process_name");
  const order = named.map((event) => ({
    ...event,
    name: SORT_METADATA,
    args: { sort_index: String(event.args["name"]).startsWith("attention") ? 0 : 1 },
  }));
  return [...order, ...events];
}

function unwritable(file: string, cause: unknown): RallyError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new RallyError(
    "bad-settings",
    `trace file ${file} cannot be written: ${reason}`,
    { field: "--trace", file },
    { cause },
  );
}
