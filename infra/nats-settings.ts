import { existsSync } from "node:fs";
import { RallyError } from "./errors.ts";

/** How to reach a NATS server that is already there. */
export interface NatsSettings {
  /** `nats://host:port`, `tls://…`, or several separated by commas; may carry user:password. */
  readonly url: string;
  readonly credsFile?: string;
  readonly tlsCaFile?: string;
  readonly tlsCertFile?: string;
  readonly tlsKeyFile?: string;
}

const FILES = {
  credsFile: "NATS_CREDS",
  tlsCaFile: "NATS_CA",
  tlsCertFile: "NATS_CERT",
  tlsKeyFile: "NATS_KEY",
} as const;

/** From NATS_URL, NATS_CREDS, NATS_CA, NATS_CERT and NATS_KEY; undefined without NATS_URL. RallyError `bad-settings`. */
export function natsSettingsFromEnv(env: NodeJS.ProcessEnv): NatsSettings | undefined {
  const url = env["NATS_URL"];
  const given = Object.entries(FILES).flatMap(([field, variable]) => {
    const file = env[variable];
    return file === undefined || file === "" ? [] : [{ field, variable, file }];
  });
  if (url === undefined || url === "") {
    const [first] = given;
    if (first === undefined) return undefined;
    throw new RallyError("bad-settings", `${first.variable} is set but NATS_URL is not`, { field: "NATS_URL" });
  }
  for (const { variable, file } of given) {
    if (!existsSync(file)) {
      throw new RallyError("bad-settings", `${variable} names ${file}, which does not exist`, {
        field: variable,
        file,
      });
    }
  }
  return checkNatsSettings({ url, ...Object.fromEntries(given.map(({ field, file }) => [field, file])) });
}

/** RallyError `bad-settings` for an address that is none, or a certificate without its key. */
export function checkNatsSettings(settings: NatsSettings): NatsSettings {
  serverAddresses(settings);
  if ((settings.tlsCertFile === undefined) !== (settings.tlsKeyFile === undefined)) {
    throw new RallyError("bad-settings", "a TLS certificate and its key (NATS_CERT, NATS_KEY) come together", {
      field: "tlsCertFile",
    });
  }
  return settings;
}

export interface ServerAddress {
  readonly host: string;
  readonly port: number;
  readonly user: string | undefined;
  readonly password: string | undefined;
  readonly tls: boolean;
}

const DEFAULT_PORT = 4222;
/** scheme, user, password, host, port */
const ADDRESS =
  /^(?:(nats|tls):\/\/)?(?:([^:@/\s]+)(?::([^@/\s]*))?@)?(\[[0-9a-f:.]+\]|[^:/[\]@\s]+)(?::(\d{1,5}))?\/?$/i;

export function serverAddresses({ url }: NatsSettings): ServerAddress[] {
  return url.split(",").map((part) => {
    const found = ADDRESS.exec(part.trim());
    const port = Number(found?.[5] ?? DEFAULT_PORT);
    const host = found?.[4];
    if (found === null || host === undefined || port < 1 || port > 65_535) {
      // Without what may be a password.
      const shown = part.trim().replace(/^.*@/, "…@").slice(0, 80);
      throw new RallyError("bad-settings", `NATS_URL must be nats://host:port or tls://host:port, found "${shown}"`, {
        field: "NATS_URL",
        found: shown,
      });
    }
    return {
      host: host.replace(/^\[|\]$/g, ""),
      port,
      user: found[2] === undefined ? undefined : decodeURIComponent(found[2]),
      password: found[3] === undefined ? undefined : decodeURIComponent(found[3]),
      tls: found[1]?.toLowerCase() === "tls",
    };
  });
}

/** Whether every server is on this host. */
export function isLoopback(settings: NatsSettings): boolean {
  return serverAddresses(settings).every(({ host }) => /^(localhost|127\.[\d.]+|::1)$/.test(host));
}
