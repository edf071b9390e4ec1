import { RallyError } from "./errors.ts";

const PUBLISHABLE = /^[^\s.*>]+(\.[^\s.*>]+)*$/;
const SUBSCRIBABLE = /^([^\s.>]+\.)*[^\s.]+$/;

/** A subject goes into protocol lines as it is: white space in it would be read as something else. */
export function checkSubject(subject: string): void {
  if (!PUBLISHABLE.test(subject)) throw refuse(subject, "non-empty tokens without white space or wildcards");
}

/** As `checkSubject`, with `*` for one token and `>` at the end for one or more. */
export function checkPattern(pattern: string): void {
  if (!SUBSCRIBABLE.test(pattern)) throw refuse(pattern, "non-empty tokens without white space, `>` only at the end");
}

/** Whether a NATS subscription to `pattern` gets what is published on `subject`. */
export function matchesSubject(pattern: string, subject: string): boolean {
  const wanted = pattern.split(".");
  const found = subject.split(".");
  for (const [i, token] of wanted.entries()) {
    if (token === ">") return found.length > i;
    if (i >= found.length || (token !== "*" && token !== found[i])) return false;
  }
  return wanted.length === found.length;
}

function refuse(subject: string, expected: string): RallyError {
  const found = JSON.stringify(subject.slice(0, 80));
  return new RallyError("bad-request", `subject must be ${expected}, found ${found}`, { field: "subject", found });
}
