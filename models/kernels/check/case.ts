import type { ElementType } from "../../../infra/native/elements.ts";
import type { KernelSizes } from "../sizes.ts";
import type { Random } from "./numbers.ts";
import type { Verdict } from "./judge.ts";

export type Data = Float32Array | Int32Array | Uint16Array | Uint8Array;

export interface HostTensor {
  readonly type: "f32" | "i32" | "bf16" | "fp8-e4m3" | "u8";
  readonly dims: readonly number[];
  readonly data: Data;
}

type OutputType = readonly [type: HostTensor["type"], dims: readonly number[]];

/** One operator with inputs, and what its outputs should be. */
export interface OpCase {
  readonly inputs: Readonly<Record<string, HostTensor>>;
  readonly outputs: Readonly<Record<string, OutputType>>;
  readonly attributes?: Readonly<Record<string, number | string | { readonly float: number }>>;
  /** Judges what the operator wrote, by the outputs' names. */
  readonly judge: (found: Found) => Verdict;
}

export interface Found {
  bf16(name: string): Uint16Array;
  e4m3(name: string): Uint8Array;
  f32(name: string): Float32Array;
  i32(name: string): Int32Array;
}

export interface OpCheck {
  readonly op: string;
  /** Sizes in words. */
  readonly what: string;
  /** The same shapes each time, other numbers. */
  readonly make: (random: Random, sizes: KernelSizes) => OpCase;
}

export const bf16 = (data: Uint16Array, ...dims: number[]): HostTensor => ({ type: "bf16", dims, data });
export const e4m3 = (data: Uint8Array, ...dims: number[]): HostTensor => ({ type: "fp8-e4m3", dims, data });
export const f32 = (data: Float32Array, ...dims: number[]): HostTensor => ({ type: "f32", dims, data });
export const i32 = (data: Int32Array, ...dims: number[]): HostTensor => ({ type: "i32", dims, data });
/** A workspace as its owner makes it. */
export const zeros = (bytes: number): HostTensor => ({ type: "u8", dims: [bytes], data: new Uint8Array(bytes) });

/** Data of an output before a run: nothing that could be right. */
export function poison(type: ElementType, length: number): Data {
  if (type === "f32") return new Float32Array(length).fill(Number.NaN);
  if (type === "i32") return new Int32Array(length).fill(-559_038_737);
  if (type === "bf16") return new Uint16Array(length).fill(0x7fff);
  return new Uint8Array(length).fill(0x7f);
}
