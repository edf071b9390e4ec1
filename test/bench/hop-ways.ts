import { once } from "node:events";
import net from "node:net";
import { AnswerEncoder, BatchDecoder, BatchEncoder, ResultDecoder } from "../../actors/protocol/hot-messages.ts";
import { checkSeal, seal } from "../../actors/protocol/seal.ts";
import type { Bus, BusMessage, PublishOptions } from "../../infra/bus.ts";
import { NatsBus } from "../../infra/nats-bus.ts";
import { openClientLink } from "../../infra/nats-client-link.ts";
import { openWireLink } from "../../infra/nats-wire-link.ts";
import { fromWireF32, toWireF32, toWireI32 } from "../../infra/tensor.ts";

/** Where both processes meet. */
export interface HopContext {
  readonly natsUrl: string;
  readonly tcpPort: number;
}

/** One way to send `size` bytes to another process and back. */
export interface HopWay {
  /** In the other process: answers until that ends. */
  echo(context: HopContext): Promise<void>;
  open(context: HopContext, size: number): Promise<HopTrip>;
}

export interface HopTrip {
  /** Resolves when everything is back. */
  once(): Promise<void>;
  close(): Promise<void>;
}

const HIDDEN = 1024;
const TOP_K = 3;
const POSITION = { passId: 1, microBatch: 0, layer: 3, part: 0, attempt: 0 } as const;

export const HOP_WAYS: Readonly<Record<string, HopWay>> = {
  tcp: plainTcp(),
  floor: bareNats(),
  client: overBus("client", async (url) => new NatsBus(await openClientLink({ url }, "hop"))),
  bus: overBus("bus", async (url) => new NatsBus(await openWireLink({ url }, "hop"))),
  msgpack: activations("msgpack", {}),
  shared: activations("shared", { single: true }, "copied"),
  mapped: activations("mapped", { single: true }, true),
};

/** No broker at all: the echo listens. */
function plainTcp(): HopWay {
  return {
    async echo({ tcpPort }) {
      const server = net.createServer({ noDelay: true }, (socket) => {
        socket.on("data", (data) => socket.write(data));
        socket.on("error", () => {});
      });
      server.listen(tcpPort, "127.0.0.1");
      await once(server, "listening");
    },
    async open({ tcpPort }, size) {
      const socket = net.connect({ port: tcpPort, host: "127.0.0.1", noDelay: true });
      await once(socket, "connect");
      return countingTrip(socket, size, (payload) => socket.write(payload));
    },
  };
}

/** A bare socket that speaks just enough of the NATS protocol: what the broker itself costs. */
function bareNats(): HopWay {
  return {
    async echo({ natsUrl }) {
      const socket = await bareSocket(natsUrl, "floor.there");
      let expected = 0;
      let received = 0;
      let chunks: Uint8Array[] = [];
      onBareData(socket, (data) => {
        if (expected === 0) {
          const end = data.indexOf(10);
          const size = Number(data.toString("latin1", data.lastIndexOf(32, end) + 1, end - 1));
          expected = end + 1 + size + 2;
          received = 0;
          chunks = [Buffer.from(`PUB floor.back ${size}\r\n`), data.subarray(end + 1)];
        } else chunks.push(data);
        received += data.length;
        if (received < expected) return;
        expected = 0;
        writeTogether(socket, chunks);
      });
    },
    async open({ natsUrl }, size) {
      const socket = await bareSocket(natsUrl, "floor.back");
      const expected = `MSG floor.back 1 ${size}\r\n`.length + size + 2;
      const head = Buffer.from(`PUB floor.there ${size}\r\n`);
      const tail = Buffer.from("\r\n");
      return countingTrip(socket, size, (payload) => writeTogether(socket, [head, payload, tail]), expected);
    },
  };
}

/** The payload as it is; the echo copies it once, as the bus demands. */
function overBus(name: string, connect: (url: string) => Promise<Bus>): HopWay {
  return {
    async echo({ natsUrl }) {
      const bus = await connect(natsUrl);
      bus.subscribe(`${name}.there`, ({ payload }) => bus.publish(`${name}.back`, new Uint8Array(payload)));
      await bus.flush();
    },
    async open({ natsUrl }, size) {
      const bus = await connect(natsUrl);
      const payload = new Uint8Array(size).fill(7);
      return await busTrip(bus, name, () => bus.publish(`${name}.there`, payload));
    },
  };
}

