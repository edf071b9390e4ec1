import { setFlagsFromString } from "node:v8";
import { Worker } from "node:worker_threads";
import { RallyError, type WireError } from "../../infra/errors.ts";
import { compiledFile } from "../../infra/own-file.ts";
import { THREAD_FLAGS } from "./thread-flags.ts";

/** What every role's thread may say, whatever else it says. */
export type ThreadReport =
  | { readonly kind: "progress"; readonly text: string }
  | { readonly kind: "ready" }
  | { readonly kind: "warning"; readonly text: string }
  | { readonly kind: "failed"; readonly error: WireError };

export interface ThreadEvents<From> {
  progress(text: string): void;
  warning(text: string): void;
  /** The thread is broken or gone; nothing more comes from it. */
  failed(error: RallyError): void;
  /** Whatever is neither one of the reports above nor the answer to an `ask`. */
  message(message: From): void;
}

/** The thread of a role in which graphs run, seen from the process's main thread, whose event loop stays free. */
export class RoleThread<To, From extends ThreadReport | { readonly kind: string }> {
  readonly #worker: Worker;
  readonly #events: ThreadEvents<From>;
  readonly #exited: Promise<void>;
  readonly #waiting = new Map<string, ((message: From) => void)[]>();
  #closing = false;

  /** `modulePath` as for `compiledFile`. */
  constructor(modulePath: string, data: unknown, events: ThreadEvents<From>) {
    this.#events = events;
    // For the isolates that come: a running one keeps what it has.
    for (const flag of THREAD_FLAGS) setFlagsFromString(flag);
    this.#worker = new Worker(compiledFile(modulePath), { workerData: data });
    this.#worker.on("message", (message: From) => this.#receive(message));
    this.#worker.on("error", (error) => events.failed(RallyError.from(error)));
    this.#exited = new Promise((resolve) => {
      this.#worker.on("exit", (code) => {
        if (!this.#closing) events.failed(new RallyError("internal", `${modulePath} ended with status ${code}`));
        resolve();
      });
    });
  }

  /** Resolves when the thread says `ready`; a failure comes through `events.failed`, and the promise stays pending. */
  ready(): Promise<void> {
    return this.#next("ready").then(() => undefined);
  }

  post(message: To): void {
    this.#worker.postMessage(message);
  }

  /** Posts, and resolves with the next message of `kind`; answers come in the order of the questions. */
  ask<K extends From["kind"]>(message: To, kind: K): Promise<Extract<From, { readonly kind: K }>> {
    this.post(message);
    return this.#next(kind) as Promise<Extract<From, { readonly kind: K }>>;
  }

  /** Posts the message that makes the thread end, and waits for that. */
  async close(message: To): Promise<void> {
    this.#closing = true;
    this.post(message);
    await this.#exited;
  }

  #next(kind: string): Promise<From> {
    return new Promise((resolve) => {
      const waiting = this.#waiting.get(kind) ?? [];
      waiting.push(resolve);
      this.#waiting.set(kind, waiting);
    });
  }

  #receive(message: From): void {
    const report = message as ThreadReport;
    switch (report.kind) {
      case "progress":
        return this.#events.progress(report.text);
      case "warning":
        return this.#events.warning(report.text);
      case "failed":
        return this.#events.failed(RallyError.fromWire(report.error));
      default: {
        const answer = this.#waiting.get(message.kind)?.shift();
        if (answer === undefined) this.#events.message(message);
        else answer(message);
      }
    }
  }
}
