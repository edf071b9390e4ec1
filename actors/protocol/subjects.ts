import { RallyError } from "../../infra/errors.ts";

const NAME = /^[A-Za-z0-9_-]{1,64}$/;
export const NAME_RULE = "1 to 64 letters, digits, _ or -";

/** Whether a name may stand in a subject. */
export function isName(value: string): boolean {
  return NAME.test(value);
}

export function checkName(field: string, value: string): string {
  if (isName(value)) return value;
  const found = JSON.stringify(value.slice(0, 80));
  throw new RallyError("bad-request", `${field} must be ${NAME_RULE}, found ${found}`, {
    field,
    found,
    expected: NAME_RULE,
  });
}

/** Every subject of one deployment; the only place that knows how they are spelled. */
export interface Subjects {
  readonly request: string;
  tokens(requestId: string): string;
  cancel(requestId: string): string;
  ffn(shard: number): string;
  /** Where one shard answers an attention actor; a "no responders" there names the shard. */
  act(attentionId: string, shard: number): string;
  /** Wildcard over all shards' answers. */
  actAll(attentionId: string): string;
  /** Key-value bucket and stream names: no dots allowed there. */
  readonly requestStream: string;
  readonly tokenStream: string;
  readonly placementBucket: string;
}

export function subjectsOf(deployment: string): Subjects {
  checkName("deployment", deployment);
  const prefix = `rally.${deployment}`;
  return {
    request: `${prefix}.request`,
    tokens: (requestId) => `${prefix}.tokens.${requestId}`,
    cancel: (requestId) => `${prefix}.cancel.${requestId}`,
    ffn: (shard) => `${prefix}.ffn.${shard}`,
    act: (attentionId, shard) => `${prefix}.act.${attentionId}.${shard}`,
    actAll: (attentionId) => `${prefix}.act.${attentionId}.*`,
    requestStream: `RALLY_${deployment}_REQUESTS`,
    tokenStream: `RALLY_${deployment}_TOKENS`,
    placementBucket: `rally_${deployment}_placement`,
  };
}
