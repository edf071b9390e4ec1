import type { ModelConfig } from "../../../../models/config.ts";
import type { KernelSizes } from "../../../../models/kernels/sizes.ts";
import type { KvKind } from "../../../../models/planner/planned-model.ts";
import type { BenchGraph } from "./bench-graph.ts";
import type { Patterns } from "./patterns.ts";
import type { Rotation } from "./rotation.ts";

/** A part of a stage: what it must move and compute at the least, and the graph that does it. */
export interface Part {
  readonly name: string;
  /** Fewest bytes through device memory: every input read once, every output written once. */
  readonly bytes: number;
  /** Multiplications and additions. */
  readonly flops: number;
  readonly build: () => BenchGraph;
  /** Whether it is the whole stage, all of whose parts run one after the other. */
  readonly isWhole?: true;
}

export interface PartContext {
  readonly config: ModelConfig;
  readonly sizes: KernelSizes;
  readonly patterns: Patterns;
  readonly rotation: Rotation;
  /** Sequences of the micro-batch on this GPU. */
  readonly batch: number;
}

export interface AttentionContext extends PartContext {
  readonly context: number;
  readonly kv: KvKind;
}

/** Activations and weights are quantised in groups and squares of this. */
export const GROUP = 128;

export const EPSILON = { float: 1e-5 };

/** Bytes of an e4m3 weight matrix with its scales. */
export function weightBytes(n: number, k: number): number {
  return n * k + (4 * n * k) / GROUP ** 2;
}

/** Bytes of quantised activations. */
export function activationBytes(rows: number, width: number): number {
  return rows * width + (4 * rows * width) / GROUP;
}

/** Inputs of a quantised matrix [n, k] whose products with unit activations are about 1. */
export function weightInputs(
  graph: BenchGraph,
  { patterns }: PartContext,
  name: string,
  n: number,
  k: number,
): [string, string] {
  return [
    graph.input(`${name}_tiles`, "fp8-e4m3", [n / GROUP, k / GROUP, GROUP, GROUP], patterns.e4m3()),
    graph.input(`${name}_tile_scales`, "f32", [n / GROUP, k / GROUP], patterns.scales(k ** -0.5)),
  ];
}

export function activationInputs(
  graph: BenchGraph,
  { patterns, batch }: PartContext,
  name: string,
  width: number,
): [string, string] {
  return [
    graph.input(`${name}_data`, "fp8-e4m3", [batch, width], patterns.e4m3()),
    graph.input(`${name}_scales`, "f32", [width / GROUP, batch], patterns.scales(1)),
  ];
}

/** A workspace of an operator: zeroed once. */
export function workspaceInput(graph: BenchGraph, name: string, bytes: number): string {
  return graph.input(name, "u8", [Math.max(16, bytes)], new Uint8Array(1));
}
