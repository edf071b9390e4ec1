/**
 * What one hop costs: an activation's round trip through an echo process, beside its floors. Needs `npm run build`.
 *
 *     node test/bench/hop.mjs [--json] [--rounds N]
 *
 * tcp      plain TCP on loopback, no broker
 * floor    a bare socket that speaks just enough of the NATS protocol, through nats-server
 * client   the `nats` package
 * bus      our bus, the payload as it is (the echo copies it once, as the bus demands)
 * msgpack  our bus, an ActivationBatch there and an ExpertResult back: encoded, decoded, tensors copied out
 * shared   the same for a single receiver: the bus then puts the bytes into shared memory and rings with an empty message
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import net from "node:net";
import { cpus } from "node:os";
import { fileURLToPath } from "node:url";
import { connect } from "nats";
import { decode, encode } from "../../dist/infra/codec.js";
import { connectNats } from "../../dist/infra/nats-connect.js";
import { startNatsServer } from "../../dist/infra/nats-server.js";
import { fromWireF32, toWireF32, toWireI32 } from "../../dist/infra/tensor.js";

const SIZES = [4096, 65_536, 1_048_576];
const ITERATIONS = { 4096: 2000, 65_536: 1000, 1_048_576: 60 };
const HIDDEN = 1024;
const CRLF = Buffer.from("\r\n");

/** Each way: `echo` answers in the other process; `open` gives a function that makes one round trip. */
const ways = {
  tcp: {
    echo: async ({ tcpPort }) => {
      const socket = net.connect({ port: tcpPort, host: "127.0.0.1", noDelay: true });
      socket.on("data", (data) => socket.write(data));
      await once(socket, "connect");
    },
    open: async ({ tcpServer }, size) => {
      const [socket] = tcpServer.sockets;
      const payload = Buffer.alloc(size, 7);
      let left = 0;
      let done = () => {};
      socket.removeAllListeners("data");
      socket.on("data", (data) => {
        left -= data.length;
        if (left === 0) done();
      });
      return () =>
        new Promise((resolve) => {
          left = size;
          done = resolve;
          socket.write(payload);
        });
    },
  },
  floor: {
    echo: async ({ url }) => {
      const socket = await bareNats(url, "SUB floor.there 1\r\n", (size, send) => {
        let chunks = [];
        let expected = 0;
        let have = 0;
        return (data) => {
          if (expected === 0) {
            const end = data.indexOf(10);
            expected = end + 1 + Number(data.toString("latin1", data.lastIndexOf(32, end) + 1, end - 1)) + 2;
            chunks = [data.subarray(end + 1)];
            size = expected - end - 3;
          } else chunks.push(data);
          have += data.length;
          if (have < expected) return;
          expected = 0;
          have = 0;
          send(`PUB floor.back ${size}\r\n`, ...chunks);
        };
      });
      socket.on("error", () => {});
    },
    open: async ({ url }, size) => {
      const payload = Buffer.alloc(size, 7);
      let left = 0;
      let done = () => {};
      const expected = `MSG floor.back 1 ${size}\r\n`.length + size + 2;
      let sendIt;
      const socket = await bareNats(url, "SUB floor.back 1\r\n", (_size, send) => {
        sendIt = send;
        return (data) => {
          left -= data.length;
          if (left === 0) done();
        };
      });
      const trip = () =>
        new Promise((resolve) => {
          left = expected;
          done = resolve;
          sendIt(`PUB floor.there ${size}\r\n`, payload, CRLF);
        });
      trip.close = () => socket.destroy();
      return trip;
    },
  },
  client: {
    echo: async ({ url }) => {
      const nc = await connect({ servers: url, noAsyncTraces: true });
      nc.subscribe("client.there", { callback: (_error, message) => nc.publish("client.back", message.data) });
      await nc.flush();
    },
    open: async ({ url }, size) => {
      const nc = await connect({ servers: url, noAsyncTraces: true });
      const payload = new Uint8Array(size).fill(7);
      let done = () => {};
      nc.subscribe("client.back", { callback: () => done() });
      await nc.flush();
      const trip = () =>
        new Promise((resolve) => {
          done = resolve;
          nc.publish("client.there", payload);
        });
      trip.close = () => nc.close();
      return trip;
    },
  },
  bus: {
    echo: async ({ url }) => {
      const { bus } = await connectNats({ url }, { name: "echo" });
      bus.subscribe("bus.there", ({ payload }) => bus.publish("bus.back", new Uint8Array(payload)));
      await bus.flush();
    },
    open: async ({ url }, size) => {
      const nats = await connectNats({ url }, { name: "bench" });
      const payload = new Uint8Array(size).fill(7);
      let done = () => {};
      nats.bus.subscribe("bus.back", () => done());
      await nats.bus.flush();
      const trip = () =>
        new Promise((resolve) => {
          done = resolve;
          nats.bus.publish("bus.there", payload);
        });
      trip.close = () => nats.close();
      return trip;
    },
  },
  msgpack: activations("msgpack", { single: false }),
  shared: activations("shared", { single: true }),
};

