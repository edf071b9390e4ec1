import { RallyError } from "../../infra/errors.ts";

/** Reads parsed JSON of a model folder; every refusal names the file and the path of the value in it. */
export class JsonReader {
  readonly #value: unknown;
  readonly file: string;
  readonly path: string;

  constructor(value: unknown, file: string, path = "") {
    this.#value = value;
    this.file = file;
    this.path = path;
  }

  get isNothing(): boolean {
    return this.#value === undefined || this.#value === null;
  }

  at(key: string): JsonReader {
    return new JsonReader(this.map()[key], this.file, this.path === "" ? key : `${this.path}.${key}`);
  }

  map(): Readonly<Record<string, unknown>> {
    if (typeof this.#value === "object" && this.#value !== null && !Array.isArray(this.#value)) {
      return this.#value as Readonly<Record<string, unknown>>;
    }
    throw this.refuse("an object");
  }

  list(): readonly JsonReader[] {
    if (!Array.isArray(this.#value)) throw this.refuse("a list");
    return this.#value.map((item: unknown, i) => new JsonReader(item, this.file, `${this.path}[${i}]`));
  }

  text(): string {
    if (typeof this.#value === "string") return this.#value;
    throw this.refuse("a string");
  }

  /** Nothing counts as `fallback`. */
  flag(fallback: boolean): boolean {
    if (this.isNothing) return fallback;
    if (typeof this.#value === "boolean") return this.#value;
    throw this.refuse("true or false");
  }

  id(): number {
    if (typeof this.#value === "number" && Number.isInteger(this.#value) && this.#value >= 0 && this.#value < 2 ** 24) {
      return this.#value;
    }
    throw this.refuse("a token id");
  }

  /** The value as the file has it, for checks of its own. */
  raw(): unknown {
    return this.#value;
  }

  refuse(expected: string): RallyError {
    const found = (JSON.stringify(this.#value) ?? "nothing").slice(0, 80);
    return new RallyError("bad-model", `${this.file}: ${this.path || "content"} is ${found}, expected ${expected}`, {
      file: this.file,
      field: this.path,
      found,
      expected,
    });
  }

  unsupported(what: string): RallyError {
    return new RallyError("unsupported-model", `${this.file}: ${this.path} is ${what}, which is not supported`, {
      file: this.file,
      field: this.path,
      found: what,
    });
  }
}
