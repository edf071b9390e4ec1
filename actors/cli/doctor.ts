import { accessSync, constants, mkdirSync } from "node:fs";
import os from "node:os";
import { RallyError } from "../../infra/errors.ts";
import { installedOrt } from "../../infra/gpu/ort-library.ts";
import { systemCudaPorts } from "../../infra/gpu/provider.ts";
import { connectNats } from "../../infra/nats-connect.ts";
import { findNatsServer, type RunningNatsServer, startNatsServer } from "../../infra/nats-server.ts";
import type { NatsSettings } from "../../infra/nats-settings.ts";
import { cacheFolder, dataFolder } from "../../infra/settings.ts";
import { hashModel, loadConfig } from "../../models/load.ts";
import { loadTokenizer } from "../../models/tokenizer/tokenizer.ts";
import { describeDeployments, listActors } from "./actors.ts";
import type { Check } from "./check.ts";
import { checkGpu } from "./check-gpu.ts";
import type { Command, CommandContext } from "./command.ts";
import { modelDirOf, natsSettingsOf, SERVER_FLAGS, TOPOLOGY_FLAGS } from "./deployment-flags.ts";
import { noArguments, parseFlags, switchFlag } from "./flags.ts";

const flags = {
  model: TOPOLOGY_FLAGS.model,
  provider: TOPOLOGY_FLAGS.provider,
  ...SERVER_FLAGS,
  json: switchFlag("print one JSON object: {ok, checks: [{name, state, found, advice?}]}"),
};

export const doctorCommand: Command = {
  name: "doctor",
  summary: "check what is installed, what is missing and what to do",
  usage: "[flags]",
  description: `Checks everything that Rally needs on this machine: Node.js, ONNX Runtime, a
nats-server with JetStream (it is started for a moment, or asked, also for the
actors on it, if --nats or $NATS_URL names one), the model, memory, folders, and what
a GPU needs, which is only missing with --provider cuda. Downloads nothing.

Exit status: 0 if Rally can run, 1 if something is missing.`,
  examples: [
    ["rally doctor", "this machine and the bundled model"],
    ["rally doctor --provider cuda", "what this machine lacks to compute on its GPU"],
    ["rally doctor --model ./my-model --json", "for programs"],
  ],
  flags,
  run,
};

async function run(args: readonly string[], context: CommandContext): Promise<number> {
  const { values, positionals } = parseFlags(flags, args);
  noArguments("doctor", positionals);
  const nats = natsSettingsOf(values, context.env);
  const modelDir = modelDirOf(values.model);
  const checks = [
    checkNode(),
    await checkOnnxRuntime(),
    ...(nats === undefined ? await checkOwnServer(context.env) : await checkExistingServer(nats)),
    await checkModel(modelDir),
    ...(await checkGpu(values.provider, systemCudaPorts(context.env))),
    checkMachine(),
    checkFolder("cache folder", cacheFolder(context.env), "XDG_CACHE_HOME"),
    checkFolder("data folder", dataFolder(context.env), "XDG_DATA_HOME"),
  ];
  const isOk = checks.every(({ state }) => state !== "missing");
  const { terminal } = context;
  if (values.json) terminal.write(`${JSON.stringify({ ok: isOk, checks })}\n`);
  else {
    const width = Math.max(...checks.map(({ name }) => name.length));
    for (const { name, state, found, advice } of checks) {
      terminal.write(`${state.padEnd(7)}  ${name.padEnd(width)}  ${found}\n`);
      if (advice !== undefined)
        terminal.write(`${" ".repeat(width + 11)}${advice.replaceAll("\n", "\n           ")}\n`);
    }
    terminal.write(isOk ? "\nRally can run here.\n" : "\nRally cannot run here yet.\n");
  }
  return isOk ? 0 : 1;
}

const OLDEST_NODE = [20, 19] as const;

function checkNode(): Check {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  const isNew = major > OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor >= OLDEST_NODE[1]);
  const found = `${process.version} on ${process.platform} ${process.arch}`;
  if (isNew) return { name: "Node.js", state: "ok", found };
  return { name: "Node.js", state: "missing", found, advice: `install Node.js ${OLDEST_NODE.join(".")} or newer` };
}

