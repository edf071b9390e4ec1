import type { Command } from "./command.ts";
import { benchCommand } from "./bench.ts";
import { doctorCommand } from "./doctor.ts";
import { runCommand } from "./run.ts";
import { upCommand } from "./up.ts";

/** Every command of `rally`, in the order of its help. */
export const COMMANDS: readonly Command[] = [runCommand, upCommand, benchCommand, doctorCommand];
