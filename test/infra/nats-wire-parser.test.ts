import { describe, expect, it } from "vitest";
import { WireParser } from "../../infra/nats-wire-parser.ts";

/** Feeds a stream in pieces of `pieceSize` and writes down what comes out. */
function parse(stream: Uint8Array, pieceSize: number): string[] {
  const seen: string[] = [];
  const parser = new WireParser({
    info: (json) => seen.push(`info ${json}`),
    ping: () => seen.push("ping"),
    pong: () => seen.push("pong"),
    error: (text) => seen.push(`error ${text}`),
    invalid: (reason) => seen.push(`invalid ${reason}`),
    message: (sid, message) => {
      const {
        subject,
        reply,
        payload: { length },
        status,
        noResponders,
      } = message;
      const sum = message.payload.reduce((total, byte) => (Math.imul(total, 31) + byte) | 0, 0);
      seen.push([sid, subject, reply, length, sum, status, noResponders, message.header("name")].join(" "));
    },
  });
  for (let at = 0; at < stream.length;) {
    const target = parser.target();
    expect(target.length).toBeGreaterThan(0);
    const piece = stream.subarray(at, at + Math.min(pieceSize, target.length));
    target.set(piece);
    parser.received(piece.length);
    at += piece.length;
  }
  return seen;
}

const payload = (size: number): Buffer =>
  Buffer.from(Uint8Array.from({ length: size }, (_, i) => (i * 7 + size) & 0xff));
const message = (subject: string, size: number, reply = ""): Buffer =>
  Buffer.concat([Buffer.from(`MSG ${subject} 3 ${reply}${size}\r\n`), payload(size), Buffer.from("\r\n")]);

describe("WireParser", () => {
  it("takes an empty reply, as heartbeats have it, for none", () => {
    let reply: string | undefined = "not seen";
    const ignore = () => undefined;
    const parser = new WireParser({
      info: ignore,
      ping: ignore,
      pong: ignore,
      error: ignore,
      invalid: ignore,
      message: (_sid, heartbeat) => (reply = heartbeat.reply),
    });
    const bytes = Buffer.from("HMSG inbox 2  31 31\r\nNATS/1.0 100 Idle Heartbeat\r\n\r\n\r\n");
    parser.target().set(bytes);
    parser.received(bytes.length);
    expect(reply).toBeUndefined();
  });

  it("reads the same whatever the pieces", () => {
    const stream = Buffer.concat([
      Buffer.from(`INFO {"a":1}\r\n+OK\r\nPING\r\n`),
      message("a.b", 5, "r.1 "),
      message("empty", 0),
      Buffer.from("HMSG x 9 y 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"),
      Buffer.from("HMSG x 9 21 26\r\nNATS/1.0\r\nName: 1\r\n\r\n\r\nMSG\r\n"),
      message("crlf\u00e9", 300),
      Buffer.from("-ERR 'Slow Consumer'\r\nPONG\r\n"),
      message("last", 70),
    ]);
    const whole = parse(stream, stream.length);
    expect(whole).toHaveLength(10);
    expect(whole.slice(0, 4)).toEqual([
      'info {"a":1}',
      "ping",
      expect.stringMatching(/^3 a\.b r\.1 5 /),
      "3 empty  0 0 0 false ",
    ]);
    expect(whole[4]).toBe("9 x y 0 0 503 true ");
    expect(whole.slice(7, 9)).toEqual(["error Slow Consumer", "pong"]);
    expect(whole[5]).toMatch(/^9 x  5 -?\d+ 0 false 1$/);
    for (const pieceSize of [1, 2, 3, 5, 7, 16, 31, 64, 100, 257]) expect(parse(stream, pieceSize)).toEqual(whole);
  });

  it.each([1, 4095, 65_536, 200_000, 3_000_000])("reads large messages in pieces of %i", (pieceSize) => {
    const sizes = pieceSize === 1 ? [3000, 140_000] : [100_000, 10, 2_000_000, 262_144, 262_143, 5_000_000, 1];
    const stream = Buffer.concat(sizes.map((size, i) => message(`big.${i}`, size)));
    const seen = parse(stream, pieceSize);
    const expected = sizes.map((size, i) => parse(message(`big.${i}`, size), Infinity)[0]);
    expect(seen).toEqual(expected);
    expect(seen.map((line) => Number(line.split(" ")[3]))).toEqual(sizes);
  });

  it.each([
    ["HTTP/1.1 400 Bad Request\r\n", /HTTP/],
    ["MSG a 1 x\r\n", /MSG a 1 x/],
    ["MSG a\r\n", /MSG a/],
    ["MSG a 1 -1\r\n", /-1/],
    ["HMSG a 1 9 8\r\n", /9 8/],
    ["HMSG a 1 1.5 8\r\n", /1\.5 8/],
    ["MSG a 1 0x10\r\n", /0x10/],
    ["MSG a 1 \r\n", /MSG a 1 /],
    ["MSG a 1 90000000\r\n", /90000000/],
    ["MSG a 1 9000000000000000\r\n", /9000000000000000/],
    ["MSG a 1 2\r\nabcd\r\n", /without its end/],
  ])("refuses %j", (text, reason) => {
    const seen = parse(Buffer.from(text), 60_000);
    expect(seen).toEqual([expect.stringMatching(reason)]);
  });

  it("refuses a line without an end", () => {
    const seen = parse(Buffer.alloc(2_000_000, "x"), 60_000);
    expect(seen).toEqual([expect.stringMatching(/line without an end/)]);
  });

  it("goes on after a handler that throws", () => {
    let count = 0;
    const nothing = (): void => {};
    const parser = new WireParser({
      info: nothing,
      ping: nothing,
      pong: nothing,
      error: nothing,
      invalid: nothing,
      message: () => {
        count++;
        throw new Error("handler");
      },
    });
    const stream = message("a", 3);
    for (let times = 1; times <= 3; times++) {
      parser.target().set(stream);
      expect(() => parser.received(stream.length)).toThrow("handler");
      expect(count).toBe(times);
    }
  });
});