/** An ActivationBatch there and an ExpertResult back: encoded, decoded, tensors copied out, as the actors do. */
function activations(name: string, options: PublishOptions, shared: boolean | "copied" = false): HopWay {
  const lent = { ...options, borrowed: true, seal };
  const connect = async (url: string): Promise<Bus> => new NatsBus(await openWireLink({ url }, "hop"), { shared });
  return {
    async echo({ natsUrl }) {
      const bus = await connect(natsUrl);
      const [decoder, encoder] = [new BatchDecoder(), new AnswerEncoder(bus.scratch())];
      let hidden = new Float32Array(0);
      bus.subscribe(`${name}.there`, ({ payload, isShared }) => {
        const { hidden: tensor } = decoder.decode(payload);
        if (isShared !== true) checkSeal("the batch", payload);
        const [rows = 0] = tensor.shape;
        if (hidden.length !== rows * HIDDEN) hidden = new Float32Array(rows * HIDDEN);
        fromWireF32(tensor, tensor.shape, hidden);
        const output = toWireF32(hidden, tensor.shape, "f32");
        const result = {
          kind: "result",
          ...POSITION,
          shard: 0,
          expertId: "e0",
          output,
          waitUs: 1,
          computeUs: 1,
        } as const;
        bus.publish(`${name}.back`, encoder.encode(result), undefined, lent);
      });
      await bus.flush();
    },
    async open({ natsUrl }, size) {
      const bus = await connect(natsUrl);
      const rows = size / 4 / HIDDEN;
      const hidden = new Float32Array(rows * HIDDEN).fill(0.5);
      const target = new Float32Array(rows * HIDDEN);
      const common = { kind: "activations", deployment: "bench", epoch: 1, attentionId: "a0", ...POSITION } as const;
      const [encoder, decoder] = [new BatchEncoder(bus.scratch()), new ResultDecoder()];
      const expertIds = new Int32Array(rows * TOP_K);
      const expertWeights = new Float32Array(rows * TOP_K);
      const send = (): void => {
        const batch = {
          ...common,
          deadline: Date.now(),
          hidden: toWireF32(hidden, [rows, HIDDEN], "f32"),
          expertIds: toWireI32(expertIds, [rows, TOP_K]),
          expertWeights: toWireF32(expertWeights, [rows, TOP_K], "f32"),
        };
        bus.publish(`${name}.there`, encoder.encode(batch), undefined, lent);
      };
      const receive = ({ payload, isShared }: BusMessage): void => {
        const result = decoder.decode(payload);
        if (isShared !== true) checkSeal("the answer", payload);
        if (result.kind === "result") fromWireF32(result.output, [rows, HIDDEN], target);
      };
      return await busTrip(bus, name, send, receive);
    },
  };
}

async function busTrip(
  bus: Bus,
  name: string,
  send: () => void,
  receive: (message: BusMessage) => void = () => {},
): Promise<HopTrip> {
  let done: (() => void) | undefined;
  bus.subscribe(`${name}.back`, (message) => {
    receive(message);
    done?.();
  });
  await bus.flush();
  return {
    once: () =>
      new Promise<void>((resolve) => {
        done = resolve;
        send();
      }),
    close: () => bus.close(),
  };
}

/** A trip is over when as many bytes as expected have come back. */
function countingTrip(
  socket: net.Socket,
  size: number,
  send: (payload: Uint8Array) => void,
  expected: number = size,
): HopTrip {
  const payload = new Uint8Array(size).fill(7);
  let left = 0;
  let done: (() => void) | undefined;
  onBareData(socket, (data) => {
    left -= data.length;
    if (left === 0) done?.();
  });
  return {
    once: () =>
      new Promise<void>((resolve) => {
        left = expected;
        done = resolve;
        send(payload);
      }),
    close: async () => void socket.destroy(),
  };
}

async function bareSocket(natsUrl: string, subject: string): Promise<net.Socket> {
  const { hostname, port } = new URL(natsUrl.replace("nats:", "http:"));
  const socket = net.connect({ host: hostname, port: Number(port), noDelay: true });
  await once(socket, "data");
  socket.write(`CONNECT {"verbose":false,"pedantic":false}\r\nSUB ${subject} 1\r\nPING\r\n`);
  await once(socket, "data");
  return socket;
}

function onBareData(socket: net.Socket, handler: (data: Buffer) => void): void {
  socket.on("error", () => {});
  // The server pings a new connection after a while; between two trips, so it stands first.
  socket.on("data", (data) => {
    const isPing = data.length >= 6 && data.toString("latin1", 0, 6) === "PING\r\n";
    if (isPing) socket.write("PONG\r\n");
    if (!isPing || data.length > 6) handler(isPing ? data.subarray(6) : data);
  });
}

function writeTogether(socket: net.Socket, pieces: readonly Uint8Array[]): void {
  socket.cork();
  for (const piece of pieces) socket.write(piece);
  socket.uncork();
}
