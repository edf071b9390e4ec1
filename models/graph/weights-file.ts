import { closeSync, openSync, writeSync } from "node:fs";
import path from "node:path";
import type { ExternalData } from "./onnx.ts";

/** The one weights file beside the graphs of a folder. */
const WEIGHTS_FILE = "weights.bin";

/** Appends weights to the file that a folder's graphs share. ONNX Runtime maps it into memory, so it is written, not kept. */
export class WeightsFile {
  readonly #descriptor: number;
  #length = 0;

  constructor(dir: string) {
    this.#descriptor = openSync(path.join(dir, WEIGHTS_FILE), "wx");
  }

  /** A matrix as `MatMul` wants it: [columns, rows] of a checkpoint's [rows, columns]. */
  appendTransposed(matrix: Float32Array, columns: number): ExternalData {
    return this.append(transpose(matrix, columns));
  }

  append(values: Float32Array): ExternalData {
    return this.appendBytes(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  }

  /** Parts of one tensor, as they are. */
  appendBytes(...parts: readonly Uint8Array[]): ExternalData {
    // Cache lines; ONNX Runtime itself asks for no alignment.
    const offset = Math.ceil(this.#length / 64) * 64;
    let end = offset;
    for (const bytes of parts) {
      for (let done = 0; done < bytes.length;) {
        const some = bytes.subarray(done, done + 2 ** 30);
        done += writeSync(this.#descriptor, some, 0, some.length, end + done);
      }
      end += bytes.length;
    }
    this.#length = end;
    return { file: WEIGHTS_FILE, offset, length: end - offset };
  }

  close(): void {
    closeSync(this.#descriptor);
  }
}

/** A folder's weights file while `use` writes the folder's graphs. */
export function withWeightsFile(dir: string, use: (file: WeightsFile) => void): void {
  const file = new WeightsFile(dir);
  try {
    use(file);
  } finally {
    file.close();
  }
}

/** In tiles, so that both sides stay in the cache. [rows, columns] to [columns, rows] */
function transpose(matrix: Float32Array, columns: number): Float32Array {
  const rows = matrix.length / columns;
  const result = new Float32Array(matrix.length);
  const tile = 32;
  for (let rowTile = 0; rowTile < rows; rowTile += tile) {
    const rowEnd = Math.min(rows, rowTile + tile);
    for (let columnTile = 0; columnTile < columns; columnTile += tile) {
      const columnEnd = Math.min(columns, columnTile + tile);
      for (let column = columnTile; column < columnEnd; column++) {
        for (let row = rowTile; row < rowEnd; row++) {
          result[column * rows + row] = matrix[row * columns + column] as number;
        }
      }
    }
  }
  return result;
}
