import { setTimeout as sleep } from "node:timers/promises";
import { NatsDurable } from "../../infra/nats-durable.ts";
import { openClientLink } from "../../infra/nats-client-link.ts";
import type { NatsLink } from "../../infra/nats-link.ts";
import { openWireLink } from "../../infra/nats-wire-link.ts";
import type { NatsSettings } from "../../infra/nats-settings.ts";
import { startTestServer } from "../support/nats.ts";
import { durableContract, type DurableHarness } from "./durable.contract.ts";

const harness =
  (open: (settings: NatsSettings, name: string) => Promise<NatsLink>) => async (): Promise<DurableHarness> => {
    const server = await startTestServer();
    const links: NatsLink[] = [];
    return {
      async connect() {
        const link = await open({ url: server.url }, "test");
        links.push(link);
        return new NatsDurable(link);
      },
      wait: (ms) => sleep(ms),
      interrupt: () => server.kill(),
      restore: () => server.restart(),
      async close() {
        for (const link of links) await link.close();
        await server.stop();
      },
    };
  };

durableContract("nats client", harness(openClientLink));
durableContract("nats wire", harness(openWireLink));
