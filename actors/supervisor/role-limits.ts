import { RallyError } from "../../infra/errors.ts";
import type { AttentionSettings, ExpertSettings } from "../protocol/role.ts";

interface Limit {
  readonly min: number;
  readonly max: number;
  /** Undefined: chosen by the role. */
  readonly fallback: number | undefined;
  readonly about: string;
  /** What stands for the value in help. */
  readonly unit: string;
}

/** Every limit of a role that an operator may set: the one list that flags, scenarios and their checks go by. */
export const ROLE_LIMITS = {
  maxSequences: {
    min: 1,
    max: 1024,
    fallback: 64,
    about: "requests that an attention actor works on at once",
    unit: "N",
  },
  maxKvTokens: {
    min: 64,
    max: 1e9,
    fallback: undefined,
    about:
      "tokens in an attention actor's KV caches at once; beyond them the youngest requests wait (as many as 256 MiB hold if left out)",
    unit: "N",
  },
  prefillTokens: {
    min: 1,
    max: 65_536,
    fallback: 256,
    about: "prompt tokens that one pass takes: more serve long prompts sooner, fewer keep other streams even",
    unit: "N",
  },
  dispatchTimeoutMs: {
    min: 10,
    max: 600_000,
    fallback: 1_000,
    about: "milliseconds after which activations without an answer are sent again",
    unit: "MS",
  },
  appendsPerSecond: {
    min: 1,
    max: 100_000,
    fallback: 400,
    about: "writes to the token log per attention actor; tokens gather in between",
    unit: "N",
  },
  maxWaitingBatches: {
    min: 1,
    max: 65_536,
    fallback: 256,
    about: "batches that may wait at an expert actor; more are refused as overloaded",
    unit: "N",
  },
} as const satisfies Record<string, Limit>;

export type RoleLimit = keyof typeof ROLE_LIMITS;
/** What is left out has its default. */
export type RoleLimits = { readonly [Name in RoleLimit]?: number };

type AttentionLimits = Pick<
  AttentionSettings,
  "maxSequences" | "maxKvTokens" | "prefillTokens" | "dispatchTimeoutMs" | "appendsPerSecond"
>;

export function attentionLimits(limits: RoleLimits): AttentionLimits {
  const { maxKvTokens } = limits;
  return {
    maxSequences: limits.maxSequences ?? ROLE_LIMITS.maxSequences.fallback,
    ...(maxKvTokens !== undefined && { maxKvTokens }),
    prefillTokens: limits.prefillTokens ?? ROLE_LIMITS.prefillTokens.fallback,
    dispatchTimeoutMs: limits.dispatchTimeoutMs ?? ROLE_LIMITS.dispatchTimeoutMs.fallback,
    appendsPerSecond: limits.appendsPerSecond ?? ROLE_LIMITS.appendsPerSecond.fallback,
  };
}

export function expertLimits(limits: RoleLimits): Pick<ExpertSettings, "maxWaitingBatches"> {
  return { maxWaitingBatches: limits.maxWaitingBatches ?? ROLE_LIMITS.maxWaitingBatches.fallback };
}

/** RallyError `bad-settings` names the limit, what was found and what is allowed. */
export function checkRoleLimits(limits: RoleLimits): void {
  for (const [field, found] of Object.entries(limits) as [RoleLimit, number | undefined][]) {
    const { min, max } = ROLE_LIMITS[field];
    if (found === undefined || (Number.isInteger(found) && found >= min && found <= max)) continue;
    throw new RallyError("bad-settings", `${field} must be an integer from ${min} to ${max}, found ${found}`, {
      field,
      found,
      limit: found < min ? min : max,
    });
  }
}
