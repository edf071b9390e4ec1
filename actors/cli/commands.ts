import type { Command } from "./command.ts";
import { benchCommand } from "./bench.ts";
import { chaosCommand } from "./chaos.ts";
import { doctorCommand } from "./doctor.ts";
import { gpuCommand } from "./gpu.ts";
import { runCommand } from "./run.ts";
import { joinCommand } from "./join.ts";
import { placeCommand } from "./place.ts";
import { psCommand } from "./ps.ts";
import { upCommand } from "./up.ts";

/** Every command of `rally`, in the order of its help. */
export const COMMANDS: readonly Command[] = [
  runCommand,
  upCommand,
  joinCommand,
  placeCommand,
  psCommand,
  benchCommand,
  chaosCommand,
  doctorCommand,
  gpuCommand,
];