async function checkOnnxRuntime(): Promise<Check> {
  const name = "onnxruntime-node";
  try {
    // Loads the native library, which is what may fail.
    await import("../../infra/ort-session.ts");
    return { name, state: "ok", found: `${installedOrt().version} loads` };
  } catch (thrown) {
    const advice = "run npm install again; on Linux it needs glibc (Alpine's musl will not do)";
    return { name, state: "missing", found: messageOf(thrown), advice };
  }
}

async function checkOwnServer(env: NodeJS.ProcessEnv): Promise<Check[]> {
  const name = "nats-server";
  let server: RunningNatsServer;
  try {
    const binary = await findNatsServer({ env, fetch: false });
    server = await startNatsServer({ binary });
  } catch (thrown) {
    const [first = "", ...more] = messageOf(thrown).split("\n");
    const advice = ['"rally run" and "rally up" try to fetch one.', ...more].join("\n");
    return [{ name, state: "warning", found: first, advice }];
  }
  try {
    const found = `${server.version} (${server.source})`;
    return [{ name, state: "ok", found }, await checkJetStream({ url: server.url })];
  } finally {
    await server.stop();
  }
}

async function checkExistingServer(nats: NatsSettings): Promise<Check[]> {
  const server: Check = { ...(await checkJetStream(nats)), name: "NATS server" };
  return server.state === "ok" ? [server, await checkActors(nats)] : [server];
}

/** Nothing needs to run for Rally to be able to; but what runs halfway is worth a word. */
async function checkActors(nats: NatsSettings): Promise<Check> {
  const actors = await listActors(nats, false);
  const found = describeDeployments(actors);
  const lame = found.filter(({ isWhole }) => !isWhole).map(({ deployment }) => deployment);
  const text = found.length === 0 ? "none" : found.map(({ description }) => description).join("; ");
  if (lame.length === 0) return { name: "actors", state: "ok", found: text };
  const advice = `${lame.join(", ")} cannot serve: it needs an attention actor and experts; rally ps shows more`;
  return { name: "actors", state: "warning", found: text, advice };
}

async function checkJetStream(nats: NatsSettings): Promise<Check> {
  const name = "JetStream";
  try {
    const connection = await connectNats(nats, { name: "rally-doctor" });
    const { maxPayload } = connection.bus;
    await connection.close();
    const found = `nats-server ${connection.serverVersion} with JetStream, messages up to ${mebibytes(maxPayload)}`;
    return { name, state: "ok", found };
  } catch (thrown) {
    const { code, message } = RallyError.from(thrown);
    const advice =
      code === "store-unavailable"
        ? "start the server with JetStream (nats-server -js)"
        : "check that the server runs, the URL, and the credentials";
    return { name, state: "missing", found: message, advice };
  }
}

async function checkModel(modelDir: string): Promise<Check> {
  const name = "model";
  try {
    const config = await loadConfig(modelDir);
    const [hash] = await Promise.all([hashModel(modelDir), loadTokenizer(modelDir)]);
    const { family, numLayers, numExperts, contextLength } = config;
    const found = `${modelDir}: ${family}, ${numLayers} layers, ${numExperts} experts, context ${contextLength}, ${hash.slice(0, 12)}`;
    return { name, state: "ok", found };
  } catch (thrown) {
    const advice = "give a folder with config.json, tokenizer.json and safetensors: --model DIR";
    return { name, state: "missing", found: messageOf(thrown), advice };
  }
}

/** Attention and two experts of the bundled model stay below this together. */
const WANTED_BYTES = 1.8e9;

function checkMachine(): Check {
  const cores = os.availableParallelism();
  const free = os.freemem();
  const found = `${cores} core${cores === 1 ? "" : "s"}, ${mebibytes(free)} of ${mebibytes(os.totalmem())} free`;
  if (free >= WANTED_BYTES) return { name: "machine", state: "ok", found };
  return { name: "machine", state: "warning", found, advice: "little memory is free; actors may be slow or end early" };
}

function checkFolder(name: string, folder: string, variable: string): Check {
  try {
    mkdirSync(folder, { recursive: true });
    accessSync(folder, constants.W_OK);
    return { name, state: "ok", found: folder };
  } catch (thrown) {
    return {
      name,
      state: "missing",
      found: messageOf(thrown),
      advice: `make it writable, or set ${variable} to another`,
    };
  }
}

function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}

function mebibytes(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)} MiB`;
}
