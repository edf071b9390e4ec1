import type { Bus, BusMessage, Subscription } from "../../infra/bus.ts";
import { RallyError } from "../../infra/errors.ts";

/**
 * A role as a NATS micro service (ADR-32): any NATS tool finds it and reads its sums, `nats micro ls` and `nats micro stats`
 * among them.
 */
export interface ServiceDescription {
  /** The same for all of its kind. */
  readonly name: string;
  readonly id: string;
  /** Semantic. */
  readonly version: string;
  readonly description: string;
  readonly metadata: Readonly<Record<string, string>>;
  /** What it takes in. */
  readonly endpoint: { readonly name: string; readonly subject: string; readonly queueGroup: string };
  /** ISO 8601 */
  readonly started: string;
}

/** What an endpoint's numbers are made of. Times in milliseconds. */
export interface ServiceStats {
  readonly numRequests: number;
  readonly numErrors: number;
  readonly processingMs: number;
  readonly data: unknown;
}

/** Names of the services, also where to ask for them. */
export const SERVICE_NAMES = { attention: "rally-attention", expert: "rally-expert" } as const;

const VERBS = ["PING", "INFO", "STATS"] as const;
export type Verb = (typeof VERBS)[number];

const TYPES = {
  PING: "io.nats.micro.v1.ping_response",
  INFO: "io.nats.micro.v1.info_response",
  STATS: "io.nats.micro.v1.stats_response",
} as const;

/** Asks all services, those of one name, or one of them. */
export function serviceSubject(verb: Verb, name?: string, id?: string): string {
  return ["$SRV", verb, name, id].filter((part) => part !== undefined).join(".");
}

/** Answers what `$SRV` is asked until it is unsubscribed. */
export function offerService(bus: Bus, service: ServiceDescription, stats: () => Promise<ServiceStats>): Subscription {
  const { name, id } = service;
  const subscriptions = VERBS.flatMap((verb) =>
    [serviceSubject(verb), serviceSubject(verb, name), serviceSubject(verb, name, id)].map((subject) =>
      bus.subscribe(subject, (message) => void answer(bus, message, () => answerOf(verb, service, stats))),
    ),
  );
  return {
    unsubscribe() {
      for (const subscription of subscriptions) subscription.unsubscribe();
    },
  };
}

async function answer(bus: Bus, { reply }: BusMessage, body: () => Promise<object>): Promise<void> {
  if (reply === undefined) return;
  try {
    bus.publish(reply, Buffer.from(JSON.stringify(await body())));
  } catch (thrown) {
    // Whoever asked can ask again; a bus that is closed has nobody left to tell.
    RallyError.from(thrown);
  }
}

async function answerOf(verb: Verb, service: ServiceDescription, stats: () => Promise<ServiceStats>): Promise<object> {
  const { name, id, version, metadata, description, started } = service;
  const common = { type: TYPES[verb], name, id, version, metadata };
  const { subject, queueGroup } = service.endpoint;
  const endpoint = { name: service.endpoint.name, subject, queue_group: queueGroup };
  switch (verb) {
    case "PING":
      return common;
    case "INFO":
      return { ...common, description, endpoints: [endpoint] };
    default: {
      const { numRequests, numErrors, processingMs, data } = await stats();
      const sums = {
        num_requests: numRequests,
        num_errors: numErrors,
        last_error: "",
        // Nanoseconds.
        processing_time: Math.round(processingMs * 1e6),
        average_processing_time: numRequests === 0 ? 0 : Math.round((processingMs * 1e6) / numRequests),
      };
      return { ...common, started, endpoints: [{ ...endpoint, ...sums, data }] };
    }
  }
}
