import { RallyError, type ErrorCode } from "../../infra/errors.ts";
import { isName, NAME_RULE } from "./subjects.ts";

type Fields = Readonly<Record<string, unknown>>;

/** Reads a decoded msgpack map field by field; every refusal names the field, what was found and what is allowed. */
export class FieldReader {
  readonly #fields: Fields;
  readonly #code: ErrorCode;

  constructor(value: unknown, what: string, code: ErrorCode = "bad-message") {
    if (typeof value !== "object" || value === null || Array.isArray(value) || value instanceof Uint8Array) {
      throw new RallyError(code, `${what} must be a map, found ${describe(value)}`, {
        field: what,
        found: describe(value),
      });
    }
    this.#fields = value as Fields;
    this.#code = code;
  }

  /** Refuses keys outside `known`. */
  only(known: readonly string[]): void {
    for (const key of Object.keys(this.#fields)) {
      if (!known.includes(key)) {
        throw new RallyError(
          this.#code,
          `unknown field ${JSON.stringify(key.slice(0, 80))}; known: ${known.join(", ")}`,
          {
            field: key.slice(0, 80),
          },
        );
      }
    }
  }

  has(field: string): boolean {
    return this.#fields[field] !== undefined && this.#fields[field] !== null;
  }

  raw(field: string): unknown {
    return this.#fields[field];
  }

  integer(field: string, min: number, max: number): number {
    const value = this.#fields[field];
    // msgpack's 64-bit integers may decode as bigint.
    const number = typeof value === "bigint" ? Number(value) : value;
    // Adding 0 makes a negative zero an ordinary one.
    if (typeof number === "number" && Number.isSafeInteger(number) && number >= min && number <= max) return number + 0;
    throw this.refuse(field, value, `an integer from ${min} to ${max}`);
  }

  text(field: string, maxLength: number, minLength = 1): string {
    const value = this.#fields[field];
    if (typeof value === "string" && value.length >= minLength && value.length <= maxLength) return value;
    throw this.refuse(field, value, `a string of ${minLength} to ${maxLength} characters`);
  }

  /** Text that may stand in a subject. */
  name(field: string): string {
    const value = this.#fields[field];
    if (typeof value === "string" && isName(value)) return value;
    throw this.refuse(field, value, NAME_RULE);
  }

  list(field: string, maxLength: number): readonly unknown[] {
    const value = this.#fields[field];
    if (Array.isArray(value) && value.length <= maxLength) return value;
    throw this.refuse(field, value, `a list of at most ${maxLength}`);
  }

  refuse(field: string, found: unknown, expected: string): RallyError {
    return new RallyError(this.#code, `${field} must be ${expected}, found ${describe(found)}`, {
      field,
      found: describe(found),
      expected,
    });
  }
}

/** A value in a few words, for error messages: never the whole of something huge. */
function describe(value: unknown): string {
  if (value === undefined || value === null) return "nothing";
  if (typeof value === "string") {
    return value.length <= 60 ? JSON.stringify(value) : `a string of ${value.length} characters`;
  }
  if (typeof value === "number" || typeof value === "bigint" || typeof value === "boolean") return String(value);
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (value instanceof Uint8Array) return `${value.length} bytes`;
  return typeof value === "object" ? "a map" : typeof value;
}
