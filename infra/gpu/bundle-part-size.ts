import { RallyError } from "../errors.ts";

const UNITS = { "": 1, K: 1024, M: 1024 ** 2, G: 1024 ** 3 } as const;
/** Smaller ones would be thousands of files. */
const LEAST = 1024 ** 2;

/** Bytes of `60M` and the like, as `split` reads them. RallyError `bad-settings`. */
export function parsePartSize(text: string): number {
  const [, digits = "", unit = ""] = /^(\d{1,12})([KMG]?)$/.exec(text) ?? [];
  const bytes = Number(digits) * UNITS[unit as keyof typeof UNITS];
  if (digits !== "" && bytes >= LEAST) return bytes;
  const message = `--part-size must be a number of bytes, with K, M or G, of at least 1M; found ${JSON.stringify(text)}`;
  throw new RallyError("bad-settings", message, { field: "part-size", found: text });
}
