import { encode } from "../../infra/codec.ts";
import type { WireTensor } from "../../infra/tensor.ts";
import { CHECK_KEY, UNSEALED } from "./seal.ts";

/** Which fields a kind of message has, in this order, apart from `check` at its end. */
export interface LayoutRules {
  readonly texts: readonly string[];
  /** Integers from 0 to these. */
  readonly numbers: Readonly<Record<string, number>>;
  readonly tensors: readonly string[];
}

type Fields = Readonly<Record<string, unknown>>;

interface Run {
  readonly at: number;
  readonly bytes: Uint8Array;
}

interface NumberSlot {
  readonly name: string;
  readonly at: number;
  readonly max: number;
}

interface TensorSlot {
  readonly name: string;
  readonly dtype: WireTensor["dtype"];
  readonly shape: readonly number[];
  readonly at: number;
  readonly numBytes: number;
  /** Of its scales, where it has any. */
  readonly scalesAt: number | undefined;
  readonly numScaleBytes: number;
}

const UINT64 = 0xcf;
const BIN32 = 0xc6;
const FIXMAP = 0x80;
const HIGH = 2 ** 32;

/**
 * Where everything lies in the msgpack bytes of messages that differ in numbers and in what tensors hold, but not in shapes and text,
 * because every number takes eight bytes. Whoever has seen one such message writes and reads the next in a few steps. It matters because
 * an actor comes from its graph with cold caches: a general codec then takes ten times as long as in a loop of its own.
 */
export class MessageLayout<T extends object> {
  readonly size: number;
  readonly #runs: readonly Run[];
  readonly #numbers: readonly NumberSlot[];
  readonly #tensors: readonly TensorSlot[];
  readonly #texts: readonly (readonly [name: string, value: unknown])[];
  /** All fields, in order; those that differ from message to message are to be filled in. */
  readonly #example: Fields;

  constructor(message: T, { texts, numbers, tensors }: LayoutRules) {
    const values = message as Fields;
    const names = [...texts, ...Object.keys(numbers), ...tensors];
    const builder = new LayoutBuilder(names.length + 1);
    for (const name of texts) {
      builder.constant(name);
      builder.constant(values[name]);
    }
    this.#texts = texts.map((name) => [name, values[name]]);
    this.#numbers = Object.entries(numbers).map(([name, max]) => ({ name, at: builder.number(name), max }));
    this.#tensors = tensors.map((name) => builder.tensor(name, values[name] as WireTensor));
    builder.constant(CHECK_KEY);
    builder.constant(UNSEALED);
    this.#runs = builder.end();
    this.size = builder.size;
    this.#example = Object.fromEntries(names.map((name) => [name, texts.includes(name) ? values[name] : 0]));
  }

  /** Whether this is how such a message lies. */
  fits(message: T): boolean {
    const values = message as Fields;
    for (const [name, value] of this.#texts) if (values[name] !== value) return false;
    for (const slot of this.#tensors) {
      const { dtype, shape, bytes, scales } = values[slot.name] as WireTensor;
      if (dtype !== slot.dtype || bytes.length !== slot.numBytes || !isSame(shape, slot.shape)) return false;
      if ((scales?.length ?? 0) !== slot.numScaleBytes) return false;
    }
    return true;
  }

  /** A message that fits, into `size` bytes. Unsealed. */
  write(message: T, target: Uint8Array): void {
    const values = message as Fields;
    for (const { at, bytes } of this.#runs) target.set(bytes, at);
    const view = new DataView(target.buffer, target.byteOffset, this.size);
    for (const { name, at } of this.#numbers) {
      const value = values[name] as number;
      view.setUint32(at, Math.floor(value / HIGH));
      view.setUint32(at + 4, value >>> 0);
    }
    for (const { name, at, scalesAt } of this.#tensors) {
      const { bytes, scales } = values[name] as WireTensor;
      target.set(bytes, at);
      if (scalesAt !== undefined && scales !== undefined) target.set(scales, scalesAt);
    }
  }

  /** Undefined if the bytes lie in another way or a number is beyond its limit. Tensors are views of `bytes`. */
  read(bytes: Uint8Array): T | undefined {
    if (bytes.length !== this.size || !this.#runs.every((run) => isAt(bytes, run))) return undefined;
    const message: Record<string, unknown> = { ...this.#example };
    const view = new DataView(bytes.buffer, bytes.byteOffset, this.size);
    for (const { name, at, max } of this.#numbers) {
      const value = view.getUint32(at) * HIGH + view.getUint32(at + 4);
      if (value > max) return undefined;
      message[name] = value;
    }
    for (const { name, dtype, shape, at, numBytes, scalesAt, numScaleBytes } of this.#tensors) {
      const tensor = { dtype, shape, bytes: bytes.subarray(at, at + numBytes) };
      message[name] =
        scalesAt === undefined ? tensor : { ...tensor, scales: bytes.subarray(scalesAt, scalesAt + numScaleBytes) };
    }
    return message as T;
  }
}

/** Lays out one message: constant bytes, with gaps for what differs from message to message. */
class LayoutBuilder {
  /** Bytes so far. */
  size = 0;
  readonly #runs: Run[] = [];
  #run: number[];

  constructor(numFields: number) {
    this.#run = [FIXMAP + numFields];
  }

  constant(value: unknown): void {
    this.#run.push(...encode(value));
  }

  /** Where its eight bytes are. */
  number(name: string): number {
    this.constant(name);
    this.#run.push(UINT64);
    return this.#gap(8);
  }

  tensor(name: string, { dtype, shape, bytes, scales }: WireTensor): TensorSlot {
    this.constant(name);
    this.#run.push(FIXMAP + (scales === undefined ? 3 : 4));
    for (const each of ["dtype", dtype, "shape", shape]) this.constant(each);
    const at = this.#binary("bytes", bytes);
    const scalesAt = scales === undefined ? undefined : this.#binary("scales", scales);
    return { name, dtype, shape, at, numBytes: bytes.length, scalesAt, numScaleBytes: scales?.length ?? 0 };
  }

  end(): readonly Run[] {
    this.#gap(0);
    return this.#runs;
  }

  #binary(name: string, { length }: Uint8Array): number {
    this.constant(name);
    this.#run.push(BIN32, length >>> 24, (length >>> 16) & 0xff, (length >>> 8) & 0xff, length & 0xff);
    return this.#gap(length);
  }

  #gap(numBytes: number): number {
    this.#runs.push({ at: this.size, bytes: Uint8Array.from(this.#run) });
    const from = this.size + this.#run.length;
    this.size = from + numBytes;
    this.#run = [];
    return from;
  }
}

/** The last run ends with the checksum, which is whatever it is. */
function isAt(bytes: Uint8Array, { at, bytes: expected }: Run): boolean {
  const length = Math.min(expected.length, bytes.length - 4 - at);
  for (let i = 0; i < length; i++) if (bytes[at + i] !== expected[i]) return false;
  return true;
}

function isSame(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, i) => size === b[i]);
}
