import { RallyError } from "../errors.ts";

/** What the addon threw, as the error that the caller of a Session expects. */
export function nativeError(thrown: unknown, graphFile: string): RallyError {
  if (thrown instanceof RallyError) return thrown;
  const text = thrown instanceof Error ? thrown.message : String(thrown);
  const about = thrown instanceof Error && "about" in thrown ? thrown.about : undefined;
  if (about === "provider") {
    const message = `the provider did not load (${text}); rally doctor --provider cuda says what is missing`;
    return new RallyError("provider-unavailable", message, { file: graphFile }, { cause: thrown });
  }
  return new RallyError("session-failed", `${graphFile}: ${text}`, { file: graphFile }, { cause: thrown });
}
