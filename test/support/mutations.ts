import { encode } from "../../infra/codec.ts";
import { MESSAGES } from "./messages.ts";
import { TestRandom } from "./random-values.ts";

/** As TestRandom, but fast enough for millions of messages. */
export class FuzzRandom extends TestRandom {
  #a: number;
  #b = 0x9e3779b9;
  #c = 0x243f6a88;
  #counter = 1;

  constructor(seed: number) {
    super(seed);
    this.#a = seed;
    for (let i = 0; i < 12; i++) this.word();
  }

  /** sfc32 */
  override word(): number {
    const result = (this.#a + this.#b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + result) | 0;
    return result >>> 0;
  }
}

/** Headers of every msgpack type, and bytes that mean trouble in lengths, text and keys. */
const NASTY = [
  0x00, 0x7f, 0x80, 0x81, 0x8f, 0x90, 0x9f, 0xa0, 0xa1, 0xbf, 0xc0, 0xc1, 0xc2, 0xc4, 0xc5, 0xc6, 0xc7, 0xc9, 0xca,
  0xcb, 0xcc, 0xcf, 0xd0, 0xd3, 0xd4, 0xd8, 0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xe0, 0xed, 0xf5, 0xff,
];

type Mutation = (bytes: Uint8Array, random: TestRandom) => Uint8Array;

/** Of any bytes. */
const BYTE_MUTATIONS: readonly Mutation[] = [
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
];

/** Of messages: well-formed msgpack, but not what was asked for. */
const MESSAGE_MUTATIONS: readonly Mutation[] = [
  ...BYTE_MUTATIONS,
  (_, random) => encode(randomValue(random, 4)),
  (_, random) => {
    const message: Record<string, unknown> = { ...random.pick(Object.values(MESSAGES)) };
    const field = random.pick(Object.keys(message));
    message[field] = randomValue(random, 3);
    return encode(message);
  },
];

export function mutateBytes(bytes: Uint8Array, random: TestRandom): Uint8Array {
  return random.pick(BYTE_MUTATIONS)(bytes, random);
}

export function mutateMessage(bytes: Uint8Array, random: TestRandom): Uint8Array {
  return random.pick(MESSAGE_MUTATIONS)(bytes, random);
}

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
