import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import {
  findNatsServer,
  startNatsServer,
  type NatsServerBinary,
  type RunningNatsServer,
} from "../../infra/nats-server.ts";

let found: Promise<NatsServerBinary> | undefined;

/** A real nats-server of a test's own, which the test may kill and start again on the same port and store. */
export interface TestServer {
  readonly url: string;
  readonly running: RunningNatsServer;
  /** SIGKILL. */
  kill(): Promise<void>;
  /** On the same port and store. */
  restart(): Promise<void>;
  stop(): Promise<void>;
}

export async function startTestServer(options: { readonly maxPayload?: number } = {}): Promise<TestServer> {
  found ??= findNatsServer();
  const binary = await found;
  const storeDir = await mkdtemp(path.join(os.tmpdir(), "rally-test-"));
  let running = await startNatsServer({ binary, storeDir, ...options });
  const { url, port } = running;
  return {
    url,
    get running() {
      return running;
    },
    async kill() {
      process.kill(running.pid, "SIGKILL");
      await running.exited;
    },
    async restart() {
      running = await startNatsServer({ binary, storeDir, port, ...options });
    },
    async stop() {
      await running.stop();
      await rm(storeDir, { recursive: true, force: true });
    },
  };
}
