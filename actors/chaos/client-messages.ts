import type { NatsSettings } from "../../infra/nats-settings.ts";
import type { GenerateOptions } from "../client/generate-request.ts";

export type { GenerateOptions, NatsSettings };

/** To the client process (client-worker.ts). */
export interface ClientOrders {
  readonly nats: NatsSettings;
  readonly deployment: string;
  readonly requests: readonly GenerateOptions[];
}
