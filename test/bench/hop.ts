/**
 * What one hop costs: an activation's round trip through an echo process, beside its floors. Compiled, then
 * `node <dist>/test/bench/hop.js [--json] [--rounds N] [--sizes 4096,65536,1048576] [--ways shared,mapped]`.
 *
 * tcp      plain TCP on loopback, no broker
 * floor    a bare socket that speaks just enough of the NATS protocol, through nats-server
 * client   our bus over the `nats` package
 * bus      our bus over our own link
 * msgpack  the same with an ActivationBatch there and an ExpertResult back, encoded and decoded
 * shared   the same for a single receiver: large payloads go through shared memory, the message is the doorbell
 * mapped   the same with memory that both processes have mapped, where the native addon is built
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import net from "node:net";
import { cpus } from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { startNatsServer } from "../../infra/nats-server.ts";
import { HOP_WAYS, type HopContext, type HopWay } from "./hop-ways.ts";

interface Figures {
  /** Milliseconds. */
  readonly p50: number;
  readonly p99: number;
  /** Microseconds of CPU time per round trip. */
  readonly cpuUs: { readonly here: number; readonly echo: number; readonly server: number };
}

/** Round trips of one way in one round: enough bytes to be measured, and at least some. */
const numTrips = (size: number): number => Math.max(60, Math.min(2000, Math.round(64_000_000 / size)));

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      json: { type: "boolean" },
      rounds: { type: "string", default: "6" },
      sizes: { type: "string", default: "4096,65536,1048576" },
      ways: { type: "string", default: Object.keys(HOP_WAYS).join(",") },
    },
  });
  const sizes = values.sizes.split(",").map(Number);
  // Beside the hidden rows a message has expert ids, weights, and more.
  const maxPayload = 2 ** 20 + 2 * Math.max(...sizes);
  const server = await startNatsServer({ progress: (text) => console.error(text), maxPayload });
  const child = fork(fileURLToPath(import.meta.url), { env: { ...process.env, HOP_ECHO: "1" } });
  try {
    const context: HopContext = { natsUrl: server.url, tcpPort: await freePort() };
    child.send(context);
    await once(child, "message");
    const pids = { here: process.pid, echo: child.pid ?? 0, server: server.pid };
    const results = new Map<number, Map<string, Figures>>();
    for (const size of sizes) {
      results.set(size, await measure(size, values, context, pids));
    }
    if (values.json === true) {
      const plain = Object.fromEntries([...results].map(([size, figures]) => [size, Object.fromEntries(figures)]));
      console.log(
        JSON.stringify({ cpus: cpus().map(({ model }) => model), natsServer: server.version, results: plain }),
      );
    } else report(results, server.version);
  } finally {
    child.kill();
    await server.stop();
  }
}

/** Rounds in turn forwards and backwards, so that no way always comes first. Medians over all round trips. */
async function measure(
  size: number,
  { rounds, ways: names }: { readonly rounds: string; readonly ways: string },
  context: HopContext,
  pids: Readonly<Record<keyof Figures["cpuUs"], number>>,
): Promise<Map<string, Figures>> {
  const ways = names.split(",").map((name) => ({
    name,
    way: wayOf(name),
    times: [] as number[],
    ticks: { here: 0, echo: 0, server: 0 },
  }));
  for (let round = 0; round < Number(rounds); round++) {
    for (const { way, times, ticks } of round % 2 === 0 ? ways : ways.toReversed()) {
      const trip = await way.open(context, size);
      for (let i = 0; i < numTrips(size) / 5; i++) await trip.once();
      const from = { here: cpuTicks(pids.here), echo: cpuTicks(pids.echo), server: cpuTicks(pids.server) };
      for (let i = 0; i < numTrips(size); i++) {
        const sent = performance.now();
        await trip.once();
        times.push(performance.now() - sent);
      }
      ticks.here += cpuTicks(pids.here) - from.here;
      ticks.echo += cpuTicks(pids.echo) - from.echo;
      ticks.server += cpuTicks(pids.server) - from.server;
      await trip.close();
    }
  }
  return new Map(
    ways.map(({ name, times, ticks }) => {
      const sorted = times.toSorted((a, b) => a - b);
      const at = (share: number): number => sorted[Math.floor(sorted.length * share)] ?? 0;
      // A clock tick is 10 ms.
      const us = (count: number): number => (count * 10_000) / times.length;
      const cpuUs = { here: us(ticks.here), echo: us(ticks.echo), server: us(ticks.server) };
      return [name, { p50: at(0.5), p99: at(0.99), cpuUs }];
    }),
  );
}

function wayOf(name: string): HopWay {
  const way = HOP_WAYS[name];
  if (way === undefined) throw new Error(`no way ${name}: ${Object.keys(HOP_WAYS).join(", ")}`);
  return way;
}

/** User and system time of a process. */
function cpuTicks(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  return Number(fields[11]) + Number(fields[12]);
}

function report(results: ReadonlyMap<number, ReadonlyMap<string, Figures>>, version: string): void {
  const [cpu] = cpus();
  console.log(
    `round trip, ms; ${cpus().length} cores (${cpu?.model}), nats-server ${version}; CPU time in µs per trip`,
  );
  for (const [size, figures] of results) {
    const floor = figures.get("floor")?.p50;
    for (const [name, { p50, p99, cpuUs }] of figures) {
      const columns = [
        String(size).padStart(8),
        name.padEnd(8),
        `p50 ${p50.toFixed(3).padStart(7)}`,
        `p99 ${p99.toFixed(3).padStart(7)}`,
        ...(floor === undefined ? [] : [`${(p50 / floor).toFixed(2)} x floor`]),
        `cpu ${Object.entries(cpuUs)
          .map(([who, us]) => `${who} ${us.toFixed(0)}`)
          .join(", ")}`,
      ];
      console.log(columns.join("  "));
    }
  }
}

async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  return address !== null && typeof address === "object" ? address.port : 0;
}

async function echo(): Promise<void> {
  process.on("disconnect", () => process.exit(0));
  const [context]: HopContext[] = await once(process, "message");
  if (context === undefined) return;
  await Promise.all(Object.values(HOP_WAYS).map((way) => way.echo(context)));
  process.send?.("ready");
}

await (process.env["HOP_ECHO"] === undefined ? main() : echo());
