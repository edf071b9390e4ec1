import { RallyError } from "../errors.ts";
import type { Provider } from "../session.ts";

/**
 * ONNX Runtime's words, and CUDA's numbers, for a provider that is not there: no library, no driver, one that is too old or does not
 * fit, no GPU. Anything else, memory that does not suffice, say, is about the graph.
 */
const MISSING = /AppendExecutionProvider|Failed to load (shared )?library|CUDA failure (3|35|100|101|803|804|999):/;

export function isMissingProvider(text: string): boolean {
  return MISSING.test(text);
}

export function missingProvider(provider: Provider, text: string, graphFile: string, cause: unknown): RallyError {
  const message = `provider ${provider} did not load (${text.trim()}); rally doctor --provider ${provider} says what is missing`;
  return new RallyError("provider-unavailable", message, { provider, file: graphFile }, { cause });
}
