import type { Subscription } from "./bus.ts";
import { CHECK_HEADER, checkOf, ID_HEADER } from "./nats-checksum.ts";
import type { NatsLink } from "./nats-link.ts";

/** A subject that nothing was published on for this long is listened to no longer. */
const IDLE_MS = 5_000;

interface Listening {
  readonly subscription: Subscription;
  usedAt: number;
  /** What was stored last, and where by the server's word. */
  last: { readonly id: string; readonly seq: number } | undefined;
  /** By id. */
  readonly waiting: Map<string, { readonly check: string; isWhole: boolean | undefined }>;
}

interface Echo {
  /** Whether the message has come back as it was sent. */
  isWhole(): boolean;
  forget(): void;
}

/**
 * The server gives a message to its publisher, too, before it acknowledges that it is stored: from the same bytes. What comes
 * back as it was sent is therefore stored as it was sent, and costs no question.
 */
export class Echoes {
  readonly #link: NatsLink;
  readonly #subjects = new Map<string, Listening>();
  #timer: NodeJS.Timeout | undefined;

  constructor(link: NatsLink) {
    this.#link = link;
    link.onStatus((status) => {
      if (status === "closed") this.#drop(Infinity);
    });
  }

  /** To be called before publishing. */
  expect(subject: string, id: string, check: string): Echo {
    const listening = this.#subjects.get(subject) ?? this.#listen(subject);
    const { waiting } = listening;
    const expected = { check, isWhole: undefined };
    listening.usedAt = performance.now();
    waiting.set(id, expected);
    return {
      isWhole: () => expected.isWhole === true,
      forget: () => void (waiting.get(id) === expected && waiting.delete(id)),
    };
  }

  stored(subject: string, id: string, seq: number): void {
    const listening = this.#subjects.get(subject);
    if (listening !== undefined) listening.last = { id, seq };
  }

  /** Id of what was stored last on the subject from here, if that was told to be at `seq`. */
  storedAt(subject: string, seq: number): string | undefined {
    const last = this.#subjects.get(subject)?.last;
    return last?.seq === seq ? last.id : undefined;
  }

  #listen(subject: string): Listening {
    const waiting: Listening["waiting"] = new Map();
    const subscription = this.#link.subscribe(subject, (message) => {
      const expected = waiting.get(message.header(ID_HEADER) ?? "");
      if (expected === undefined) return;
      // Of two copies the stream keeps the first.
      expected.isWhole ??= [message.header(CHECK_HEADER), checkOf(message.payload)].every((c) => c === expected.check);
    });
    const listening: Listening = { subscription, usedAt: 0, last: undefined, waiting };
    this.#subjects.set(subject, listening);
    if (this.#timer === undefined) {
      this.#timer = setInterval(() => this.#drop(performance.now() - IDLE_MS), IDLE_MS);
      this.#timer.unref();
    }
    return listening;
  }

  #drop(unusedSince: number): void {
    for (const [subject, { subscription, usedAt, waiting }] of this.#subjects) {
      if (usedAt > unusedSince || (waiting.size > 0 && unusedSince < Infinity)) continue;
      subscription.unsubscribe();
      this.#subjects.delete(subject);
    }
    if (this.#subjects.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}
