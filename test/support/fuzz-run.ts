import v8 from "node:v8";
import vm from "node:vm";

/** RALLY_FUZZ_MESSAGES=1000000 for a long run; RALLY_FUZZ_SEED to vary it. */
export const NUM_FUZZ_MESSAGES = Number(process.env["RALLY_FUZZ_MESSAGES"] ?? 20_000);
export const FUZZ_SEED = Number(process.env["RALLY_FUZZ_SEED"] ?? 1);
export const FUZZ_TIMEOUT_MS = 3_600_000;

let collect: (() => void) | undefined;

/** MiB that are still in use when everything that can go has gone. */
function memoryInUse(): number {
  if (collect === undefined) {
    v8.setFlagsFromString("--expose-gc");
    collect = vm.runInNewContext("gc") as () => void;
  }
  collect();
  collect();
  const { heapUsed, external } = process.memoryUsage();
  return (heapUsed + external) / 2 ** 20;
}

/** How memory goes over a run: what the first part needs for ever is not counted. */
export class MemoryWatch {
  readonly #warmUp: number;
  readonly #total: number;
  #atWarm: number | undefined;

  constructor(total: number) {
    this.#total = total;
    this.#warmUp = Math.min(Math.floor(total / 2), 100_000);
  }

  /** Once per message. */
  at(number: number): void {
    if (number === this.#warmUp) this.#atWarm = memoryInUse();
  }

  /** MiB gained between the end of the warm-up and now. */
  growth(what: string): number {
    const now = memoryInUse();
    const before = this.#atWarm ?? now;
    const rss = Math.round(process.memoryUsage.rss() / 2 ** 20);
    if (this.#total >= 100_000) {
      process.stderr.write(
        `${what}: ${this.#total} messages, ${before.toFixed(1)} MiB after ${this.#warmUp}, ${now.toFixed(1)} MiB at the end, rss ${rss} MiB\n`,
      );
    }
    return now - before;
  }
}
