import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Checkpoint } from "../../models/checkpoint.ts";
import { applyBlockScales, dequantize } from "../../models/dequantize.ts";
import { SafetensorsFile } from "../../models/safetensors.ts";
import { SMALL_MODEL, writeRandomCheckpoint } from "../support/random-checkpoint.ts";

let dir: string;
let file: string;

beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), "rally-safetensors-"));
  file = path.join(dir, "model.safetensors");
});

afterEach(() => rmSync(dir, { recursive: true, force: true }));

function write(header: unknown, data: Uint8Array = new Uint8Array(0)): void {
  const json = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  writeFileSync(file, Buffer.concat([length, json, data]));
}

const f32 = (...values: number[]) => new Uint8Array(new Float32Array(values).buffer);

describe("a safetensors file", () => {
  it("is read tensor by tensor", () => {
    write(
      {
        __metadata__: { format: "pt" },
        a: { dtype: "F32", shape: [2, 2], data_offsets: [0, 16] },
        b: { dtype: "BF16", shape: [3], data_offsets: [16, 22] },
      },
      Buffer.concat([f32(1, 2, 3, 4), new Uint8Array(Uint16Array.of(0x3f80, 0xc000, 0x4049).buffer)]),
    );
    const checkpoint = new Checkpoint(dir, [128, 128]);
    expect([...checkpoint.read("a", [2, 2])]).toEqual([1, 2, 3, 4]);
    expect([...checkpoint.read("a", [2, 2], { first: 1, count: 1 })]).toEqual([3, 4]);
    expect([...checkpoint.read("b", [3])]).toEqual([1, -2, 3.140625]);
    checkpoint.close();
  });

  it.each([
    ["an empty file", () => writeFileSync(file, ""), /too short/],
    ["an absurd header length", () => writeFileSync(file, Buffer.alloc(64, 0xff)), /header claims/],
    ["a header that is not JSON", () => write("{oops"), /not JSON/],
    ["a header that is a list", () => write([]), /not a JSON object/],
    [
      "a header with text that is no UTF-8",
      () => writeFileSync(file, Buffer.from("\x02\0\0\0\0\0\0\0\xff\xfe", "latin1")),
      /not JSON/,
    ],
    ["an entry without offsets", () => write({ a: { dtype: "F32", shape: [1] } }), /tensor a needs/],
    ["a null entry", () => write({ a: null }), /tensor a needs/],
    ["a negative dimension", () => write({ a: { dtype: "F32", shape: [-1], data_offsets: [0, 4] } }), /tensor a needs/],
    [
      "a byte count that the shape contradicts",
      () => write({ a: { dtype: "F32", shape: [3], data_offsets: [0, 8] } }, f32(1, 2)),
      /8 bytes, 12 expected/,
    ],
    [
      "a missing tail",
      () => write({ a: { dtype: "F32", shape: [3], data_offsets: [0, 12] } }, f32(1, 2)),
      /truncated: tensor a/,
    ],
    [
      "offsets that run backwards",
      () => write({ a: { dtype: "F32", shape: [1], data_offsets: [8, 4] } }, f32(1, 2)),
      /-4 bytes/,
    ],
  ])("is refused with %s", (_, make, message) => {
    make();
    expect(() => new SafetensorsFile(file)).toThrow(expect.objectContaining({ code: "bad-model" }));
    expect(() => new SafetensorsFile(file)).toThrow(message);
    expect(() => new SafetensorsFile(file)).toThrow(file);
  });

  it("is refused when it is not there or holds an unknown type", () => {
    expect(() => new SafetensorsFile(file)).toThrow(expect.objectContaining({ code: "bad-model" }));
    write({ a: { dtype: "I64", shape: [1], data_offsets: [0, 8] } }, new Uint8Array(8));
    expect(() => new SafetensorsFile(file)).toThrow(expect.objectContaining({ code: "unsupported-model" }));
    expect(() => new SafetensorsFile(file)).toThrow(/tensor a has dtype I64/);
  });
});

