import type { Clock, Timer } from "../../infra/clock.ts";
import { RallyError } from "../../infra/errors.ts";
import type { RunningNatsServer, StartOptions, startNatsServer } from "../../infra/nats-server.ts";
import { Backoff } from "./backoff.ts";
import { ENOUGH_BYTES, LOW_BYTES, type StoreFolder, storeError } from "./store-folder.ts";

export interface SupervisedServerOptions {
  readonly startServer: typeof startNatsServer;
  readonly clock: Clock;
  readonly folder: StoreFolder;
  readonly kill: (pid: number, signal: "SIGTERM" | "SIGKILL") => void;
  /** Where it keeps queue and token log; without it in a temporary folder, removed by `stop`. */
  readonly storeDir: string | undefined;
  readonly progress: (text: string) => void;
  readonly warning: (text: string) => void;
}

const HEALTHY_AFTER_MS = 5_000;
const LOOK_EVERY_MS = 1_000;
const END_LIMIT_MS = 3_000;
/**
 * As good as none: the server's own limit counts what streams reserve, and would leave out streams at a start when the disk
 * has become fuller. How full the disk really is we look at ourselves.
 */
const MAX_STORE_BYTES = 2 ** 40;

/**
 * Keeps a nats-server of our own running. After a crash it comes back on the same port with the same store, so that everybody
 * finds it again and nothing on disk is lost. It ends with this process in any case. While the disk is full its place is taken
 * by one without a store, so that requests are refused rather than lost, and what is on disk stays as it is.
 */
export class SupervisedServer {
  readonly #options: SupervisedServerOptions;
  readonly #backoff = new Backoff();
  /** The first one owns the temporary folder. */
  #first: RunningNatsServer | undefined;
  #current: Promise<RunningNatsServer> | undefined;
  /** Set while it runs. */
  #running: RunningNatsServer | undefined;
  #refuses = false;
  /** It was ended by us, to be started again at once. */
  #changing = false;
  #numStarts = 0;
  #healthy: Timer | undefined;
  #look: Timer | undefined;
  #restart: Timer | undefined;
  #stopping = false;

  constructor(options: SupervisedServerOptions) {
    this.#options = options;
  }

  /** Grows with every server that got ready. */
  get numStarts(): number {
    return this.#numStarts;
  }

  /** RallyError `store-unavailable` if the store cannot be written to, or its disk is full. */
  async start(): Promise<RunningNatsServer> {
    this.#current = this.#startFirst();
    const server = await this.#current;
    this.#first = server;
    this.#watch(server);
    return server;
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    this.#cancelTimers();
    // What never started needs no ending.
    const current = await this.#current?.catch(() => undefined);
    await current?.stop();
    if (this.#first !== current) await this.#first?.stop();
  }

  /** Ends one that does not answer any more; the next is started in its place. */
  replace(why: string): void {
    const server = this.#running;
    if (server === undefined || this.#stopping) return;
    this.#options.warning(`${why}; starting it anew`);
    this.#change(server, "SIGKILL");
  }

  async #startFirst(): Promise<RunningNatsServer> {
    const { startServer, storeDir, progress, folder } = this.#options;
    if (storeDir === undefined) {
      await folder.sweep();
      try {
        const server = await startServer({ maxStoreBytes: MAX_STORE_BYTES, progress });
        await folder.claim(server.storeDir);
        return server;
      } catch (thrown) {
        throw storeError(thrown, "in the temporary folder");
      }
    }
    await folder.check(storeDir);
    const port = await folder.lastPort(storeDir);
    const options: StartOptions = { storeDir, maxStoreBytes: MAX_STORE_BYTES, progress };
    const server = await startServer({ ...options, ...(port !== undefined && { port }) });
    await folder.keepPort(storeDir, server.port);
    return server;
  }

  #watch(server: RunningNatsServer): void {
    const { clock } = this.#options;
    this.#numStarts++;
    this.#running = server;
    this.#healthy = clock.after(HEALTHY_AFTER_MS, () => this.#backoff.reset());
    this.#lookSoon();
    void server.exited.then(() => {
      this.#running = undefined;
      this.#cancelTimers();
      if (this.#stopping) return;
      // Its files, if they are its own alone; what the first one has is the store.
      if (server !== this.#first) void server.stop();
      this.#startAgain();
    });
  }

  #lookSoon(): void {
    this.#look = this.#options.clock.after(LOOK_EVERY_MS, () => void this.#lookAtDisk());
  }

  async #lookAtDisk(): Promise<void> {
    const { folder, warning } = this.#options;
    const server = this.#running;
    if (server === undefined || this.#first === undefined) return;
    const { storeDir } = this.#first;
    const isLow = !(await folder.hasRoom(storeDir, this.#refuses ? ENOUGH_BYTES : LOW_BYTES));
    if (this.#running !== server || this.#stopping) return;
    if (isLow === this.#refuses) return this.#lookSoon();
    warning(
      isLow
        ? `the disk of ${storeDir} is full: requests are refused until there is room again`
        : `there is room in ${storeDir} again`,
    );
    this.#change(server, "SIGTERM");
  }

  #change({ pid, exited }: RunningNatsServer, signal: "SIGTERM" | "SIGKILL"): void {
    const { clock, kill } = this.#options;
    this.#changing = true;
    kill(pid, signal);
    // One that has met the full disk may never end by itself.
    const insisting = clock.after(END_LIMIT_MS, () => kill(pid, "SIGKILL"));
    void exited.then(() => insisting.cancel());
  }

  #startAgain(): void {
    const { clock, warning } = this.#options;
    const delay = this.#changing ? 0 : this.#backoff.next();
    if (!this.#changing) warning(`it has ended; starting it again in ${delay} ms`);
    this.#changing = false;
    this.#restart = clock.after(delay, () => {
      this.#current = this.#startNext();
      this.#current.then(
        (server) => this.#watch(server),
        (thrown: unknown) => {
          warning(RallyError.from(thrown).message);
          if (!this.#stopping) this.#startAgain();
        },
      );
    });
  }

  async #startNext(): Promise<RunningNatsServer> {
    const { startServer, folder } = this.#options;
    const { storeDir, port } = this.#first as RunningNatsServer;
    this.#refuses = !(await folder.hasRoom(storeDir, LOW_BYTES));
    if (this.#refuses) return await startServer({ port, jetStream: false });
    try {
      return await startServer({ storeDir, port, maxStoreBytes: MAX_STORE_BYTES });
    } catch (thrown) {
      throw storeError(thrown, storeDir);
    }
  }

  #cancelTimers(): void {
    for (const timer of [this.#healthy, this.#look, this.#restart]) timer?.cancel();
  }
}
