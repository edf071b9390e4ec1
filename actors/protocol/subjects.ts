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

/**
 * Every subject of one deployment; the only place that knows how they are spelled. Those between attention and expert actors
 * are of one placement: while shards move, two placements are served side by side.
 */
export interface Subjects {
  readonly request: string;
  /** Where clients may ask whether a request would be done in time. */
  readonly offer: string;
  tokens(requestId: string): string;
  cancel(requestId: string): string;
  /** Whoever follows a request says so here. */
  follow(requestId: string): string;
  /** To one of the replicas of a shard, as the server likes, or to a certain one. */
  ffn(shard: number, expertId?: string): string;
  /** Where a shard, or one of its replicas, answers an attention actor; a "no responders" there says whom it could not reach. */
  act(attentionId: string, shard: number, expertId?: string): string;
  /** Wildcard over all answers. */
  actAll(attentionId: string): string;
  /** Where expert actors say that they come and go. */
  readonly experts: string;
  /** Asks all expert actors, or one of them, for a sign of life. */
  probe(expertId?: string): string;
  /** Where a probed expert actor answers. */
  probed(attentionId: string, expertId: string): string;
  /** Key-value bucket and stream names: no dots allowed there. */
  readonly requestStream: string;
  readonly tokenStream: string;
  readonly placementBucket: string;
}

/** `epoch` of the placement; needed by attention and expert actors only. */
export function subjectsOf(deployment: string, epoch = 0): Subjects {
  checkName("deployment", deployment);
  const prefix = `rally.${deployment}`;
  return {
    request: `${prefix}.request`,
    offer: `${prefix}.offer`,
    tokens: (requestId) => `${prefix}.tokens.${requestId}`,
    cancel: (requestId) => `${prefix}.cancel.${requestId}`,
    follow: (requestId) => `${prefix}.follow.${requestId}`,
    ffn: (shard, expertId) => `${prefix}.ffn.${epoch}.${shard}${suffix(expertId)}`,
    act: (attentionId, shard, expertId) => `${prefix}.act.${attentionId}.${epoch}.${shard}${suffix(expertId)}`,
    actAll: (attentionId) => `${prefix}.act.${attentionId}.${epoch}.>`,
    experts: `${prefix}.experts.${epoch}`,
    probe: (expertId) => `${prefix}.probe.${epoch}${suffix(expertId)}`,
    probed: (attentionId, expertId) => `${prefix}.probed.${attentionId}.${epoch}.${expertId}`,
    requestStream: `RALLY_${deployment}_REQUESTS`,
    tokenStream: `RALLY_${deployment}_TOKENS`,
    placementBucket: `rally_${deployment}_placement`,
  };
}

function suffix(name: string | undefined): string {
  return name === undefined ? "" : `.${name}`;
}
