import type { RunningNatsServer } from "../../infra/nats-server.ts";

/** A server that only says it runs; `crash` ends it unasked. */
export function fakeServer(stopped: () => void = () => undefined): RunningNatsServer & { crash(): void } {
  let ended: (() => void) | undefined;
  const exited = new Promise<void>((resolve) => (ended = resolve));
  return {
    url: "nats://127.0.0.1:4444",
    port: 4444,
    // No process has this one.
    pid: 2 ** 30,
    version: "2.9.10",
    source: "PATH",
    maxPayload: 1 << 20,
    storeDir: "/tmp/rally-nats-fake",
    logFile: "/tmp/rally-nats-fake/log",
    exited,
    crash: () => ended?.(),
    async stop() {
      ended?.();
      stopped();
    },
  };
}
