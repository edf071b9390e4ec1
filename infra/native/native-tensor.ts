import { RallyError } from "../errors.ts";
import type { Addon, Bytes, SessionHandle, TensorHandle } from "./addon.ts";
import { ELEMENTS, type ElementType } from "./elements.ts";
import { nativeError } from "./native-error.ts";

interface Allocation {
  readonly type: ElementType;
  readonly dims: readonly number[];
  readonly isOnHost: boolean;
  /** Of the session that it was made for. */
  readonly graphFile: string;
}

/** Memory that lives across runs, on a device or on the host. What is bound to it keeps it beyond `release`. */
export class NativeTensor {
  readonly type: ElementType;
  readonly dims: readonly number[];
  readonly #addon: Addon;
  readonly #isOnHost: boolean;
  readonly #graphFile: string;
  #handle: TensorHandle | undefined;
  #data: Bytes | undefined;

  private constructor(addon: Addon, handle: TensorHandle, { type, dims, isOnHost, graphFile }: Allocation) {
    this.#addon = addon;
    this.#handle = handle;
    this.type = type;
    this.dims = dims;
    this.#isOnHost = isOnHost;
    this.#graphFile = graphFile;
  }

  static allocate(addon: Addon, session: SessionHandle, allocation: Allocation): NativeTensor {
    const { type, dims, isOnHost } = allocation;
    return new NativeTensor(addon, addon.allocate(session, isOnHost ? 1 : 0, ELEMENTS[type].number, dims), allocation);
  }

  get handle(): TensorHandle {
    if (this.#handle === undefined) throw new RallyError("closed", "the tensor has been released");
    return this.#handle;
  }

  /** The memory itself; narrow floats as their bits. RallyError `session-failed` for memory of a device. */
  get data(): Bytes {
    const { handle } = this;
    if (!this.#isOnHost) throw new RallyError("session-failed", "memory of a device cannot be looked at");
    this.#data ??= new ELEMENTS[this.type].array(this.#addon.buffer(handle));
    return this.#data;
  }

  /**
   * Copies `data` to the tensor's bytes from `offset` on, wherever it is, after the runs of its session that have been begun. It is
   * there when this returns.
   */
  upload(data: Bytes, offset = 0): void {
    this.#copy(() => this.#addon.write(this.handle, data, offset));
  }

  /** The other way: as many of the tensor's bytes as `target` has, from `offset` on. */
  download<T extends Bytes>(target: T, offset = 0): T {
    this.#copy(() => this.#addon.read(this.handle, target, offset));
    return target;
  }

  /** Repeats `pattern` through the whole tensor; a device does so by itself, so gigabytes take milliseconds. */
  fillWith(pattern: Bytes): void {
    this.#copy(() => this.#addon.fill(this.handle, pattern));
  }

  #copy(copy: () => void): void {
    try {
      copy();
    } catch (thrown) {
      throw nativeError(thrown, this.#graphFile);
    }
  }

  release(): void {
    if (this.#handle !== undefined) this.#addon.releaseTensor(this.#handle);
    this.#handle = undefined;
    this.#data = undefined;
  }
}
