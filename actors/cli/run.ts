import { randomInt, randomUUID } from "node:crypto";
import { RallyError } from "../../infra/errors.ts";
import { DEFAULT_SAMPLING } from "../../models/sampling/params.ts";
import { generateRequest } from "../client/generate-request.ts";
import type { Generation, GenerationResult, Token } from "../client/rally-client.ts";
import { REQUEST_LIMITS } from "../protocol/limits.ts";
import type { Command, CommandContext } from "./command.ts";
import { checkStore, CONNECTION_FLAGS, natsSettingsOf, TOPOLOGY_FLAGS, topologyOf } from "./deployment-flags.ts";
import { type FlagValues, integerFlag, listFlag, numberFlag, parseFlags, switchFlag } from "./flags.ts";
import { readPrompt } from "./prompt.ts";
import { describeTopology, count } from "./serving-topology.ts";
import { findServing, type Serving, startServing } from "./serving.ts";
import type { Terminal } from "./terminal.ts";

export const runFlags = {
  "max-tokens": integerFlag("N", "end after so many tokens", { min: 1, max: REQUEST_LIMITS.maxTokens }, 200),
  temperature: numberFlag("T", "0 always takes the likeliest token", { min: 0, max: 2 }, DEFAULT_SAMPLING.temperature),
  "top-k": integerFlag(
    "K",
    "keep the K likeliest tokens; 0 keeps all",
    { min: 0, max: 1_000_000 },
    DEFAULT_SAMPLING.topK,
  ),
  "top-p": numberFlag(
    "P",
    "keep the fewest tokens with this much probability",
    { min: 1e-6, max: 1 },
    DEFAULT_SAMPLING.topP,
  ),
  "min-p": numberFlag(
    "P",
    "keep tokens with this share of the likeliest one's probability",
    { min: 0, max: 0.999999 },
    DEFAULT_SAMPLING.minP,
  ),
  "repetition-penalty": numberFlag(
    "R",
    "makes tokens that were there already less likely; 1 is off",
    { min: 0.01, max: 2 },
    DEFAULT_SAMPLING.repetitionPenalty,
  ),
  seed: integerFlag("N", "the same seed gives the same text; random if left out, and shown", {
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
  }),
  stop: listFlag("TEXT", `end before this text; up to ${REQUEST_LIMITS.stops}`),
  logprobs: integerFlag("N", "report each token's logprob and those of the N likeliest", {
    min: 0,
    max: REQUEST_LIMITS.logprobs,
  }),
  deadline: numberFlag("SECONDS", "give up after so long", { min: 0.001, max: 604_800 }, 600),
  "idle-limit": integerFlag(
    "SECONDS",
    "cancel the request when nobody has followed it for so long, e.g. because this program was killed",
    { min: REQUEST_LIMITS.idleLimitMs.least / 1000, max: REQUEST_LIMITS.idleLimitMs.most / 1000 },
  ),
  json: switchFlag("print one JSON object instead of the text"),
  ...CONNECTION_FLAGS,
  ...TOPOLOGY_FLAGS,
};

type Values = FlagValues<typeof runFlags>;

export const runCommand: Command = {
  name: "run",
  summary: "continue a text, token by token",
  usage: "PROMPT [flags]",
  description: `Continues PROMPT (- reads it from standard input) and prints the text to
standard output as it comes; what there is to say about it goes to standard
error.

The request goes to the deployment at --nats or $NATS_URL, else to the one that
"rally up" keeps running on this machine. Where there is none, or where flags
ask for a topology (--model … --trace), one is started for this run alone;
nothing of it stays.

--json prints one object: text, tokenIds, promptTokens, outputTokens, ttftMs,
tokensPerSecond (output tokens over the time from request to ending),
finishReason (stop, length or eos), topology, requestId, seed, and logprobs if
asked for; or {"error": {code, message, fields}}.

Ctrl-C cancels the request. Exit status: 0, 1 after a failure, 2 for wrong usage,
130 after Ctrl-C.`,
  examples: [
    ['rally run "Once upon a time"', "tell a story"],
    ['rally run "The sea" --max-tokens 50 --seed 7', "a short one, the same each time"],
    ["rally run - --temperature 0 --json < prompt.txt", "for programs"],
    ['rally run "The sea" --attention 1 --experts 4 --trace trace.json', "see who computes what, and when"],
  ],
  flags: runFlags,
  run,
};

