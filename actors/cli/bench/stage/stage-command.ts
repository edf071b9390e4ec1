import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { RallyError } from "../../../../infra/errors.ts";
import { requireProvider, systemCudaPorts } from "../../../../infra/gpu/provider.ts";
import { findNvidia } from "../../../../infra/gpu/nvidia.ts";
import { cacheFolder } from "../../../../infra/settings.ts";
import { requireKernels } from "../../../../models/kernels/build.ts";
import type { Place } from "../../../../models/kernels/check/runner.ts";
import { STEP3_CONFIG } from "../../../../models/planner/step3-config.ts";
import type { CommandContext } from "../../command.ts";
import { badFlag, type FlagValues } from "../../flags.ts";
import { readReports } from "../project.ts";
import type { STAGE_FLAGS } from "../stage-flags.ts";
import { copyBytesPerSecond } from "./copy-rate.ts";
import { measurementsOf, measureStage } from "./measure-stage.ts";
import { stageTable } from "./stage-table.ts";

type Values = FlagValues<typeof STAGE_FLAGS> & { readonly json: boolean };

const CONFIGS = { step3: STEP3_CONFIG } as const;

/** RallyError `provider-unavailable` without a GPU, and without the kernels for it; `bad-settings` for what is no stage. */
export async function requireStageDevice({ stage }: Values, env: NodeJS.ProcessEnv): Promise<void> {
  stageOf(stage);
  await requireProvider("cuda", systemCudaPorts(env));
  requireKernels(cacheFolder(env));
}

/** `rally bench --stage`: in a process that was started so that the CUDA libraries are found. */
export async function runStage(values: Values, { env, terminal, interrupted }: CommandContext): Promise<number> {
  const { batch, context, kv, routing, torch, json } = values;
  const stage = stageOf(values.stage);
  const [torchReport] = torch === undefined ? [] : await readReports([torch]);
  const folder = await mkdtemp(path.join(tmpdir(), "rally-stage-"));
  try {
    const place: Place = { library: requireKernels(cacheFolder(env)), provider: "cuda", folder };
    terminal.progress("copy bandwidth");
    const rates = {
      copyBytesPerSecond: copyBytesPerSecond(place),
      fp8FlopsPerSecond: torchReport?.ceilings?.fp8FlopsPerSecond,
    };
    const measured = measureStage({
      place,
      config: CONFIGS[values.config],
      stage,
      batches: batch.length > 0 ? batch : [128],
      contexts: context.length > 0 ? context : [4096],
      kv,
      routing,
      progress: (text) => terminal.progress(text),
      stopped: () => {
        if (interrupted.aborted) throw new RallyError("cancelled", "interrupted");
      },
    });
    terminal.done();
    const device = (await findNvidia()).gpus[0]?.name ?? "unknown";
    const report = `${JSON.stringify({ device, ...rates, parts: measured, measurements: measurementsOf(stage, measured) })}\n`;
    if (values.save !== undefined) await writeFile(values.save, report);
    if (json) {
      terminal.write(report);
      return 0;
    }
    terminal.write(
      `${values.config}, ${stage} stage, ${stage === "attention" ? `${kv} KV` : routing}, on one ${device}\n`,
    );
    for (const line of stageTable(measured, torchReport?.measurements ?? [], rates)) terminal.write(`${line}\n`);
    return 0;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function stageOf(text: string | undefined): "attention" | "ffn" {
  if (text === "attention" || text === "ffn") return text;
  throw badFlag("stage", text ?? "", "attention or ffn");
}
