import { type Addon, findAddon, type SharedHandle } from "./addon.ts";

/** A file in memory that this process has mapped, as others may have too: what one writes, all see. */
export class SharedMap {
  readonly #addon: Addon;
  readonly #handle: SharedHandle;
  /** Empty once it was released, like every view of it. */
  readonly buffer: ArrayBuffer;

  private constructor(addon: Addon, handle: SharedHandle) {
    this.#addon = addon;
    this.#handle = handle;
    this.buffer = addon.sharedBuffer(handle);
  }

  /** Throws unless the file has just so many bytes and can never have less. The descriptor may be closed then. */
  static open(addon: Addon, fd: number, bytes: number): SharedMap {
    return new SharedMap(addon, addon.mapShared(fd, bytes));
  }

  release(): void {
    this.#addon.releaseShared(this.#handle, this.buffer);
  }
}

/** What makes and maps shared files in this process. */
export class SharedMaps {
  readonly #addon: Addon;
  /** The calling thread, as /proc knows it. */
  readonly threadId: number;

  private constructor(addon: Addon) {
    this.#addon = addon;
    this.threadId = addon.threadId();
  }

  /** Undefined where the addon has not been built. */
  static find(env: NodeJS.ProcessEnv = process.env): SharedMaps | undefined {
    const addon = findAddon(env);
    return addon === undefined ? undefined : new SharedMaps(addon);
  }

  /** The descriptor of a new file of zeros, without a name, that takes no memory before it is written to. Throws if it cannot be. */
  create(bytes: number): number {
    return this.#addon.createShared(bytes);
  }

  /** Takes memory for a part of a file, so that writing there cannot fail. Throws if there is none. */
  allocate(fd: number, offset: number, bytes: number): void {
    this.#addon.allocateShared(fd, offset, bytes);
  }

  open(fd: number, bytes: number): SharedMap {
    return SharedMap.open(this.#addon, fd, bytes);
  }
}
