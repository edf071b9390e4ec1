import { describe, expect, it } from "vitest";
import { type Frame, FrameSplitter } from "../../../infra/chaos/nats-frames.ts";

const payload = (size: number) => Buffer.from(Uint8Array.from({ length: size }, (_, i) => (i * 7) & 0xff));
const STREAM = Buffer.concat([
  Buffer.from('CONNECT {"verbose":false}\r\nSUB a.> 1\r\n'),
  Buffer.from("PUB a.b 4\r\n\r\nPU\r\n"),
  Buffer.from("PUB a.c reply.x 0\r\n\r\n"),
  Buffer.from("HPUB a.d 12 17\r\nNATS/1.0\r\n\r\nhello\r\n"),
  Buffer.from("MSG a.e 9 5000\r\n"),
  payload(5000),
  Buffer.from("\r\nHMSG a.f 1  12 12\r\nNATS/1.0\r\n\r\n\r\nPING\r\n"),
]);

function split(pieceSize: number): Frame[] {
  const splitter = new FrameSplitter();
  const frames: Frame[] = [];
  for (let at = 0; at < STREAM.length; at += pieceSize) {
    // Each piece in memory that is used again, as a socket's is.
    const piece = Buffer.from(STREAM.subarray(at, at + pieceSize));
    frames.push(...splitter.push(piece));
    piece.fill(0);
  }
  return frames;
}

describe("FrameSplitter", () => {
  it.each([1, 2, 7, 64, 1000, STREAM.length])("cuts a stream in pieces of %i bytes", (pieceSize) => {
    const frames = split(pieceSize);
    expect(Buffer.concat(frames.map(({ bytes }) => bytes))).toEqual(STREAM);
    expect(frames.map(({ message }) => message?.subject)).toEqual([
      undefined,
      undefined,
      "a.b",
      "a.c",
      "a.d",
      "a.e",
      "a.f",
      undefined,
    ]);
    const texts = frames.map(({ bytes, message }) =>
      message === undefined
        ? ""
        : Buffer.from(bytes.subarray(message.payloadAt, message.payloadAt + message.payloadBytes)).toString("latin1"),
    );
    expect(texts.slice(2, 5)).toEqual(["\r\nPU", "", "hello"]);
    expect(texts[5]).toBe(payload(5000).toString("latin1"));
    expect(texts[6]).toBe("");
  });

  it("passes on what is not the protocol", () => {
    const splitter = new FrameSplitter();
    const noise = Buffer.alloc(3 * 1024 * 1024, 65);
    const passed = splitter.push(noise).reduce((sum, { bytes }) => sum + bytes.length, 0);
    expect(passed).toBe(noise.length);
    expect(splitter.push(Buffer.from("PUB a 1\r\n"))[0]?.message).toBeUndefined();
  });
});
