import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { promisify } from "node:util";
import { inspectCuda, type Need, systemCudaPorts, withProvider } from "../../infra/gpu/provider.ts";
import { addonFile } from "../../infra/native/build.ts";
import { compiledFile } from "../../infra/own-file.ts";
import type { Provider } from "../../infra/session.ts";
import { cacheFolder } from "../../infra/settings.ts";
import { KERNEL_KINDS, kernelsFile } from "../../models/kernels/build.ts";
import type { Check } from "./check.ts";

const run = promisify(execFile);
/** The first use of a GPU loads a good deal. */
const PROBE_LIMIT_MS = 60_000;

/** What there is of a GPU and what it needs; a lack is one only where `provider` is to be cuda. */
export async function checkGpu(provider: Provider, ports = systemCudaPorts(process.env)): Promise<Check[]> {
  const needs = await inspectCuda(ports);
  const [driver] = needs;
  if (provider === "cpu" && driver?.found === "none") {
    const found = "none; --provider cpu needs none (rally doctor --provider cuda says what a GPU would need)";
    return [{ name: "GPU", state: "ok", found }];
  }
  const lack: Lack = provider === "cuda" ? "missing" : "warning";
  const checks = [...needs, addonNeed(ports.env), kernelsNeed(ports.env)].map(({ name, ...rest }): Check => ({
    name,
    state: rest.advice === undefined ? "ok" : OPTIONAL.includes(name) ? "warning" : lack,
    ...rest,
  }));
  if (needs.some(({ advice }) => advice !== undefined)) return checks;
  const computes = await checkProvider("cuda", ports.env, lack);
  if (computes.state !== "ok" || !existsSync(addonFile(cacheFolder(ports.env)))) return [...checks, computes];
  const addon = await checkAddon("cuda", ports.env, lack);
  if (addon.state !== "ok" || !existsSync(kernelsFile(cacheFolder(ports.env)))) return [...checks, computes, addon];
  return [...checks, computes, addon, await attempt("kernels on cuda", KERNELS_CHECK, "cuda", ports.env, "warning")];
}

/** Compares every kernel with float64, for some seconds. */
const KERNELS_CHECK = "models/kernels/check/main";

const ADDON = "native addon";
const KERNELS = "CUDA kernels";
/** ONNX Runtime computes without them. */
const OPTIONAL = [ADDON, KERNELS];

/** Without it onnxruntime-node computes, more slowly, so its absence is worth a word, no more. */
function addonNeed(env: NodeJS.ProcessEnv): Need {
  const file = addonFile(cacheFolder(env));
  if (existsSync(file)) return { name: ADDON, found: file };
  return { name: ADDON, found: "not built", advice: "rally gpu setup builds it where there is a C++ compiler" };
}

function kernelsNeed(env: NodeJS.ProcessEnv): Need {
  const files = KERNEL_KINDS.map((kind) => kernelsFile(cacheFolder(env), kind));
  const missing = KERNEL_KINDS.filter((_, i) => !existsSync(files[i] ?? ""));
  if (missing.length === 0) return { name: KERNELS, found: files.join(", ") };
  return {
    name: KERNELS,
    found: `not built: ${missing.join(", ")}`,
    advice: "rally gpu setup builds them where there is CUDA's compiler nvcc",
  };
}

/** Runs a graph, in a process of its own, as the actors have. */
export function checkProvider(provider: Provider, env: NodeJS.ProcessEnv, lack: Lack): Promise<Check> {
  return attempt(`provider ${provider}`, "actors/cli/try-provider", provider, env, lack);
}

/** Tensors on the device, CUDA graphs and lanes of the addon, in a process of their own. */
export function checkAddon(provider: Provider, env: NodeJS.ProcessEnv, lack: Lack): Promise<Check> {
  return attempt(`addon on ${provider}`, "actors/cli/try-addon", provider, env, lack);
}

type Lack = "missing" | "warning";

async function attempt(
  name: string,
  program: string,
  provider: Provider,
  env: NodeJS.ProcessEnv,
  lack: Lack,
): Promise<Check> {
  try {
    const options = { env: withProvider(provider, env), timeout: PROBE_LIMIT_MS };
    await run(process.execPath, [compiledFile(program), provider], options);
    return { name, state: "ok", found: "computes" };
  } catch (thrown) {
    const text = thrown instanceof Error && "stderr" in thrown ? String(thrown.stderr) : String(thrown);
    const advice = "everything is there and yet it does not compute: check that driver and libraries fit each other";
    return { name, state: lack, found: text.trim().split("\n").slice(-3).join(" ").slice(0, 600), advice };
  }
}
