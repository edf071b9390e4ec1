import { isMap, isScalar, isSeq, LineCounter, type Node, parseDocument, type YAMLMap } from "yaml";
import { RallyError } from "../../infra/errors.ts";

interface Source {
  readonly file: string;
  readonly lines: LineCounter;
}

interface Range {
  readonly min: number;
  readonly max: number;
}

/** Reads a YAML document strictly. RallyError `bad-settings` names file, line and field, what was found and what is allowed. */
export function readYaml(file: string, text: string): YamlFields {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: true });
  const [error] = document.errors;
  if (error !== undefined) {
    const { line } = lines.linePos(error.pos[0]);
    throw new RallyError("bad-settings", `${file}:${line}: ${error.message}`, { file, line });
  }
  const source = { file, lines };
  if (!isMap(document.contents)) throw wrong(source, document.contents ?? undefined, "", "a map of fields");
  return new YamlFields(source, document.contents, "");
}

/** One map of the document. Every field has to be asked for before `done`. */
export class YamlFields {
  readonly #source: Source;
  readonly #map: YAMLMap;
  readonly #path: string;
  readonly #known = new Set<string>();

  constructor(source: Source, map: YAMLMap, path: string) {
    this.#source = source;
    this.#map = map;
    this.#path = path;
  }

  has(name: string): boolean {
    return this.#node(name) !== undefined;
  }

  text(name: string, fallback?: string): string {
    const value = this.#value(name);
    if (value === undefined && fallback !== undefined) return fallback;
    if (typeof value === "string" && value.trim() !== "") return value.trim();
    throw this.wrong(name, "text");
  }

  boolean(name: string, fallback: boolean): boolean {
    const value = this.#value(name) ?? fallback;
    if (typeof value === "boolean") return value;
    throw this.wrong(name, "true or false");
  }

  number(name: string, { min, max }: Range, fallback?: number): number {
    const value = this.#value(name) ?? fallback;
    if (typeof value === "number" && value >= min && value <= max) return value;
    throw this.wrong(name, `a number from ${min} to ${max}`);
  }

  integer(name: string, { min, max }: Range, fallback?: number): number {
    const value = this.#value(name) ?? fallback;
    if (typeof value === "number" && Number.isSafeInteger(value) && value >= min && value <= max) return value;
    throw this.wrong(name, `an integer from ${min} to ${max}`);
  }

  choice<C extends string>(name: string, choices: readonly C[], fallback?: C): C {
    const value = this.#value(name) ?? fallback;
    const choice = choices.find((candidate) => candidate === value);
    if (choice !== undefined) return choice;
    throw this.wrong(name, `one of ${choices.join(", ")}`);
  }

  choices<C extends string>(name: string, choices: readonly C[]): C[] {
    const node = this.#node(name);
    if (node === undefined) return [];
    if (!isSeq(node)) throw this.wrong(name, "a list");
    return node.items.map((item, i) => {
      const choice = choices.find((candidate) => isScalar(item) && item.value === candidate);
      if (choice !== undefined) return choice;
      throw wrong(this.#source, item as Node, `${this.#at(name)}[${i}]`, `one of ${choices.join(", ")}`);
    });
  }

  map(name: string): YamlFields | undefined {
    const node = this.#node(name);
    if (node === undefined) return undefined;
    if (!isMap(node)) throw this.wrong(name, "a map of fields");
    return new YamlFields(this.#source, node, this.#at(name));
  }

  /** A list of maps; missing is empty. */
  maps(name: string): YamlFields[] {
    const node = this.#node(name);
    if (node === undefined) return [];
    if (!isSeq(node)) throw this.wrong(name, "a list");
    return node.items.map((item, i) => {
      const path = `${this.#at(name)}[${i}]`;
      if (!isMap(item)) throw wrong(this.#source, item as Node, path, "a map of fields");
      return new YamlFields(this.#source, item, path);
    });
  }

  /** Every entry of a map whose names are free, in order. */
  entries<K extends string>(names: readonly K[]): [K, YamlFields][] {
    return this.#map.items.flatMap(({ key }) => {
      const text = keyText(key);
      const name = names.find((candidate) => candidate === text);
      if (name === undefined) throw this.#unknown(key, names);
      const fields = this.map(name);
      return fields === undefined ? [] : [[name, fields] as [K, YamlFields]];
    });
  }

  /** Refuses every field that nobody has asked for. */
  done(): void {
    for (const { key } of this.#map.items) {
      if (!this.#known.has(keyText(key))) throw this.#unknown(key, [...this.#known]);
    }
  }

  wrong(name: string, expected: string): RallyError {
    const node = this.#node(name);
    return node === undefined
      ? refusal(this.#source, this.#map, this.#at(name), expected, "nothing")
      : wrong(this.#source, node, this.#at(name), expected);
  }

  #unknown(key: unknown, known: readonly string[]): RallyError {
    const name = keyText(key);
    const line = lineOf(this.#source, key as Node);
    const field = this.#at(name);
    const { file } = this.#source;
    return new RallyError("bad-settings", `${file}:${line}: unknown field ${field}; known here: ${known.join(", ")}`, {
      file,
      line,
      field,
    });
  }

  #at(name: string): string {
    return this.#path === "" ? name : `${this.#path}.${name}`;
  }

  #node(name: string): Node | undefined {
    this.#known.add(name);
    const node = this.#map.get(name, true) as unknown as Node | undefined;
    return isScalar(node) && node.value === null ? undefined : node;
  }

  #value(name: string): unknown {
    const node = this.#node(name);
    return isScalar(node) ? node.value : node;
  }
}

function wrong(source: Source, node: Node | undefined, field: string, expected: string): RallyError {
  const found = isScalar(node)
    ? JSON.stringify(node.value)
    : isMap(node)
      ? "a map"
      : isSeq(node)
        ? "a list"
        : "nothing";
  return refusal(source, node, field, expected, found);
}

function refusal(source: Source, place: Node | undefined, field: string, expected: string, found: string): RallyError {
  const { file } = source;
  const line = lineOf(source, place);
  const subject = field === "" ? "the document" : field;
  return new RallyError("bad-settings", `${file}:${line}: ${subject} must be ${expected}, found ${found}`, {
    file,
    line,
    field,
    found,
    expected,
  });
}

function lineOf({ lines }: Source, node: Node | undefined): number {
  return lines.linePos(node?.range?.[0] ?? 0).line;
}

function keyText(key: unknown): string {
  return isScalar(key) ? String(key.value) : String(key);
}
