import { busContract, type BusHarness } from "./bus.contract.ts";
import { NatsBus } from "../../infra/nats-bus.ts";
import { openClientLink } from "../../infra/nats-client-link.ts";
import type { NatsLink } from "../../infra/nats-link.ts";
import { openWireLink } from "../../infra/nats-wire-link.ts";
import type { NatsSettings } from "../../infra/nats-settings.ts";
import { startTestServer } from "../support/nats.ts";

const harness =
  (open: (settings: NatsSettings, name: string) => Promise<NatsLink>) => async (): Promise<BusHarness> => {
    const server = await startTestServer({ maxPayload: 2 * 1024 * 1024 });
    return {
      connect: async () => new NatsBus(await open({ url: server.url }, "test")),
      interrupt: () => server.kill(),
      restore: () => server.restart(),
      close: () => server.stop(),
    };
  };

busContract("nats client", harness(openClientLink));
busContract("nats wire", harness(openWireLink));
