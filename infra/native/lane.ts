import { RallyError } from "../errors.ts";
import { type Addon, type LaneHandle, loadAddon } from "./addon.ts";
import type { Binding } from "./binding.ts";
import { nativeError } from "./native-error.ts";

/**
 * A thread that runs bindings one after the other, in the order they were given, while the event loop goes on. A CUDA graph is
 * replayed on the lane that captured it; lanes run beside each other.
 */
export class Lane {
  readonly #addon: Addon;
  #handle: LaneHandle | undefined;
  readonly #pending = new Set<Promise<void>>();

  constructor() {
    this.#addon = loadAddon();
    this.#handle = this.#addon.openLane();
  }

  /** Resolves when the run is done. What is bound must stay as it is until then. */
  run(binding: Binding): Promise<void> {
    if (this.#handle === undefined) return Promise.reject(new RallyError("closed", "the lane has been closed"));
    let running: Promise<void>;
    try {
      // Kept until the run is over: the thread, and the memory that it reads and writes.
      running = this.#addon.runOn(this.#handle, binding.handle, [this, binding.memory]);
    } catch (thrown) {
      return Promise.reject(nativeError(thrown, binding.graphFile));
    }
    const settled = running
      .catch((thrown: unknown) => {
        throw nativeError(thrown, binding.graphFile);
      })
      .finally(() => this.#pending.delete(settled));
    this.#pending.add(settled);
    return settled;
  }

  /** Finishes what was given to it. */
  async close(): Promise<void> {
    const handle = this.#handle;
    this.#handle = undefined;
    await Promise.allSettled(this.#pending);
    if (handle !== undefined) this.#addon.releaseLane(handle);
  }
}
