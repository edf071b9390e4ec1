import { RallyError } from "../errors.ts";
import type { SessionTensor } from "../session.ts";
import type { Addon, BindingHandle, SessionHandle, TensorHandle } from "./addon.ts";
import { elementNumber } from "./elements.ts";
import { nativeError } from "./native-error.ts";
import { NativeTensor } from "./native-tensor.ts";

type Bindable = NativeTensor | SessionTensor;

type Copies = readonly (readonly [from: NativeTensor, to: NativeTensor])[];

interface Bound {
  readonly inputs: Readonly<Record<string, Bindable>>;
  readonly outputs: Readonly<Record<string, Bindable>>;
  readonly runConfigs: Readonly<Record<string, string>>;
  readonly before: Copies;
  readonly after: Copies;
}

/** A session's run with its tensors in place. Tensors over JavaScript's memory are read anew, and written, at each run. */
export class Binding {
  readonly #addon: Addon;
  readonly #graphFile: string;
  #handle: BindingHandle | undefined;
  /** The addon knows only the addresses of JavaScript's memory. */
  #bound: Bound | undefined;

  private constructor(addon: Addon, graphFile: string, handle: BindingHandle, bound: Bound) {
    this.#addon = addon;
    this.#graphFile = graphFile;
    this.#handle = handle;
    this.#bound = bound;
  }

  static bind(addon: Addon, session: SessionHandle, graphFile: string, bound: Bound): Binding {
    const wrapped: TensorHandle[] = [];
    const handleOf = (tensor: Bindable): TensorHandle => {
      if (tensor instanceof NativeTensor) return tensor.handle;
      const handle = addon.wrap(tensor.data, elementNumber(tensor.data), tensor.dims);
      wrapped.push(handle);
      return handle;
    };
    const copies = (pairs: Copies) => pairs.flatMap(([from, to]) => [from.handle, to.handle]);
    const [inputs, outputs] = [bound.inputs, bound.outputs].map((side) => Object.values(side).map(handleOf));
    const handle = addon.bind(
      session,
      Object.keys(bound.inputs),
      inputs ?? [],
      Object.keys(bound.outputs),
      outputs ?? [],
      Object.entries(bound.runConfigs).flat(),
      copies(bound.before),
      copies(bound.after),
    );
    // The binding has them now.
    for (const tensor of wrapped) addon.releaseTensor(tensor);
    return new Binding(addon, graphFile, handle, bound);
  }

  /** Blocks its thread. */
  run(): void {
    const { handle } = this;
    try {
      this.#addon.runBound(handle);
    } catch (thrown) {
      throw nativeError(thrown, this.#graphFile);
    }
  }

  /**
   * Runs `count` times, one after the other, and tells how many nanoseconds each took where it computes: by CUDA's events on a device,
   * by the clock on the CPU. Blocks its thread.
   */
  timeRuns(count: number): Float64Array {
    const { handle } = this;
    try {
      return Float64Array.from(this.#addon.timeRuns(handle, count));
    } catch (thrown) {
      throw nativeError(thrown, this.#graphFile);
    }
  }

  get handle(): BindingHandle {
    if (this.#handle === undefined) throw new RallyError("closed", `a binding of ${this.#graphFile} has been released`);
    return this.#handle;
  }

  get graphFile(): string {
    return this.#graphFile;
  }

  /** What a run needs to stay alive. */
  get memory(): unknown {
    return this.#bound;
  }

  /** A run that is under way on a lane finishes. */
  release(): void {
    if (this.#handle !== undefined) this.#addon.releaseBinding(this.#handle);
    this.#handle = undefined;
    this.#bound = undefined;
  }
}