/** An ActivationBatch there and an ExpertResult back. */
function activations(name, options) {
  return {
    echo: async ({ url }) => {
      const { bus } = await connectNats({ url }, { name: "echo" });
      bus.subscribe(`${name}.there`, ({ payload }) => {
        const { hidden } = decode(payload);
        const rows = fromWireF32(hidden, hidden.shape);
        const result = { kind: "result", passId: 1, output: toWireF32(rows, hidden.shape, "f32") };
        bus.publish(`${name}.back`, encode(result), undefined, options);
      });
      await bus.flush();
    },
    open: async ({ url }, size) => {
      const nats = await connectNats({ url }, { name: "bench" });
      const shape = [size / 4 / HIDDEN, HIDDEN];
      const data = new Float32Array(size / 4).fill(0.5);
      const target = new Float32Array(size / 4);
      let done = () => {};
      nats.bus.subscribe(`${name}.back`, ({ payload }) => {
        const { output } = decode(payload);
        fromWireF32(output, shape, target);
        done();
      });
      await nats.bus.flush();
      const ids = new Int32Array(shape[0] * 3);
      const weights = new Float32Array(shape[0] * 3);
      const trip = () =>
        new Promise((resolve) => {
          done = resolve;
          const batch = {
            kind: "activations",
            deployment: "bench",
            epoch: 1,
            passId: 1,
            hidden: toWireF32(data, shape, "f32"),
            expertIds: toWireI32(ids, [shape[0], 3]),
            expertWeights: toWireF32(weights, [shape[0], 3], "f32"),
          };
          nats.bus.publish(`${name}.there`, encode(batch), undefined, options);
        });
      trip.close = () => nats.close();
      return trip;
    },
  };
}

/** A socket past the greeting; `makeReader` gets a function that writes pieces in one go. */
async function bareNats(url, subscribe, makeReader) {
  const { hostname, port } = new URL(url.replace("nats:", "http:"));
  const socket = net.connect({ host: hostname, port: Number(port), noDelay: true });
  await once(socket, "data");
  socket.write(`CONNECT {"verbose":false,"pedantic":false}\r\n${subscribe}PING\r\n`);
  await once(socket, "data");
  const send = (...pieces) => {
    socket.cork();
    for (const piece of pieces) socket.write(piece);
    socket.uncork();
  };
  const read = makeReader(0, send);
  // The server pings a new connection after a while; between two trips, so it stands alone or first.
  socket.on("data", (data) => {
    const isPing = data.length >= 6 && data.toString("latin1", 0, 6) === "PING\r\n";
    if (isPing) socket.write("PONG\r\n");
    if (!isPing || data.length > 6) read(isPing ? data.subarray(6) : data);
  });
  return socket;
}

if (process.argv[2] === "echo") {
  process.on("message", async (context) => {
    await Promise.all(Object.values(ways).map(({ echo }) => echo(context)));
    process.send({ ready: true });
  });
  process.on("message", () => {});
  process.on("disconnect", () => process.exit(0));
} else {
  await main();
}

async function main() {
  const rounds = Number(process.argv[process.argv.indexOf("--rounds") + 1]) || 6;
  const server = await startNatsServer({ progress: console.error });
  const sockets = [];
  const tcp = net.createServer({ noDelay: true }, (socket) => sockets.push(socket));
  await new Promise((resolve) => tcp.listen(0, "127.0.0.1", resolve));
  const child = fork(fileURLToPath(import.meta.url), ["echo"]);
  try {
    const context = { url: server.url, tcpPort: tcp.address().port };
    child.send(context);
    await once(child, "message");
    const results = {};
    for (const size of SIZES)
      results[size] = await measure(size, rounds, { ...context, tcpServer: { sockets } }, [
        process.pid,
        child.pid,
        server.pid,
      ]);
    report(results, server.version);
  } finally {
    child.kill();
    for (const socket of sockets) socket.destroy();
    tcp.close();
    await server.stop();
  }
}

/** Rounds in turn forwards and backwards, so that no way always comes first. Medians over all round trips. */
async function measure(size, rounds, context, pids) {
  const names = Object.keys(ways);
  const times = Object.fromEntries(names.map((name) => [name, []]));
  const cpu = Object.fromEntries(names.map((name) => [name, [0, 0, 0]]));
  for (let round = 0; round < rounds; round++) {
    for (const name of round % 2 === 0 ? names : names.toReversed()) {
      const trip = await ways[name].open(context, size);
      for (let i = 0; i < ITERATIONS[size] / 5; i++) await trip();
      const before = pids.map(cpuTicks);
      for (let i = 0; i < ITERATIONS[size]; i++) {
        const from = performance.now();
        await trip();
        times[name].push(performance.now() - from);
      }
      for (const [i, pid] of pids.entries()) cpu[name][i] += cpuTicks(pid) - before[i];
      await trip.close?.();
    }
  }
  return Object.fromEntries(
    names.map((name) => {
      const sorted = times[name].toSorted((a, b) => a - b);
      return [
        name,
        {
          p50: sorted[Math.floor(sorted.length / 2)],
          p99: sorted[Math.floor(sorted.length * 0.99)],
          // Clock ticks are 10 ms.
          cpuUs: cpu[name].map((ticks) => (ticks * 10_000) / sorted.length),
        },
      ];
    }),
  );
}

function cpuTicks(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
  return Number(fields[11]) + Number(fields[12]);
}

function report(results, version) {
  if (process.argv.includes("--json")) {
    console.log(JSON.stringify({ cpus: cpus().length, cpu: cpus()[0].model, natsServer: version, results }));
    return;
  }
  console.log(
    `round trip through an echo process, ms; ${cpus().length} cores (${cpus()[0].model}), nats-server ${version}`,
  );
  for (const size of SIZES) {
    const floor = results[size].floor.p50;
    for (const [name, { p50, p99, cpuUs }] of Object.entries(results[size])) {
      console.log(
        `${String(size).padStart(8)} ${name.padEnd(8)} p50 ${p50.toFixed(3).padStart(7)}  p99 ${p99.toFixed(3).padStart(7)}` +
          `  ${(p50 / floor).toFixed(2)} x floor  cpu µs: here ${cpuUs[0].toFixed(0)}, echo ${cpuUs[1].toFixed(0)}, server ${cpuUs[2].toFixed(0)}`,
      );
    }
  }
}
