import { RallyError } from "../../infra/errors.ts";
import { REQUEST_LIMITS } from "../protocol/limits.ts";

/** The one positional argument, or standard input if that is `-`. RallyError `bad-settings` if there is none or several. */
export async function readPrompt(
  positionals: readonly string[],
  stdin: AsyncIterable<Uint8Array | string>,
): Promise<string> {
  const [prompt, ...others] = positionals;
  if (prompt === undefined) {
    throw new RallyError("bad-settings", "PROMPT is missing; give it as one argument, or - to read standard input", {
      field: "PROMPT",
    });
  }
  if (others.length > 0) {
    throw new RallyError("bad-settings", `one PROMPT is expected, found ${positionals.length}; put it in quotes`, {
      field: "PROMPT",
      found: positionals.length,
    });
  }
  return prompt === "-" ? await readText(stdin) : prompt;
}

/** One newline at the end is the shell's, not the prompt's. */
async function readText(stdin: AsyncIterable<Uint8Array | string>): Promise<string> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of stdin) {
    const bytes = typeof chunk === "string" ? Buffer.from(chunk) : chunk;
    chunks.push(bytes);
    length += bytes.length;
    // A character is at most four bytes; what is longer would be refused anyway.
    if (length > 4 * REQUEST_LIMITS.promptCharacters) {
      throw new RallyError(
        "bad-request",
        `standard input is longer than ${REQUEST_LIMITS.promptCharacters} characters`,
        {
          field: "prompt",
          limit: REQUEST_LIMITS.promptCharacters,
        },
      );
    }
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks)).replace(/\r?\n$/, "");
  } catch (cause) {
    throw new RallyError("bad-request", "standard input is not UTF-8 text", { field: "prompt" }, { cause });
  }
}
