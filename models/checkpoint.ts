import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { RallyError } from "../infra/errors.ts";
import { applyBlockScales, dequantize, STORAGE_BYTES } from "./dequantize.ts";
import { SafetensorsFile, type StoredTensor } from "./safetensors.ts";

const SINGLE = "model.safetensors";
const INDEX = "model.safetensors.index.json";

/** Rows and columns of the blocks that share one FP8 scale. */
export type WeightBlock = readonly [rows: number, columns: number];

/** The weights of a model, in one safetensors file or several, read as f32 tensor by tensor. */
export class Checkpoint {
  readonly #modelDir: string;
  readonly #weightBlock: WeightBlock;
  readonly #files = new Map<string, SafetensorsFile>();
  /** Tensor name to file name; undefined for a single file. */
  readonly #index: ReadonlyMap<string, string> | undefined;

  constructor(modelDir: string, weightBlock: WeightBlock) {
    this.#modelDir = modelDir;
    this.#weightBlock = weightBlock;
    this.#index = readIndex(modelDir);
  }

  /**
   * A whole tensor as f32, or only `range.count` entries of its first axis from `range.first`. FP8 is multiplied by its
   * block scales, the tensor `<name>_scale_inv`. RallyError `bad-model` when it is missing or not of `shape`.
   */
  read(
    name: string,
    shape: readonly number[],
    range?: { readonly first: number; readonly count: number },
  ): Float32Array {
    const { file, tensor } = this.#find(name);
    if (!sameShape(tensor.shape, shape)) {
      throw wrongShape(file.path, name, tensor.shape, shape);
    }
    const { first, count } = range ?? { first: 0, count: shape[0] ?? 1 };
    const entrySize = shape.slice(1).reduce((product, dim) => product * dim, 1);
    const entryBytes = entrySize * STORAGE_BYTES[tensor.type];
    const target = new Float32Array(entrySize * count);
    dequantize(tensor.type, file.read(tensor, first * entryBytes, count * entryBytes), target);
    if (tensor.type === "F8_E4M3") this.#scale(name, shape, first, count, target);
    return target;
  }

  close(): void {
    for (const file of this.#files.values()) file.close();
    this.#files.clear();
  }

  /** `first` entries in of the first axis: rows of a matrix, whole matrices of a stack. */
  #scale(name: string, shape: readonly number[], first: number, count: number, target: Float32Array): void {
    const [blockRows, blockColumns] = this.#weightBlock;
    const [rows = 1, columns = 1] = shape.slice(-2);
    const stack = shape.slice(0, -2);
    const blocks = [Math.ceil(rows / blockRows), Math.ceil(columns / blockColumns)] as const;
    const scales = this.read(`${name}_scale_inv`, [...stack, ...blocks]);
    if (stack.length === 0) {
      if (first % blockRows !== 0)
        throw new Error("broken invariant: part of an FP8 matrix starts at a block's border");
      const scaleRow = (first / blockRows) * blocks[1];
      applyBlockScales(target, columns, { blockRows, blockColumns, scales: scales.subarray(scaleRow) });
      return;
    }
    const [size, scaleSize] = [rows * columns, blocks[0] * blocks[1]];
    for (let i = 0; i < count; i++) {
      applyBlockScales(target.subarray(i * size, (i + 1) * size), columns, {
        blockRows,
        blockColumns,
        scales: scales.subarray((first + i) * scaleSize),
      });
    }
  }

  #find(name: string): { readonly file: SafetensorsFile; readonly tensor: StoredTensor } {
    const fileName = this.#index === undefined ? SINGLE : this.#index.get(name);
    const file = fileName === undefined ? undefined : this.#open(fileName);
    const tensor = file?.tensors.get(name);
    if (file === undefined || tensor === undefined) {
      const where = path.join(this.#modelDir, fileName ?? INDEX);
      throw new RallyError("bad-model", `${where}: tensor ${name} is missing`, {
        file: where,
        tensor: name,
        found: "nothing",
        expected: name,
      });
    }
    return { file, tensor };
  }

  #open(fileName: string): SafetensorsFile {
    let file = this.#files.get(fileName);
    if (file === undefined) {
      file = new SafetensorsFile(path.join(this.#modelDir, fileName));
      this.#files.set(fileName, file);
    }
    return file;
  }
}

/** The safetensors files of a model, sorted. */
export function checkpointFiles(modelDir: string): string[] {
  const index = readIndex(modelDir);
  return index === undefined ? [SINGLE] : [...new Set(index.values())].sort();
}

function readIndex(modelDir: string): ReadonlyMap<string, string> | undefined {
  const indexPath = path.join(modelDir, INDEX);
  if (existsSync(path.join(modelDir, SINGLE)) || !existsSync(indexPath)) return undefined;
  let index: unknown;
  try {
    index = JSON.parse(readFileSync(indexPath, "utf8"));
  } catch (cause) {
    throw new RallyError("bad-model", `${indexPath} is not JSON`, { file: indexPath }, { cause });
  }
  const weightMap = typeof index === "object" && index !== null && "weight_map" in index ? index.weight_map : undefined;
  const entries: [string, unknown][] =
    typeof weightMap === "object" && weightMap !== null ? Object.entries(weightMap) : [];
  const names = new Map<string, string>();
  for (const [tensor, file] of entries) {
    // A file name only: an index must not lead out of the model's folder.
    if (typeof file !== "string" || path.basename(file) !== file) {
      throw new RallyError("bad-model", `${indexPath}: weight_map.${tensor} is not a file name`, {
        file: indexPath,
        tensor,
      });
    }
    names.set(tensor, file);
  }
  if (names.size === 0) {
    throw new RallyError("bad-model", `${indexPath}: weight_map is missing or empty`, { file: indexPath });
  }
  return names;
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((dim, i) => dim === b[i]);
}

function wrongShape(file: string, tensor: string, found: readonly number[], expected: readonly number[]): RallyError {
  return new RallyError(
    "bad-model",
    `${file}: tensor ${tensor} has shape [${found.join(", ")}], expected [${expected.join(", ")}]`,
    { file, tensor, found: `[${found.join(", ")}]`, expected: `[${expected.join(", ")}]` },
  );
}
