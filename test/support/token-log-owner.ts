import { encode } from "../../infra/codec.ts";
import type { Durable, DurableLog } from "../../infra/durable.ts";
import type { RallyError } from "../../infra/errors.ts";
import type { EndEvent, LogEvent, Usage } from "../../actors/protocol/messages.ts";
import { openTokenLog } from "../../actors/protocol/streams.ts";
import { subjectsOf } from "../../actors/protocol/subjects.ts";

/** Writes a request's token log by hand, as an attention actor would and as it must never. */
export class TokenLogOwner {
  readonly #log: DurableLog;
  readonly #subject: string;
  readonly #requestId: string;
  #count = 0;

  private constructor(log: DurableLog, subject: string, requestId: string) {
    this.#log = log;
    this.#subject = subject;
    this.#requestId = requestId;
  }

  static async open(durable: Durable, deployment: string, requestId: string): Promise<TokenLogOwner> {
    const subjects = subjectsOf(deployment);
    return new TokenLogOwner(await openTokenLog(durable, subjects), subjects.tokens(requestId), requestId);
  }

  /** Token ids from `index` on; the text of token n is `n,` unless given. */
  async tokens(index: number, ids: readonly number[], texts = ids.map((id) => `${id},`)): Promise<void> {
    await this.raw({ kind: "tokens", requestId: this.#requestId, owner: "owner", index, ids, texts });
  }

  async completed(outputTokens: number, text = ""): Promise<void> {
    await this.#end({ kind: "completed", finishReason: "length", text }, { promptTokens: 3, outputTokens });
  }

  async failed(error: RallyError): Promise<void> {
    await this.#end({ kind: "failed", error: error.toWire() }, { promptTokens: 3, outputTokens: 0 });
  }

  async cancelled(outputTokens: number): Promise<void> {
    await this.#end({ kind: "cancelled" }, { promptTokens: 3, outputTokens });
  }

  async raw(event: LogEvent | { readonly kind: string }): Promise<void> {
    const last = (await this.#log.read(this.#subject)).at(-1);
    const id = `${this.#requestId}:${this.#count++}`;
    await this.#log.append(this.#subject, encode(event), { id, expectedLastSeq: last?.seq ?? 0 });
  }

  async #end(event: OmitEach<EndEvent, "requestId" | "owner" | "usage">, usage: Usage): Promise<void> {
    await this.raw({ ...event, requestId: this.#requestId, owner: "owner", usage });
  }
}

type OmitEach<Union, Keys extends PropertyKey> = Union extends unknown ? Omit<Union, Keys> : never;
