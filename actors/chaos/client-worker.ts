import type { GenerateOptions, NatsSettings } from "./client-messages.ts";
import { RallyClient } from "../client/rally-client.ts";
import type { ClientOrders } from "./client-messages.ts";

/**
 * A client in a process of its own, to be killed in the middle: sends the requests it is told to, follows them, says nothing.
 * It ends when whoever started it is gone.
 */
process.on("disconnect", () => process.exit(0));
process.on("message", (orders: ClientOrders) => {
  serve(orders.nats, orders.deployment, orders.requests).then(
    () => process.send?.("sent"),
    () => process.exit(1),
  );
});

async function serve(nats: NatsSettings, deployment: string, requests: readonly GenerateOptions[]): Promise<void> {
  const client = await RallyClient.connect(nats, { deployment, name: "rally-chaos-victim" });
  for (const request of requests) {
    const generation = client.generate(request);
    generation.result.catch(() => undefined);
  }
}
