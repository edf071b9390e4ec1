import path from "node:path";
import { allowedCores } from "../../infra/cores.ts";
import { RallyError } from "../../infra/errors.ts";
import { type NatsSettings, natsSettingsFromEnv } from "../../infra/nats-settings.ts";
import { packageRoot } from "../../infra/own-file.ts";
import { PROVIDERS } from "../../infra/session.ts";
import { SHARED_EXPERTS_AT } from "../protocol/placement.ts";
import { DEFAULT_TOPOLOGY, type Topology, TOPOLOGY_LIMITS } from "../supervisor/topology.ts";
import { ROLE_LIMITS, type RoleLimit, type RoleLimits } from "../supervisor/role-limits.ts";
import {
  choiceFlag,
  type Flag,
  type FlagValues,
  integerFlag,
  nameFlag,
  orWord,
  switchFlag,
  textFlag,
} from "./flags.ts";
import type { Cores } from "../supervisor/turns.ts";

/** Which server. */
export const SERVER_FLAGS = {
  nats: textFlag("URL", "use the NATS server at this URL instead of $NATS_URL or one of our own"),
  creds: textFlag("FILE", "NATS credentials file, instead of $NATS_CREDS"),
  "tls-ca": textFlag("FILE", "certificate authority of the server, instead of $NATS_CA"),
  "tls-cert": textFlag("FILE", "client certificate, instead of $NATS_CERT"),
  "tls-key": textFlag("FILE", "its key, instead of $NATS_KEY"),
};

const range = (max: number) => ({ min: 1, max });

/** Which deployment, and on which server. */
export const CONNECTION_FLAGS = {
  deployment: nameFlag("the deployment: letters, digits, _ and -", DEFAULT_TOPOLOGY.deployment),
  ...SERVER_FLAGS,
};

const limit = (name: RoleLimit): Flag<number | undefined> => {
  const { min, max, fallback, about, unit } = ROLE_LIMITS[name];
  const flag = integerFlag(unit, about, { min, max });
  return fallback === undefined ? flag : { ...flag, fallback: String(fallback) };
};

/** Limits of the roles; what is not given is left to them. */
export const LIMIT_FLAGS = {
  "max-sequences": limit("maxSequences"),
  "max-kv-tokens": limit("maxKvTokens"),
  "prefill-tokens": limit("prefillTokens"),
  "dispatch-timeout": limit("dispatchTimeoutMs"),
  "appends-per-second": limit("appendsPerSecond"),
  "max-waiting-batches": limit("maxWaitingBatches"),
};

/** What a deployment of our own consists of. */
export const TOPOLOGY_FLAGS = {
  model: textFlag(
    "DIR",
    "model folder: config.json, tokenizer.json and safetensors; the bundled step3-tiny if left out",
  ),
  attention: integerFlag("N", "attention actors", range(TOPOLOGY_LIMITS.numAttention), DEFAULT_TOPOLOGY.numAttention),
  experts: integerFlag(
    "N",
    "shards that the experts are split into, each an expert actor",
    range(TOPOLOGY_LIMITS.numShards),
    DEFAULT_TOPOLOGY.numShards,
  ),
  replicas: integerFlag(
    "N",
    "expert actors per shard",
    range(TOPOLOGY_LIMITS.numReplicas),
    DEFAULT_TOPOLOGY.numReplicas,
  ),
  "micro-batches": orWord(
    "auto",
    integerFlag("N", "micro-batches in flight per attention actor", range(TOPOLOGY_LIMITS.microBatches), 1),
  ),
  wire: choiceFlag(
    ["f32", "f16", "int8-row"],
    "how activations travel; only f32 keeps every token exact",
    DEFAULT_TOPOLOGY.wireDtype,
  ),
  "shared-experts": {
    ...choiceFlag(SHARED_EXPERTS_AT, "which actors compute the experts that every token visits"),
    fallback: "attention; with --provider cuda experts",
  },
  turns: switchFlag(
    "attention and experts take turns on all cores, a thread pinned to each: faster where there are few cores and nothing else needs them; best with --experts 1",
  ),
  provider: choiceFlag(PROVIDERS, "what computes; cuda needs a GPU and rally gpu setup", DEFAULT_TOPOLOGY.provider),
  ...LIMIT_FLAGS,
  store: textFlag("DIR", "where a server of our own keeps requests and tokens"),
  trace: textFlag("FILE", "write Chrome trace events of all actors at the end; opens in https://ui.perfetto.dev"),
};

type TopologyValues = Omit<FlagValues<typeof TOPOLOGY_FLAGS>, "store" | "trace"> & { readonly deployment: string };

export function topologyOf(values: TopologyValues): Topology {
  return {
    deployment: values.deployment,
    modelDir: modelDirOf(values.model),
    numAttention: values.attention,
    numShards: values.experts,
    numReplicas: values.replicas,
    microBatches: values.turns && values["micro-batches"] === "auto" ? 1 : values["micro-batches"],
    wireDtype: values.wire,
    provider: values.provider,
    ...(values["shared-experts"] !== undefined && { sharedExperts: values["shared-experts"] }),
    limits: limitsOf(values),
    ...(values.turns && { turns: turnsOf() }),
  };
}

/** RallyError `bad-settings` where cores cannot be told apart. */
function turnsOf(): Cores {
  const cores = allowedCores();
  if (cores !== undefined) return cores;
  throw new RallyError("bad-settings", `--turns takes Linux, this is ${process.platform}`, { field: "--turns" });
}

/** Those that were given. */
export function limitsOf(values: FlagValues<typeof LIMIT_FLAGS>): RoleLimits {
  const named: { readonly [Name in RoleLimit]: number | undefined } = {
    maxSequences: values["max-sequences"],
    maxKvTokens: values["max-kv-tokens"],
    prefillTokens: values["prefill-tokens"],
    dispatchTimeoutMs: values["dispatch-timeout"],
    appendsPerSecond: values["appends-per-second"],
    maxWaitingBatches: values["max-waiting-batches"],
  };
  return Object.fromEntries(Object.entries(named).filter(([, value]) => value !== undefined));
}

/** The bundled model's folder unless another is named. */
export function modelDirOf(model: string | undefined): string {
  return model === undefined ? path.join(packageRoot, "models", "step3-tiny") : path.resolve(model);
}

/** The existing server that flags or environment name, if any. */
export function natsSettingsOf(
  values: FlagValues<typeof SERVER_FLAGS>,
  env: NodeJS.ProcessEnv,
): NatsSettings | undefined {
  const given = {
    NATS_URL: values.nats,
    NATS_CREDS: values.creds,
    NATS_CA: values["tls-ca"],
    NATS_CERT: values["tls-cert"],
    NATS_KEY: values["tls-key"],
  };
  const overriding = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  return natsSettingsFromEnv({ ...env, ...overriding });
}

/** A store is the business of the server; an existing one has its own. */
export function checkStore(store: string | undefined, nats: NatsSettings | undefined): void {
  if (store === undefined || nats === undefined) return;
  throw new RallyError(
    "bad-settings",
    "--store is for a server of our own; the one at NATS_URL (--nats) keeps its own store",
    {
      field: "--store",
    },
  );
}
