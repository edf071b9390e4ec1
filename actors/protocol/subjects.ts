import { RallyError } from "../../infra/errors.ts";

const TOKEN = /^[A-Za-z0-9_-]{1,64}$/;

/** A name that may stand in a subject: letters, digits, `_` and `-`, at most 64. */
export function checkName(field: string, value: string): string {
  if (TOKEN.test(value)) return value;
  throw new RallyError(
    "bad-request",
    `${field} must match ${TOKEN.source}, found ${JSON.stringify(value.slice(0, 80))}`,
    {
      field,
    },
  );
}

/** Every subject of one deployment; the only place that knows how they are spelled. */
export interface Subjects {
  readonly request: string;
  tokens(requestId: string): string;
  cancel(requestId: string): string;
  ffn(shard: number): string;
  act(attentionId: string): string;
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
    act: (attentionId) => `${prefix}.act.${attentionId}`,
    requestStream: `RALLY_${deployment}_REQUESTS`,
    tokenStream: `RALLY_${deployment}_TOKENS`,
    placementBucket: `rally_${deployment}_placement`,
  };
}
