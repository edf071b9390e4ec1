import { expect, it } from "vitest";
import { WireParser } from "../../infra/nats-wire-parser.ts";
import { FUZZ_SEED, FUZZ_TIMEOUT_MS, MemoryWatch, NUM_FUZZ_MESSAGES } from "../support/fuzz-run.ts";
import { FuzzRandom, mutateBytes } from "../support/mutations.ts";

const text = (value: string): Uint8Array => new Uint8Array(Buffer.from(value));

/** What a server says, and what only a broken or hostile one would. */
const GOOD = [
  'INFO {"server_id":"x","version":"2.9.10","max_payload":1048576,"headers":true}\r\n',
  "PING\r\n",
  "PONG\r\n",
  "+OK\r\n",
  "-ERR 'Slow Consumer'\r\n",
  "MSG rally.d.ffn.0 1 5\r\nhello\r\n",
  "MSG rally.d.ffn.0 1 _INBOX.a.b 0\r\n\r\n",
  "HMSG a.b 3 12 17\r\nNATS/1.0\r\n\r\nhello\r\n",
  "HMSG a.b 3 _INBOX.x 16 16\r\nNATS/1.0 503\r\n\r\n\r\n",
  "HMSG a 9 30 30\r\nNATS/1.0 100 Idle\r\nName: 1\r\n\r\n\r\n",
].map(text);
const LINES = [
  ...GOOD,
  ...[
    "MSG a 1 72000000\r\n",
    "MSG a 1 9007199254740991\r\n",
    "MSG a 1 1e9\r\n",
    "MSG a 1 0x7fffffff\r\n",
    "HMSG a 1 99999999 99999999\r\n",
    "HMSG a 1 5.5 9\r\n",
    "MSG a NaN -0\r\n",
    "MSG\r\n",
    "\r\n",
    "\n",
  ].map(text),
];
/** One message of the largest size that is taken makes the buffer this large, once for each parser. */
const MOST_MEMORY = 80 * 2 ** 20;
const LONG_SIZES = [4096, 70_000, 300_000, 1_100_000];

it(
  `NATS wire parser: ${NUM_FUZZ_MESSAGES} protocol lines, mutated and random ones among them, seed ${FUZZ_SEED}`,
  () => {
    const random = new FuzzRandom(FUZZ_SEED);
    const memory = new MemoryWatch(NUM_FUZZ_MESSAGES);
    const seen = { message: 0, invalid: 0, info: 0, large: 0 };
    for (let number = 0; number < NUM_FUZZ_MESSAGES;) {
      let isBroken = false;
      const heard = (what: "message" | "info" | undefined) => {
        if (isBroken) throw new Error(`stream ${number}: something was heard after the protocol was broken`);
        if (what !== undefined) seen[what]++;
      };
      const parser = new WireParser({
        info: () => heard("info"),
        ping: () => heard(undefined),
        pong: () => heard(undefined),
        error: () => heard(undefined),
        message: (sid, message) => {
          heard("message");
          void [sid, message.subject, message.reply, message.status, message.noResponders, message.header("Name")];
          if (message.payload.length > MOST_MEMORY) throw new Error("a payload beyond every limit");
        },
        invalid: () => {
          isBroken = true;
          seen.invalid++;
        },
      });
      for (const bytes of streamOf(random)) {
        memory.at(number++);
        if (!isBroken) feed(parser, bytes, random);
      }
      const { byteLength } = parser.target().buffer;
      if (byteLength > 2 ** 20) seen.large++;
      if (byteLength > MOST_MEMORY) throw new Error(`stream ${number}: the parser holds ${byteLength} bytes`);
    }
    expect(memory.growth("wire parser")).toBeLessThan(8);
    // Streams that were all refused at once, or not at all, would prove nothing.
    expect(seen.message).toBeGreaterThan(NUM_FUZZ_MESSAGES / 4);
    expect(seen.invalid).toBeGreaterThan(NUM_FUZZ_MESSAGES / 40);
    expect(seen.info).toBeGreaterThan(NUM_FUZZ_MESSAGES / 40);
    expect(seen.large).toBeGreaterThan(0);
  },
  FUZZ_TIMEOUT_MS,
);

/** Lines as they should be, then one that is mutated; now and then something very long. */
function streamOf(random: FuzzRandom): Uint8Array[] {
  const lines = Array.from({ length: random.below(20) }, () => random.pick(GOOD));
  const last = random.below(500) === 0 ? longLine(random) : mutateBytes(random.pick(LINES), random);
  return [...lines, last, ...(random.below(4) === 0 ? lines : [])];
}

function longLine(random: FuzzRandom): Uint8Array {
  return new Uint8Array(random.pick(LONG_SIZES)).fill(random.pick([32, 65, 0]));
}

/** In pieces as a socket would bring them. */
function feed(parser: WireParser, bytes: Uint8Array, random: FuzzRandom): void {
  for (let at = 0; at < bytes.length;) {
    const target = parser.target();
    if (target.length === 0) throw new Error("the parser takes nothing more");
    const piece = bytes.subarray(at, at + Math.min(target.length, 1 + random.below(bytes.length)));
    target.set(piece);
    parser.received(piece.length);
    at += piece.length;
  }
}
