import { RallyError } from "../../infra/errors.ts";

/** How the next token is chosen. Out-of-range values are refused, never clamped. */
export interface SamplingParams {
  /** 0 is greedy. 0 … 2 */
  readonly temperature: number;
  /** Keep the k likeliest; 0 keeps all. */
  readonly topK: number;
  /** Keep the smallest set with this much probability. (0, 1] */
  readonly topP: number;
  /** Keep tokens with at least this share of the likeliest one's probability. [0, 1) */
  readonly minP: number;
  /** Divides positive and multiplies negative logits of tokens seen in prompt or output. (0, 2], 1 is off */
  readonly repetitionPenalty: number;
  /** 0 … 2^53-1. (seed, position) alone decides a draw. */
  readonly seed: number;
}

export const DEFAULT_SAMPLING: SamplingParams = {
  temperature: 0.8,
  topK: 0,
  topP: 0.95,
  minP: 0,
  repetitionPenalty: 1,
  seed: 0,
};

interface Range {
  readonly expected: string;
  readonly allows: (value: number) => boolean;
}

const RANGES: Readonly<Record<keyof SamplingParams, Range>> = {
  temperature: { expected: "a number from 0 to 2", allows: (value) => value >= 0 && value <= 2 },
  topK: { expected: "an integer from 0 to 1000000", allows: (value) => isInteger(value, 1_000_000) },
  topP: { expected: "a number above 0, at most 1", allows: (value) => value > 0 && value <= 1 },
  minP: { expected: "a number from 0, below 1", allows: (value) => value >= 0 && value < 1 },
  repetitionPenalty: { expected: "a number above 0, at most 2", allows: (value) => value > 0 && value <= 2 },
  seed: { expected: "an integer from 0 to 2^53-1", allows: (value) => isInteger(value, Number.MAX_SAFE_INTEGER) },
};

const NAMES = Object.keys(RANGES) as (keyof SamplingParams)[];

/** What is left out takes its default. RallyError `bad-request` names the field, what was found and what is allowed. */
export function validateSampling(value: unknown): SamplingParams {
  if (value === undefined || value === null) return DEFAULT_SAMPLING;
  if (typeof value !== "object" || Array.isArray(value) || value instanceof Uint8Array) {
    throw refuse("sampling", value, "a map");
  }
  const given = value as Readonly<Record<string, unknown>>;
  for (const key of Object.keys(given)) {
    if (!NAMES.some((name) => name === key)) throw refuse(`sampling.${key}`, given[key], `one of ${NAMES.join(", ")}`);
  }
  const result: { -readonly [Name in keyof SamplingParams]: SamplingParams[Name] } = { ...DEFAULT_SAMPLING };
  for (const name of NAMES) {
    const found = given[name];
    if (found === undefined || found === null) continue;
    const { allows, expected } = RANGES[name];
    if (typeof found !== "number" || !allows(found)) throw refuse(`sampling.${name}`, found, expected);
    // Adding 0 makes a negative zero an ordinary one.
    result[name] = found + 0;
  }
  return result;
}

function isInteger(value: number, max: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= max;
}

function refuse(field: string, value: unknown, expected: string): RallyError {
  const name = field.slice(0, 80).toWellFormed();
  const found =
    typeof value === "number" || typeof value === "bigint" || typeof value === "boolean" ? String(value) : typeof value;
  return new RallyError("bad-request", `${name} must be ${expected}, found ${found}`, { field: name, found, expected });
}