describe("a checkpoint", () => {
  it("names the file, the tensor, what was found and what was expected", () => {
    write({ a: { dtype: "F32", shape: [2], data_offsets: [0, 8] } }, f32(1, 2));
    const checkpoint = new Checkpoint(dir, [128, 128]);
    expect(() => checkpoint.read("a", [3])).toThrow(
      expect.objectContaining({ code: "bad-model", fields: { file, tensor: "a", found: "[2]", expected: "[3]" } }),
    );
    expect(() => checkpoint.read("b", [3])).toThrow(
      expect.objectContaining({ code: "bad-model", fields: { file, tensor: "b", found: "nothing", expected: "b" } }),
    );
    truncateSync(file, readFileSync(file).length - 4);
    expect(() => checkpoint.read("a", [2])).toThrow(/ends before byte/);
    checkpoint.close();
  });

  it("needs the scales of an FP8 tensor", () => {
    write({ a: { dtype: "F8_E4M3", shape: [1, 2], data_offsets: [0, 2] } }, new Uint8Array(2));
    const checkpoint = new Checkpoint(dir, [128, 128]);
    expect(() => checkpoint.read("a", [1, 2])).toThrow(/tensor a_scale_inv is missing/);
    checkpoint.close();
  });

  it.each(["F16", "BF16", "F8_E4M3"] as const)("holds %s as near as the type allows, in one file or two", (storage) => {
    const folders = { exact: "F32", stored: storage, split: storage } as const;
    for (const [folder, type] of Object.entries(folders)) {
      const options = { storage: type, block: [16, 8], sharded: folder === "split" } as const;
      writeRandomCheckpoint(path.join(dir, folder), SMALL_MODEL, options);
    }
    const open = (folder: string) => new Checkpoint(path.join(dir, folder), [16, 8]);
    const [exact, stored, split] = [open("exact"), open("stored"), open("split")];
    const tolerance = { F16: 2 ** -11, BF16: 2 ** -7, F8_E4M3: 2 ** -4 }[storage];
    const shapes = {
      "model.layers.1.moe.gate_proj.weight": [5, 20, 40],
      "model.layers.0.mlp.down_proj.weight": [40, 56],
      "model.embed_tokens.weight": [67, 40],
    };
    for (const [name, shape] of Object.entries(shapes)) {
      const values = stored.read(name, shape);
      const largest = Math.max(...exact.read(name, shape).map(Math.abs));
      for (const [i, value] of exact.read(name, shape).entries()) {
        // Small values of an FP8 block are spaced by its largest.
        const allowed =
          tolerance * Math.max(Math.abs(value), storage === "F8_E4M3" ? largest * 2 ** -6 : largest * 2 ** -14);
        if (!(Math.abs((values[i] as number) - value) <= allowed)) expect(values[i], `${name} ${i}`).toBeCloseTo(value);
      }
      expect(split.read(name, shape)).toEqual(values);
    }
    const [, rows, columns] = [5, 20, 40];
    const third = stored.read("model.layers.1.moe.gate_proj.weight", [5, rows, columns], { first: 3, count: 1 });
    const all = stored.read("model.layers.1.moe.gate_proj.weight", [5, rows, columns]);
    expect(third).toEqual(all.slice(3 * rows * columns, 4 * rows * columns));
    for (const checkpoint of [exact, stored, split]) checkpoint.close();
  });

  it.each([
    ["is not JSON", "{"],
    ["has no weight_map", "{}"],
    ["leads out of the folder", JSON.stringify({ weight_map: { a: "../a.safetensors" } })],
  ])("is refused when its index %s", (_, index) => {
    writeFileSync(path.join(dir, "model.safetensors.index.json"), index);
    expect(() => new Checkpoint(dir, [128, 128])).toThrow(expect.objectContaining({ code: "bad-model" }));
  });
});

describe("dequantisation", () => {
  it("knows every kind of e4m3 byte", () => {
    const target = new Float32Array(8);
    dequantize("F8_E4M3", Uint8Array.of(0x00, 0x01, 0x07, 0x08, 0x38, 0x7e, 0xfe, 0x7f), target);
    expect([...target]).toEqual([0, 2 ** -9, 7 * 2 ** -9, 2 ** -6, 1, 448, -448, Number.NaN]);
  });

  it("knows every kind of half", () => {
    const target = new Float32Array(6);
    const bits = Uint16Array.of(0x3c00, 0x0001, 0x8400, 0x7bff, 0xfc00, 0x7e00);
    // At an odd offset, as tensors in a file may be.
    const bytes = new Uint8Array(13);
    bytes.set(new Uint8Array(bits.buffer), 1);
    dequantize("F16", bytes.subarray(1), target);
    expect([...target]).toEqual([1, 2 ** -24, -(2 ** -14), 65504, -Infinity, Number.NaN]);
  });

  it("scales whole and partial blocks", () => {
    const matrix = new Float32Array(3 * 5).fill(1);
    applyBlockScales(matrix, 5, { blockRows: 2, blockColumns: 3, scales: Float32Array.of(1, 2, 3, 4) });
    expect([...matrix]).toEqual([1, 1, 1, 2, 2, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4]);
  });
});
