/** Cuts text into the pieces within which merges happen. */
export type PreTokenizer = (pieces: Iterable<string>) => Iterable<string>;

export const SPLIT_BEHAVIORS = ["Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext"] as const;
export type SplitBehavior = (typeof SPLIT_BEHAVIORS)[number];

interface Part {
  text: string;
  isMatch: boolean;
}

/** Generators all the way, so that a long text is not held as a list of pieces at every stage. */
export function splitBy(pattern: RegExp, behavior: SplitBehavior, invert = false): PreTokenizer {
  return function* split(pieces) {
    for (const piece of pieces) {
      for (const text of arrange(parts(piece, pattern, invert), behavior)) if (text !== "") yield text;
    }
  };
}

export function withPrefixSpace(pieces: Iterable<string>): Iterable<string> {
  return mapPieces(pieces, (piece) => (piece.startsWith(" ") ? piece : ` ${piece}`));
}

export function inSequence(stages: readonly PreTokenizer[]): PreTokenizer {
  return (pieces) => stages.reduce((result, stage) => stage(result), pieces);
}

function* mapPieces(pieces: Iterable<string>, map: (piece: string) => string): Iterable<string> {
  for (const piece of pieces) yield map(piece);
}

function* parts(piece: string, pattern: RegExp, invert: boolean): Iterable<Part> {
  let end = 0;
  let from = 0;
  for (;;) {
    // Not matchAll: it would build a new RegExp for every piece.
    pattern.lastIndex = from;
    const match = pattern.exec(piece);
    if (match === null) break;
    const [text] = match;
    if (match.index > end) yield { text: piece.slice(end, match.index), isMatch: invert };
    if (text !== "") yield { text, isMatch: !invert };
    end = match.index + text.length;
    from = text === "" ? end + 1 : end;
  }
  if (end < piece.length) yield { text: piece.slice(end), isMatch: invert };
}

function* arrange(found: Iterable<Part>, behavior: SplitBehavior): Iterable<string> {
  if (behavior === "Isolated") {
    for (const { text } of found) yield text;
    return;
  }
  if (behavior === "Removed") {
    for (const { text, isMatch } of found) if (!isMatch) yield text;
    return;
  }
  // The other three glue neighbours together.
  let held: Part | undefined;
  for (const part of found) {
    if (held !== undefined && joins(held, part, behavior))
      held = { text: held.text + part.text, isMatch: part.isMatch };
    else {
      if (held !== undefined) yield held.text;
      held = part;
    }
  }
  if (held !== undefined) yield held.text;
}

function joins(before: Part, part: Part, behavior: SplitBehavior): boolean {
  if (behavior === "Contiguous") return before.isMatch === part.isMatch;
  return behavior === "MergedWithPrevious" ? part.isMatch && !before.isMatch : before.isMatch && !part.isMatch;
}
