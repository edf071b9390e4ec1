import { RallyError } from "../errors.ts";
import { isMissingProvider, missingProvider } from "../gpu/provider-error.ts";

/** What the addon threw, as the error that the caller of a Session expects. */
export function nativeError(thrown: unknown, graphFile: string): RallyError {
  if (thrown instanceof RallyError) return thrown;
  const text = thrown instanceof Error ? thrown.message : String(thrown);
  // A library of operators that does not load is about neither.
  const about = thrown instanceof Error && "about" in thrown ? thrown.about : undefined;
  if (about === "provider" || (about === "graph" && isMissingProvider(text)))
    return missingProvider("cuda", text, graphFile, thrown);
  return new RallyError("session-failed", `${graphFile}: ${text}`, { file: graphFile }, { cause: thrown });
}
