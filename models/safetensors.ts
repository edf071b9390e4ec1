import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { RallyError } from "../infra/errors.ts";
import { isStorageType, STORAGE_BYTES, type StorageType } from "./dequantize.ts";

/** Longest header that is believed: the biggest checkpoints have a few megabytes. */
const MAX_HEADER_BYTES = 100 * 1024 * 1024;

/** Where a tensor lies in its file. */
export interface StoredTensor {
  readonly name: string;
  readonly type: StorageType;
  readonly shape: readonly number[];
  /** Bytes from the beginning of the file. */
  readonly offset: number;
  readonly byteLength: number;
}

/** One safetensors file: its header in memory, its tensors read when asked for. */
export class SafetensorsFile {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly #descriptor: number;

  /** RallyError `bad-model` for anything that is not a whole safetensors file, `unsupported-model` for an unknown type. */
  constructor(path: string) {
    this.path = path;
    try {
      this.#descriptor = openSync(path, "r");
    } catch (cause) {
      throw new RallyError("bad-model", `cannot open ${path}`, { file: path }, { cause });
    }
    try {
      this.tensors = this.#readHeader();
    } catch (error) {
      closeSync(this.#descriptor);
      throw error;
    }
  }

  /** Bytes `from … from + count` of a tensor. */
  read(tensor: StoredTensor, from: number, count: number): Uint8Array {
    return this.#read(tensor.offset + from, count);
  }

  close(): void {
    closeSync(this.#descriptor);
  }

  #readHeader(): ReadonlyMap<string, StoredTensor> {
    const fileBytes = fstatSync(this.#descriptor).size;
    if (fileBytes < 8) throw this.#broken("the file is too short for a header", { found: fileBytes, expected: 8 });
    const headerBytes = Number(this.#view(this.#read(0, 8)).getBigUint64(0, true));
    const limit = Math.min(MAX_HEADER_BYTES, fileBytes - 8);
    if (headerBytes > limit) {
      throw this.#broken(`the header claims ${headerBytes} bytes, at most ${limit} are possible`, {
        found: headerBytes,
        expected: limit,
      });
    }
    const header = this.#parse(this.#read(8, headerBytes));
    const tensors = new Map<string, StoredTensor>();
    for (const [name, entry] of Object.entries(header)) {
      if (name === "__metadata__") continue;
      tensors.set(name, this.#checkEntry(name, entry, 8 + headerBytes, fileBytes));
    }
    return tensors;
  }

  #parse(bytes: Uint8Array): object {
    let header: unknown;
    try {
      header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    } catch (cause) {
      throw new RallyError("bad-model", `${this.path}: the header is not JSON`, { file: this.path }, { cause });
    }
    if (typeof header !== "object" || header === null || Array.isArray(header)) {
      throw this.#broken("the header is not a JSON object", {});
    }
    return header;
  }

  #checkEntry(name: string, entry: unknown, dataStart: number, fileBytes: number): StoredTensor {
    const { dtype, shape, data_offsets: offsets } = (entry ?? {}) as Readonly<Record<string, unknown>>;
    if (typeof dtype !== "string" || !isCounts(shape) || !isCounts(offsets) || offsets.length !== 2) {
      throw this.#broken(`tensor ${name} needs a dtype, a shape and two data_offsets`, { tensor: name });
    }
    if (!isStorageType(dtype)) {
      const expected = Object.keys(STORAGE_BYTES).join(", ");
      throw new RallyError(
        "unsupported-model",
        `${this.path}: tensor ${name} has dtype ${dtype}, supported are ${expected}`,
        { file: this.path, tensor: name, found: dtype, expected },
      );
    }
    const [from = 0, to = 0] = offsets;
    const expected = shape.reduce((product, dim) => product * dim, STORAGE_BYTES[dtype]);
    if (to - from !== expected) {
      throw this.#broken(`tensor ${name} of shape [${shape.join(", ")}] has ${to - from} bytes, ${expected} expected`, {
        tensor: name,
        found: to - from,
        expected,
      });
    }
    if (dataStart + to > fileBytes) {
      throw this.#broken(
        `the file is truncated: tensor ${name} ends at byte ${dataStart + to}, the file at ${fileBytes}`,
        { tensor: name, found: fileBytes, expected: dataStart + to },
      );
    }
    return { name, type: dtype, shape, offset: dataStart + from, byteLength: expected };
  }

  #read(position: number, count: number): Uint8Array {
    const bytes = Buffer.allocUnsafeSlow(count);
    for (let done = 0; done < count;) {
      // One read returns at most 2 GiB.
      const wanted = Math.min(count - done, 2 ** 30);
      const got = readSync(this.#descriptor, bytes, done, wanted, position + done);
      if (got === 0) {
        throw this.#broken(`the file ends before byte ${position + count}`, {
          found: position + done,
          expected: position + count,
        });
      }
      done += got;
    }
    return bytes;
  }

  #view(bytes: Uint8Array): DataView {
    return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  #broken(what: string, fields: Readonly<Record<string, string | number>>): RallyError {
    return new RallyError("bad-model", `${this.path}: ${what}`, { file: this.path, ...fields });
  }
}

function isCounts(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
}
