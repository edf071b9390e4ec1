import type { NatsSettings } from "../../infra/nats-settings.ts";

/** Which server a deployment runs over. */
export interface NatsDescription {
  /** Without a password. */
  readonly url: string;
  readonly version: string;
  /** Where its binary came from, or "existing". */
  readonly source: string;
}

export function describeServer({ url }: NatsSettings, version: string, source = "existing"): NatsDescription {
  return { url: url.replaceAll(/\/\/[^@/,]*@/g, "//"), version, source };
}
