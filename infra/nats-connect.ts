import type { Bus } from "./bus.ts";
import type { Durable } from "./durable.ts";
import { RallyError } from "./errors.ts";
import { NatsBus } from "./nats-bus.ts";
import { openClientLink } from "./nats-client-link.ts";
import { NatsDurable } from "./nats-durable.ts";
import type { NatsLink } from "./nats-link.ts";
import { checkNatsSettings, isLoopback, type NatsSettings } from "./nats-settings.ts";
import { canUseWireLink, openWireLink } from "./nats-wire-link.ts";

export interface NatsConnection {
  readonly bus: Bus;
  readonly durable: Durable;
  readonly serverVersion: string;
  close(): Promise<void>;
}

export interface ConnectOptions {
  /** Shown by the server's monitoring. */
  readonly name: string;
}

const OLDEST = [2, 9] as const;

/**
 * Two connections, so that an append to the token log never waits behind megabytes of activations. RallyError
 * `server-unavailable` (none there, or too old), `store-unavailable` (no JetStream), `bad-settings`.
 */
export async function connectNats(settings: NatsSettings, { name }: ConnectOptions): Promise<NatsConnection> {
  checkNatsSettings(settings);
  const open = canUseWireLink(settings) ? openWireLink : openClientLink;
  const busLink = await open(settings, name);
  // Beyond this host there is nobody to share memory with.
  const isLocal = isLoopback(settings);
  const bus = new NatsBus(busLink, { shared: isLocal });
  let durableLink: NatsLink | undefined;
  const close = async (): Promise<void> => {
    await Promise.all([bus.close(), durableLink?.close()]);
  };
  try {
    checkVersion(busLink.serverVersion);
    durableLink = await open(settings, `${name}-store`);
    const durable = new NatsDurable(durableLink);
    await durable.check();
    return { bus, durable, serverVersion: busLink.serverVersion, close };
  } catch (error) {
    await close();
    throw error;
  }
}

function checkVersion(version: string): void {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  if (major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1])) return;
  throw new RallyError("server-unavailable", `nats-server is ${version}, needed is ${OLDEST.join(".")} or newer`, {
    found: version,
    needed: OLDEST.join("."),
  });
}
