import { type ChildProcess, fork } from "node:child_process";
import { NatsProxy } from "../../infra/chaos/nats-proxy.ts";
import { pause } from "../../infra/chaos/pause.ts";
import { SeededRandom } from "../../infra/chaos/seeded.ts";
import { serverAddresses } from "../../infra/nats-settings.ts";
import { compiledFile } from "../../infra/own-file.ts";
import { RallyClient } from "../client/rally-client.ts";
import type { ClientOrders, GenerateOptions } from "./client-messages.ts";
import type { FaultOf } from "./faults.ts";
import type { InjectorOptions } from "./injector-options.ts";
import type { RequestRecord } from "./request-record.ts";

/** The victim's requests are looked for until its messages have arrived. */
const RESUME_EVERY_MS = 100;

interface Course {
  readonly wait: () => Promise<void>;
  readonly over: () => void;
}

/** Faults of clients: ones that crash, ones that stop reading. Their requests are the oracle's like all others. */
export class ClientFaults {
  readonly #options: InjectorOptions;

  constructor(options: InjectorOptions) {
    this.#options = options;
  }

  /** Resolves, with what was done in words, when the victim's requests have ended; `over` is called when its misery has. */
  inject(fault: FaultOf<"client">, signal: AbortSignal, over: () => void): Promise<string> {
    const { durationMs, requests } = fault.numbers;
    const wait = () => pause(this.#options.clock, durationMs, signal);
    return fault.kind === "client-crash"
      ? this.#crash(requests, { wait, over }, signal)
      : this.#stopReading(requests, { wait, over }, signal);
  }

  async #crash(count: number, { wait, over }: Course, signal: AbortSignal): Promise<string> {
    const { target, load, clock } = this.#options;
    const child = fork(compiledFile("actors/chaos/client-worker"), { stdio: ["ignore", "ignore", "inherit", "ipc"] });
    try {
      const taken = Array.from({ length: count }, () => this.#take());
      const orders: ClientOrders = {
        nats: target.nats,
        deployment: target.deployment,
        requests: taken.map(({ options }) => options),
      };
      child.send(orders);
      await sent(child);
      await wait();
      child.kill("SIGKILL");
      over();
      await Promise.all(
        taken.map(async ({ record, options }) => {
          // One whose message was lost with its client is sent again; under the same id that is no second request.
          await pause(clock, RESUME_EVERY_MS, signal);
          await load.follow(record, () => target.client.generate(options));
        }),
      );
      return `${count} requests read by another client`;
    } finally {
      child.kill("SIGKILL");
    }
  }

  async #stopReading(count: number, { wait, over }: Course, signal: AbortSignal): Promise<string> {
    const { target, load, clock, seed } = this.#options;
    const [upstream] = serverAddresses(target.nats);
    const proxy = await NatsProxy.listen({
      clock,
      random: new SeededRandom(seed, "victim"),
      upstream: () => upstream,
    });
    const nats = { ...target.nats, url: `nats://127.0.0.1:${proxy.port}` };
    const client = await RallyClient.connect(nats, { deployment: target.deployment, name: "rally-chaos-victim" });
    try {
      const following = Array.from({ length: count }, () => {
        const { record, options } = this.#take();
        return load.follow(record, () => client.generate(options));
      });
      await pause(clock, RESUME_EVERY_MS, signal);
      const heal = proxy.inject({ kind: "partition", direction: "from-server" });
      await wait();
      heal();
      over();
      await Promise.all(following);
      return `${count} requests of its own`;
    } finally {
      await client.close();
      await proxy.close();
    }
  }

  #take(): { readonly record: RequestRecord; readonly options: GenerateOptions } {
    const { record, request } = this.#options.load.take();
    const { requestId } = record;
    const { prompt, maxTokens, sampling, deadlineMs } = request;
    return { record, options: { requestId, prompt, maxTokens, sampling, deadlineMs } };
  }
}

async function sent(child: ChildProcess): Promise<void> {
  await new Promise<void>((resolve) => {
    child.once("message", () => resolve());
    child.once("exit", () => resolve());
  });
}
