import { isUtf8 } from "node:buffer";
import { RallyError } from "./errors.ts";

/** Containers within containers; our own messages need five. */
const MAX_DEPTH = 32;
/** Maps and lists in one message: an empty map is one byte on the wire and about sixty in memory. */
const MAX_CONTAINERS = 1 << 18;
const PROTO_KEY = Buffer.from("__proto__");

/**
 * Walks msgpack bytes without building anything and refuses, as `bad-message`, whatever must not reach the decoder: lengths
 * beyond the end, bytes after the end, deep nesting, extension types, keys that are not text or are `__proto__`, text that is
 * not UTF-8. Returns the parts of the bytes that hold such text if `badText` says to report instead of refuse them.
 */
export function scanMsgpack(bytes: Uint8Array, badText: "refuse" | "report" = "refuse"): readonly Uint8Array[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = bytes.length;
  const bad: Uint8Array[] = [];
  // Per open container: values still to come, and for a map whether the next one is a key (an even number left).
  const left: number[] = [1];
  const isMap: boolean[] = [false];
  let containers = 0;
  let at = 0;

  const need = (count: number): void => {
    if (count > end - at) throw refuse("ends in the middle of a value", at, `${end - at} bytes left`, `${count} bytes`);
  };
  const header = (count: 1 | 2 | 4): number => {
    need(count);
    const value = count === 1 ? view.getUint8(at) : count === 2 ? view.getUint16(at) : view.getUint32(at);
    at += count;
    return value;
  };
  const text = (length: number, isKey: boolean): void => {
    need(length);
    const part = bytes.subarray(at, at + length);
    if (isKey && length === PROTO_KEY.length && PROTO_KEY.equals(part)) {
      throw refuse("has a forbidden key", at, "__proto__", "another key");
    }
    if (!isText(part)) {
      if (badText === "refuse") throw refuse("has text that is not UTF-8", at, `${length} bytes`, "UTF-8");
      bad.push(part);
    }
    at += length;
  };
  const skip = (length: number): void => {
    need(length);
    at += length;
  };
  const open = (count: number, map: boolean): void => {
    // Every value takes at least a byte, so a count beyond the bytes left is a lie: refused before anything is reserved.
    need(map ? count * 2 : count);
    if (left.length > MAX_DEPTH)
      throw refuse("is nested too deep", at, `${left.length} levels`, `at most ${MAX_DEPTH}`);
    if (++containers > MAX_CONTAINERS) {
      throw refuse("has too many maps and lists", at, `over ${MAX_CONTAINERS}`, `at most ${MAX_CONTAINERS}`);
    }
    left.push(map ? count * 2 : count);
    isMap.push(map);
  };

  while (left.length > 0) {
    const level = left.length - 1;
    const remaining = left[level] as number;
    if (remaining === 0) {
      left.pop();
      isMap.pop();
      continue;
    }
    left[level] = remaining - 1;
    const isKey = isMap[level] === true && remaining % 2 === 0;
    const start = at;
    const token = header(1);
    if (isKey && !(token >= 0xa0 && token <= 0xbf) && !(token >= 0xd9 && token <= 0xdb)) {
      throw refuse("has a key that is not text", start, hex(token), "a string");
    }
    if (token < 0x80 || token >= 0xe0) continue;
    if (token < 0x90) open(token & 0x0f, true);
    else if (token < 0xa0) open(token & 0x0f, false);
    else if (token < 0xc0) text(token & 0x1f, isKey);
    else {
      switch (token) {
        case 0xc0: // nil
        case 0xc2: // false
        case 0xc3: // true
          break;
        case 0xc4: // bin 8, 16, 32
        case 0xc5:
        case 0xc6:
          skip(header(token === 0xc4 ? 1 : token === 0xc5 ? 2 : 4));
          break;
        case 0xcc: // uint 8 … 64
        case 0xd0: // int 8 … 64
          skip(1);
          break;
        case 0xcd:
        case 0xd1:
          skip(2);
          break;
        case 0xca: // float 32
        case 0xce:
        case 0xd2:
          skip(4);
          break;
        case 0xcb: // float 64
        case 0xcf:
        case 0xd3:
          skip(8);
          break;
        case 0xd9: // str 8, 16, 32
        case 0xda:
        case 0xdb:
          text(header(token === 0xd9 ? 1 : token === 0xda ? 2 : 4), isKey);
          break;
        case 0xdc: // array 16, 32
        case 0xdd:
          open(header(token === 0xdc ? 2 : 4), false);
          break;
        case 0xde: // map 16, 32
        case 0xdf:
          open(header(token === 0xde ? 2 : 4), true);
          break;
        default:
          // 0xc1 is never used; the rest are extension types, which nothing of ours sends.
          throw refuse("has an extension type", start, hex(token), "plain msgpack values");
      }
    }
  }
  if (at !== end) throw refuse("goes on after its end", at, `${end - at} more bytes`, "none");
  return bad;
}

function isText(part: Uint8Array): boolean {
  if (part.length > 32) return isUtf8(part);
  for (let i = 0; i < part.length; i++) if ((part[i] as number) >= 0x80) return isUtf8(part);
  return true;
}

function hex(token: number): string {
  return `0x${token.toString(16).padStart(2, "0")}`;
}

function refuse(problem: string, offset: number, found: string, expected: string): RallyError {
  return new RallyError("bad-message", `message ${problem} at byte ${offset}: found ${found}, expected ${expected}`, {
    offset,
    found,
    expected,
  });
}
