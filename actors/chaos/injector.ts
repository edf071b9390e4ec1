import { pause } from "../../infra/chaos/pause.ts";
import { slowProcess, squeezeMemory, stopProcess, limitFileSize } from "../../infra/chaos/process-faults.ts";
import { sendSignal } from "../../infra/chaos/signals.ts";
import { RallyError } from "../../infra/errors.ts";
import { ClientFaults } from "./client-faults.ts";
import { type FaultOf, isIn } from "./faults.ts";
import type { InjectedFault } from "./injected.ts";
import type { InjectorOptions } from "./injector-options.ts";
import { MessageFaults } from "./message-faults.ts";
import { networkFault } from "./network-faults.ts";
import type { PlannedFault } from "./schedule.ts";

/** A target that is just being restarted is waited for so long. */
const WAIT_FOR_TARGET_MS = 5_000;
const LOOK_EVERY_MS = 20;
const MIB = 2 ** 20;
/** So small that no file of a store can take one more message. */
const FULL_DISK_BYTES = 512;

/** Makes planned faults happen. */
export class Injector {
  readonly #options: InjectorOptions;
  readonly #clients: ClientFaults;
  readonly #messages: MessageFaults;

  constructor(options: InjectorOptions) {
    this.#options = options;
    this.#clients = new ClientFaults(options);
    this.#messages = new MessageFaults(options);
  }

  /** Request ids of hostile messages that were sent as requests. */
  get poisoned(): readonly string[] {
    return this.#messages.poisoned;
  }

  /** Resolves when the fault is over; the signal ends it early. Never throws. */
  async inject(planned: PlannedFault, struck: (fault: InjectedFault) => void, signal: AbortSignal): Promise<void> {
    const { fault, target } = planned;
    const injected: InjectedFault = {
      id: planned.id,
      kind: fault.kind,
      target: target ?? { broker: "nats-server", client: "a client", message: "every subject" }[groupName(planned)],
      plannedMs: planned.atMs,
      struckMs: 0,
      healedMs: undefined,
      skipped: undefined,
      note: undefined,
    };
    const begin = () => {
      Object.assign(injected, { struckMs: this.#options.load.elapsedMs });
      struck(injected);
    };
    try {
      injected.skipped = await this.#inject(planned, injected, begin, signal);
      if (injected.skipped !== undefined) begin();
    } catch (thrown) {
      injected.note = `the harness: ${RallyError.from(thrown).message}`;
    }
    injected.healedMs ??= this.#options.load.elapsedMs;
  }

  /** Why it did not strike, if so. */
  async #inject(
    { fault, target }: PlannedFault,
    injected: InjectedFault,
    begin: () => void,
    signal: AbortSignal,
  ): Promise<string | undefined> {
    const impossible = this.#options.target.cannot(fault);
    if (impossible !== undefined) return impossible;
    if (isIn(fault, "process")) {
      const pid = await this.#pidOf(target ?? "", signal);
      if (pid === undefined) return "its target was not running";
      begin();
      injected.note = await this.#process(fault, pid, signal);
    } else if (isIn(fault, "network")) {
      const proxy = this.#options.target.proxyOf(target ?? "");
      if (proxy === undefined) return "its target has no proxy";
      begin();
      if (fault.kind === "disconnect") proxy.disconnect();
      else {
        const heal = proxy.inject(networkFault(fault));
        await pause(this.#options.clock, fault.numbers.durationMs, signal);
        heal();
      }
    } else if (isIn(fault, "broker")) {
      const { broker } = this.#options.target;
      if (broker?.pid === undefined) return "nats-server was not running";
      begin();
      await this.#broker(fault, broker.pid, signal);
    } else if (isIn(fault, "client")) {
      begin();
      injected.note = await this.#clients.inject(fault, signal, () => {
        injected.healedMs = this.#options.load.elapsedMs;
      });
    } else {
      begin();
      injected.note = await this.#messages.inject(fault);
    }
    return undefined;
  }

  /** What came of it, where that is up to the process. */
  async #process(fault: FaultOf<"process">, pid: number, signal: AbortSignal): Promise<string | undefined> {
    const { clock, moveClock } = this.#options;
    switch (fault.kind) {
      case "kill":
        sendSignal(pid, "SIGKILL");
        break;
      case "stop":
        await stopProcess(clock, pid, fault.numbers.durationMs, signal);
        break;
      case "slow-down":
        await slowProcess(clock, pid, { ms: fault.numbers.durationMs, factor: fault.numbers.factor }, signal);
        break;
      case "memory-squeeze": {
        const { durationMs: ms, headroomMiB } = fault.numbers;
        if (!(await squeezeMemory(clock, pid, { ms, headroomBytes: headroomMiB * MIB }, signal))) return "it was gone";
        return sendSignal(pid, 0) ? "it bore it" : "it died of it";
      }
      case "clock-jump":
        moveClock?.(pid, fault.numbers.jumpMs);
        await pause(clock, fault.numbers.durationMs, signal);
        moveClock?.(pid, 0);
        break;
    }
    return undefined;
  }

  async #broker(fault: FaultOf<"broker">, pid: number, signal: AbortSignal): Promise<void> {
    const { clock, target } = this.#options;
    switch (fault.kind) {
      case "broker-kill":
      case "broker-restart":
        target.broker?.end(fault.kind === "broker-kill" ? "SIGKILL" : "SIGTERM", fault.numbers.durationMs);
        return target.broker?.isBack(signal);
      case "broker-stop":
        return stopProcess(clock, pid, fault.numbers.durationMs, signal);
      case "disk-full":
        return limitFileSize(clock, pid, { ms: fault.numbers.durationMs, bytes: FULL_DISK_BYTES }, signal);
    }
  }

  /** It may be on its way up again from an earlier fault. */
  async #pidOf(slot: string, signal: AbortSignal): Promise<number | undefined> {
    const { clock, target } = this.#options;
    const deadline = clock.elapsed() + WAIT_FOR_TARGET_MS;
    while (target.pidOf(slot) === undefined && clock.elapsed() < deadline && !signal.aborted) {
      await pause(clock, LOOK_EVERY_MS, signal);
    }
    return target.pidOf(slot);
  }
}

function groupName({ fault }: PlannedFault): "broker" | "client" | "message" {
  return isIn(fault, "broker") ? "broker" : isIn(fault, "client") ? "client" : "message";
}
