import { readFileSync } from "node:fs";
import path from "node:path";
import { CLOCK_VARIABLE } from "./moved-clock-file.ts";

/**
 * Loaded into a role's process (and its threads) before anything else: lets its wall clock step, as an administrator or a time
 * server may have it step. Timers and `performance.now` go on as they would.
 */
const LOOK_EVERY_MS = 20;
const folder = process.env[CLOCK_VARIABLE];

if (folder !== undefined) {
  const file = path.join(folder, String(process.pid));
  const now = Date.now.bind(Date);
  let offsetMs = 0;
  let lookedAt = -Infinity;
  Date.now = () => {
    const elapsed = performance.now();
    if (elapsed - lookedAt > LOOK_EVERY_MS) {
      lookedAt = elapsed;
      offsetMs = readOffset(file);
    }
    return now() + offsetMs;
  };
}

function readOffset(file: string): number {
  try {
    return Number(readFileSync(file, "utf8")) || 0;
  } catch {
    return 0;
  }
}
