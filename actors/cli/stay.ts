import type { RallyError } from "../../infra/errors.ts";
import { Supervisor, type SupervisorEvent, type SupervisorOptions } from "../supervisor/supervisor.ts";
import { writeTraceFile } from "../supervisor/trace-file.ts";
import type { CommandContext } from "./command.ts";
import { withSource } from "./serving.ts";

export interface StayOptions {
  readonly supervise: Omit<SupervisorOptions, "onEvent" | "trace">;
  readonly traceFile: string | undefined;
  /** Events as JSON objects instead of lines. */
  readonly json: boolean;
  /** Once everything runs: what to say. */
  readonly ready: (supervisor: Supervisor) => { readonly event: object; readonly line: string };
  /** When it begins to end. */
  readonly leaving: () => void;
}

/** Runs actors until Ctrl-C, or until nobody needs them. Resolves with the exit status. */
export async function stay(options: StayOptions, context: CommandContext): Promise<number> {
  const { traceFile, json } = options;
  const { terminal, interrupted } = context;
  if (traceFile !== undefined) await writeTraceFile(traceFile, []);
  const tell = (event: object, line: string) =>
    json ? terminal.write(`${JSON.stringify(event)}\n`) : terminal.say(line);
  const failed = new AbortController();
  let isUp = false;
  const onEvent = (event: SupervisorEvent) => {
    switch (event.kind) {
      case "progress":
        return terminal.progress(withSource(event.source, event.text));
      case "warning":
        return tell({ event: "warning", source: event.source, text: event.text }, withSource(event.source, event.text));
      case "ready":
        return isUp ? tell({ event: "restarted", source: event.source }, `${event.source} is ready`) : undefined;
      case "failed":
        return failed.abort(event.error);
    }
  };
  const supervisor = new Supervisor({ ...options.supervise, trace: traceFile !== undefined, onEvent });
  context.onKill(() => supervisor.kill());
  const stop = () => void supervisor.stop({ drain: true });
  interrupted.addEventListener("abort", stop, { once: true });
  terminal.progress("starting the actors");
  if (interrupted.aborted) stop();
  await supervisor.start();
  interrupted.removeEventListener("abort", stop);
  terminal.done();
  isUp = true;
  const { event, line } = options.ready(supervisor);
  tell(event, line);
  await Promise.race([aborted(interrupted), aborted(failed.signal), supervisor.retired]);
  isUp = false;
  options.leaving();
  terminal.progress("letting the requests in hand finish; Ctrl-C again ends them");
  if (traceFile !== undefined) await writeTraceFile(traceFile, await supervisor.trace());
  await supervisor.stop({ drain: !failed.signal.aborted });
  terminal.done();
  if (failed.signal.aborted) throw failed.signal.reason as RallyError;
  tell({ event: "stopped" }, "stopped");
  return 0;
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
