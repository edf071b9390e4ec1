import { decodeLogEvent } from "../../../actors/protocol/decode.ts";
import { isEnd, OWNERS, type State } from "./world.ts";

export const FIRST_TOKEN_ID = 10;

type Words = readonly [kind: string, owner: string, index: number, count: number];

function words(kind: string, owner: string, index: number, count: number): Words {
  return [kind === "parked" ? "failed" : kind === "claim" || kind === "left" ? "tokens" : kind, owner, index, count];
}

/** An ending's index is its count of tokens. */
export function wordsOf(payload: Uint8Array): Words {
  const event = decodeLogEvent(payload);
  if (event.kind !== "tokens") {
    const { outputTokens } = event.usage;
    return words(event.kind, event.owner, outputTokens, outputTokens);
  }
  const isDue = event.ids.every((id, i) => id === FIRST_TOKEN_ID + event.index + i);
  if (!isDue) throw new Error(`token ${event.index} is ${event.ids.join()}`);
  return words("tokens", event.owner, event.index, event.ids.length);
}

const nameIn = (writer: string): string => (writer === "stranger" ? writer : (writer[0] ?? ""));

/** What the real owners would look like in such a state. */
export function viewOf({ log, jobs, owners }: State): unknown {
  return {
    log: log.map(({ kind, writer, index, count }) =>
      words(kind, nameIn(writer), isEnd({ kind }) ? count : index, count),
    ),
    jobs: jobs.map(({ holder }) => holder),
    owners: owners.map(({ phase, sent }, owner) => ({
      owned: phase === "owning" || phase === "leaving" ? 1 : 0,
      reading: phase === "reading",
      sent:
        sent === null
          ? undefined
          : [
              ...words(sent.kind, OWNERS[owner] ?? "", isEnd(sent) ? sent.count : sent.index, sent.count),
              sent.expected,
            ],
    })),
  };
}