async function run(args: readonly string[], context: CommandContext): Promise<number> {
  const { values, positionals, given } = parseFlags(runFlags, args);
  const { terminal, interrupted } = context;
  const nats = natsSettingsOf(values, context.env);
  checkStore(values.store, nats);
  const prompt = await readPrompt(positionals, context.stdin);
  const wantsOwn = Object.keys(TOPOLOGY_FLAGS).some((name) => given.has(name));
  const options = generateOptions(prompt, values);
  // Refused before anything is started for it.
  generateRequest(options, { deployment: values.deployment, now: Date.now(), newId: randomUUID });
  const startedAt = performance.now();
  const serving =
    (wantsOwn ? undefined : await findServing(values.deployment, nats, context.env)) ??
    (await startServing(
      {
        topology: topologyOf(values),
        isNamed: given.has("deployment"),
        nats,
        store: values.store,
        traceFile: values.trace,
        requestId: options.requestId,
      },
      context,
    ));
  terminal.done();
  const { seed } = options.sampling;
  const startMs = performance.now() - startedAt;
  try {
    const generation = serving.client.generate(options);
    const cancel = () => generation.cancel();
    if (interrupted.aborted) cancel();
    interrupted.addEventListener("abort", cancel);
    terminal.onReaderGone(cancel);
    if (!values.json) await stream(generation, prompt, terminal);
    const result = await generation.result;
    if (values.json)
      terminal.write(`${JSON.stringify(resultObject(result, generation.tokens, serving, seed, values))}\n`);
    else {
      if (values.logprobs !== undefined) for (const token of generation.tokens) terminal.say(logprobLine(token));
      for (const line of summary(result, serving, seed, startMs)) terminal.say(line);
    }
    return 0;
  } catch (thrown) {
    if (serving.failed.aborted) throw serving.failed.reason;
    // Cancelled because the reader went away: it has all it wanted.
    if (RallyError.from(thrown).code === "cancelled" && !interrupted.aborted) return 0;
    throw thrown;
  } finally {
    await serving.close();
  }
}

/** What is asked of the deployment. */
export function generateOptions(prompt: string, values: Values) {
  return {
    prompt,
    requestId: randomUUID(),
    maxTokens: values["max-tokens"],
    sampling: {
      temperature: values.temperature,
      topK: values["top-k"],
      topP: values["top-p"],
      minP: values["min-p"],
      repetitionPenalty: values["repetition-penalty"],
      seed: values.seed ?? randomInt(2 ** 32),
    },
    stop: values.stop,
    ...(values.logprobs !== undefined && { logprobs: values.logprobs }),
    deadlineMs: Math.ceil(values.deadline * 1000),
    ...(values["idle-limit"] !== undefined && { idleLimitMs: values["idle-limit"] * 1000 }),
  };
}

async function stream(generation: Generation, prompt: string, terminal: Terminal): Promise<void> {
  terminal.showPrompt(prompt);
  let last = "";
  try {
    for await (const text of generation.texts()) {
      terminal.write(text);
      last = text;
    }
  } finally {
    if (!last.endsWith("\n")) terminal.write("\n");
  }
}

function tokensPerSecond({ outputTokens, elapsedMs }: GenerationResult): number {
  return elapsedMs > 0 ? (outputTokens * 1000) / elapsedMs : 0;
}

function resultObject(
  result: GenerationResult,
  tokens: readonly Token[],
  serving: Serving,
  seed: number,
  { logprobs }: Values,
) {
  return {
    text: result.text,
    tokenIds: result.tokenIds,
    promptTokens: result.promptTokens,
    outputTokens: result.outputTokens,
    ttftMs: rounded(result.ttftMs),
    tokensPerSecond: rounded(tokensPerSecond(result)),
    finishReason: result.finishReason,
    topology: serving.topology,
    requestId: result.requestId,
    seed,
    ...(logprobs !== undefined && { logprobs: tokens.map(({ logprob }) => logprob) }),
  };
}

function summary(result: GenerationResult, serving: Serving, seed: number, startMs: number): string[] {
  const ended = { stop: "a stop text", length: "--max-tokens", eos: "the model's end" }[result.finishReason];
  return [
    "",
    `${count(result.promptTokens, "prompt token")}, ${count(result.outputTokens, "output token")}, ended by ${ended}, seed ${seed}`,
    `first token after ${seconds(result.ttftMs)}, ${tokensPerSecond(result).toFixed(1)} tokens/s` +
      (serving.topology.ephemeral ? `; ready after ${seconds(startMs)}` : ""),
    describeTopology(serving.topology),
  ];
}

function logprobLine({ index, id, text, logprob }: Token): string {
  const top = (logprob?.top ?? []).map(([other, value]) => `${other} ${value.toFixed(3)}`).join(", ");
  const own = `${index}\t${id}\t${JSON.stringify(text)}\t${logprob?.logprob.toFixed(3) ?? ""}`;
  return top === "" ? own : `${own}\t${top}`;
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s`;
}

function rounded(value: number): number {
  return Math.round(value * 100) / 100;
}
