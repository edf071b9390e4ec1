import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { CLOCK_VARIABLE } from "./moved-clock-file.ts";

/** Where moved-clock.ts, loaded into every process, looks for how far its wall clock is off: a file named after the pid. */
export class ClockFolder {
  readonly #folder = mkdtempSync(path.join(os.tmpdir(), "rally-clocks-"));

  get env(): NodeJS.ProcessEnv {
    return { [CLOCK_VARIABLE]: this.#folder };
  }

  move(pid: number, offsetMs: number): void {
    mkdirSync(this.#folder, { recursive: true });
    writeFileSync(path.join(this.#folder, String(pid)), String(offsetMs));
  }

  remove(): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
