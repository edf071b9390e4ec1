import type { Clock, Timer } from "../../infra/clock.ts";
import { RallyError } from "../../infra/errors.ts";
import type { RunningNatsServer, startNatsServer } from "../../infra/nats-server.ts";
import { Backoff } from "./backoff.ts";

export interface SupervisedServerOptions {
  readonly startServer: typeof startNatsServer;
  readonly clock: Clock;
  /** Where it keeps queue and token log; without it in a temporary folder, removed by `stop`. */
  readonly storeDir: string | undefined;
  readonly progress: (text: string) => void;
  readonly warning: (text: string) => void;
}

const HEALTHY_AFTER_MS = 10_000;

/**
 * Keeps a nats-server of our own running. After a crash it comes back on the same port with the same store, so that everybody
 * finds it again and nothing on disk is lost. It ends with this process in any case.
 */
export class SupervisedServer {
  readonly #options: SupervisedServerOptions;
  readonly #backoff = new Backoff();
  /** The first one owns the temporary folder. */
  #first: RunningNatsServer | undefined;
  #current: Promise<RunningNatsServer> | undefined;
  #healthy: Timer | undefined;
  #restart: Timer | undefined;
  #stopping = false;

  constructor(options: SupervisedServerOptions) {
    this.#options = options;
  }

  async start(): Promise<RunningNatsServer> {
    const { startServer, storeDir, progress } = this.#options;
    this.#current = startServer({ ...(storeDir !== undefined && { storeDir }), progress });
    const server = await this.#current;
    this.#first = server;
    this.#watch(server);
    return server;
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    this.#restart?.cancel();
    this.#healthy?.cancel();
    // What never started needs no ending.
    const current = await this.#current?.catch(() => undefined);
    await current?.stop();
    if (this.#first !== current) await this.#first?.stop();
  }

  #watch(server: RunningNatsServer): void {
    const { clock, warning } = this.#options;
    this.#healthy = clock.after(HEALTHY_AFTER_MS, () => this.#backoff.reset());
    void server.exited.then(() => {
      this.#healthy?.cancel();
      if (!this.#stopping) this.#startAgain(server, warning);
    });
  }

  #startAgain(last: RunningNatsServer, warning: (text: string) => void): void {
    const { startServer, clock } = this.#options;
    const delay = this.#backoff.next();
    warning(`it has ended; starting it again in ${delay} ms`);
    this.#restart = clock.after(delay, () => {
      this.#current = startServer({ storeDir: last.storeDir, port: last.port });
      this.#current.then(
        (server) => this.#watch(server),
        (thrown: unknown) => {
          warning(RallyError.from(thrown).message);
          if (!this.#stopping) this.#startAgain(last, warning);
        },
      );
    });
  }
}
