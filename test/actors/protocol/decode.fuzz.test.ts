import { describe, expect, it } from "vitest";
import {
  decodeActivationBatch,
  decodeExpertResult,
  decodeGenerateRequest,
  decodeLogEvent,
  decodePlacement,
  requestIdOf,
} from "../../../actors/protocol/decode.ts";
import { encode } from "../../../infra/codec.ts";
import { RallyError } from "../../../infra/errors.ts";
import { MESSAGES } from "../../support/messages.ts";
import { TestRandom } from "../../support/random-values.ts";

/** RALLY_FUZZ_MESSAGES=1000000 for a long run; RALLY_FUZZ_SEED to vary it. */
const NUM_MESSAGES = Number(process.env["RALLY_FUZZ_MESSAGES"] ?? 20_000);
const SEED = Number(process.env["RALLY_FUZZ_SEED"] ?? 1);

const { request, tokens, completed, failed, cancelled, activations, result, refused, placement } = MESSAGES;

/** Each decoder with the messages that it accepts. */
const DECODERS = [
  ["decodeGenerateRequest", decodeGenerateRequest, [request]],
  ["decodeLogEvent", decodeLogEvent, [tokens, completed, failed, cancelled]],
  ["decodeActivationBatch", decodeActivationBatch, [activations]],
  ["decodeExpertResult", decodeExpertResult, [result, refused]],
  ["decodePlacement", decodePlacement, [placement]],
  ["requestIdOf", requestIdOf, [request]],
] as const;

const ALL = Object.values(MESSAGES).map((message) => Uint8Array.from(encode(message)));
/** Headers of every msgpack type, and bytes that mean trouble in lengths, text and keys. */
const NASTY = [
  0x00, 0x7f, 0x80, 0x81, 0x8f, 0x90, 0x9f, 0xa0, 0xa1, 0xbf, 0xc0, 0xc1, 0xc2, 0xc4, 0xc5, 0xc6, 0xc7, 0xc9, 0xca,
  0xcb, 0xcc, 0xcf, 0xd0, 0xd3, 0xd4, 0xd8, 0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xe0, 0xed, 0xf5, 0xff,
];

const MUTATIONS: readonly ((bytes: Uint8Array, random: TestRandom) => Uint8Array)[] = [
  (bytes, random) => {
    const copy = Uint8Array.from(bytes);
    for (let n = 1 + random.below(4); n > 0; n--) copy[random.below(copy.length)] = random.below(256);
    return copy;
  },
  (bytes, random) => {
    const copy = Uint8Array.from(bytes);
    copy[random.below(copy.length)] = random.pick(NASTY);
    return copy;
  },
  (bytes, random) => bytes.slice(0, random.below(bytes.length + 1)),
  (bytes, random) => Uint8Array.from([...bytes, ...random.bytes(1 + random.below(8))]),
  (bytes, random) => {
    const at = random.below(bytes.length);
    const dropped = random.below(8);
    return Uint8Array.from([...bytes.subarray(0, at), ...bytes.subarray(at + dropped)]);
  },
  (bytes, random) => {
    const [from, at] = [random.below(bytes.length), random.below(bytes.length)];
    const part = bytes.subarray(from, from + random.below(64));
    return Uint8Array.from([...bytes.subarray(0, at), ...part, ...bytes.subarray(at)]);
  },
  (_, random) => random.bytes(random.below(200)),
  (_, random) => Uint8Array.from({ length: random.below(200) }, () => random.pick(NASTY)),
  (_, random) => encode(randomValue(random, 4)),
  (_, random) => {
    const message: Record<string, unknown> = { ...random.pick(Object.values(MESSAGES)) };
    const field = random.pick(Object.keys(message));
    message[field] = randomValue(random, 3);
    return encode(message);
  },
];

function randomValue(random: TestRandom, depth: number): unknown {
  const leaves = [
    null,
    true,
    0,
    -1,
    1.5,
    Number.NaN,
    Infinity,
    2 ** 53,
    2n ** 64n - 1n,
    "",
    "generate",
    "f32",
    "x".repeat(70),
    new Uint8Array(5),
  ];
  const kind = random.below(depth > 0 ? 4 : 2);
  if (kind < 2) return random.pick(leaves);
  const length = random.below(5);
  if (kind === 2) return Array.from({ length }, () => randomValue(random, depth - 1));
  const keys = [
    "kind",
    "dtype",
    "shape",
    "bytes",
    "scales",
    "ids",
    "usage",
    "error",
    "fields",
    "sampling",
    "constructor",
  ];
  return Object.fromEntries(Array.from({ length }, () => [random.pick(keys), randomValue(random, depth - 1)]));
}

describe(`${NUM_MESSAGES} mutated and random messages, seed ${SEED}`, () => {
  it.each(DECODERS)(
    "%s throws RallyErrors only",
    (name, decoder, accepted) => {
      const random = new TestRandom(SEED);
      const own = accepted.map((message) => Uint8Array.from(encode(message)));
      let refusals = 0;
      for (let n = 0; n < NUM_MESSAGES; n++) {
        const good = random.pick(random.below(4) === 0 ? ALL : own);
        const bytes = random.pick(MUTATIONS)(good, random);
        try {
          decoder(bytes);
        } catch (error) {
          refusals++;
          if (error instanceof RallyError && (error.code === "bad-message" || error.code === "bad-request")) continue;
          throw new Error(`message ${n} (${Buffer.from(bytes).toString("hex")}) broke ${name}`, { cause: error });
        }
      }
      // Fuzz that is all refused at the first byte, or not at all, would prove nothing.
      const share = refusals / NUM_MESSAGES;
      const [least, most] = name === "requestIdOf" ? [0, 0] : [0.5, 0.99];
      expect(share).toBeGreaterThanOrEqual(least);
      expect(share).toBeLessThanOrEqual(most);
    },
    3_600_000,
  );
});
