import { expect } from "vitest";
import { decodeLogEvent } from "../../actors/protocol/decode.ts";
import { encode } from "../../infra/codec.ts";
import { RallyError } from "../../infra/errors.ts";
import { toWireF32, toWireI32 } from "../../infra/tensor.ts";
import { fakeConfig } from "../support/fake-model.ts";
import { EPOCH, type FuzzDeployment } from "../support/fuzz-deployment.ts";
import { MESSAGES } from "../support/messages.ts";
import { encodedSealed } from "../support/sealed.ts";
import { type FuzzRandom, mutateBytes, mutateMessage } from "../support/mutations.ts";
import { type Crowd, GIVE_UP_MS, SPEAKERS, Watched } from "./crowd.ts";

/** Requests whose logs are written to at the same time, each so often; then another one's turn comes. */
const NUM_VICTIMS = 8;
const HITS_PER_VICTIM = 4;
const VICTIM_DEADLINE_MS = 150_000;
const MOST_JOBS = 300;
const MS_PER_TURN = 50;

const REQUEST = encode({ ...MESSAGES.request, maxTokens: 2, deadline: 2 ** 50 });
const OFFER = encode(MESSAGES.offer);
const { hiddenSize, topK } = fakeConfig;
const position = { passId: 7, microBatch: 0, layer: 1, part: 0, attempt: 0 } as const;
const BATCH = {
  ...MESSAGES.activations,
  ...position,
  epoch: EPOCH,
  attentionId: "a0",
  deadline: 2 ** 50,
  hidden: toWireF32(new Float32Array(3 * hiddenSize).fill(2), [3, hiddenSize], "f32"),
  expertIds: toWireI32(new Int32Array(3 * topK).fill(1), [3, topK]),
  expertWeights: toWireF32(new Float32Array(3 * topK).fill(0.5), [3, topK], "f32"),
};
const ANSWER = {
  ...MESSAGES.result,
  ...position,
  output: toWireF32(new Float32Array(3 * hiddenSize), [3, hiddenSize], "f32"),
};
const LOG_EVENTS = [MESSAGES.tokens, MESSAGES.completed, MESSAGES.failed, MESSAGES.cancelled];
const HEADS = [BATCH, ANSWER, MESSAGES.refused, MESSAGES.expert].map(encodedSealed);

/** Writes whatever to wherever anybody may. */
export class Attack {
  readonly #deployment: FuzzDeployment;
  readonly #crowd: Crowd;
  readonly #random: FuzzRandom;
  /** Requests whose own logs are written to: they may fare badly, but they must end. */
  #victims: { readonly watched: Watched; hits: number }[] = [];
  #ending: Watched[] = [];
  numVictims = 0;
  numUnharmed = 0;
  numGivenUp = 0;
  readonly #weapons: readonly ((number: number) => Promise<void> | void)[];

  constructor(deployment: FuzzDeployment, crowd: Crowd, random: FuzzRandom) {
    this.#deployment = deployment;
    this.#crowd = crowd;
    this.#random = random;
    const { bus, subjects } = deployment;
    const publish = (subject: string, payload: Uint8Array) =>
      bus.publish(subject, payload, random.below(3) === 0 ? random.pick(["fuzz.inbox", subject, "nobody"]) : undefined);
    bus.subscribe("fuzz.inbox", () => undefined);
    this.#weapons = [
      (number) => this.#request(number),
      () => this.#tokens(),
      () => publish(subjects.offer, mutateMessage(OFFER, random)),
      () => publish(subjects.cancel(this.#name()), random.bytes(random.below(20))),
      () => publish(subjects.ffn(random.below(2), random.pick(["", "e0", "e1"]) || undefined), this.#batch()),
      () => publish(this.#answerSubject(), this.#answer()),
      () => publish(random.pick([subjects.experts, subjects.probe(), subjects.probe("e0")]), this.#any()),
      () => this.#placement(),
      () =>
        publish(`$SRV.${random.pick(["PING", "INFO", "STATS"])}${random.pick(["", ".rally-attention"])}`, this.#any()),
    ];
  }

  async message(number: number): Promise<void> {
    await this.#random.pick(this.#weapons)(number);
  }

  /** Ends for everybody, one way or another. */
  async settled(): Promise<void> {
    this.#ending.push(...this.#victims.map(({ watched }) => watched));
    this.#victims = [];
    for (let ms = 0; this.#ending.length > 0; ms += 100) {
      if (ms > GIVE_UP_MS) throw new Error(`${this.#ending[0]?.requestId} does not end`);
      await this.#deployment.turn(100);
      this.#dismiss();
    }
  }

  async #request(number: number): Promise<void> {
    const { queue } = this.#deployment;
    const random = this.#random;
    // Now and then another request under the id of one that is being served, or was.
    const taken = {
      ...MESSAGES.request,
      requestId: `bystander-${1 + random.below(this.#crowd.numStarted)}`,
      deployment: "d",
      deadline: 2 ** 50,
    };
    const payload = random.below(50) === 0 ? encode({ ...taken, stop: ["x"] }) : mutateMessage(REQUEST, random);
    // A full queue would refuse everybody, as it must; this is not about that.
    while ((await queue.depth()) > MOST_JOBS) await this.#deployment.turn(MS_PER_TURN);
    try {
      await queue.put(`fuzz ${number}`, payload);
    } catch (thrown) {
      if (RallyError.from(thrown).code !== "overloaded") throw thrown;
    }
  }

  /** Foreign entries in the log of a request that is being served. */
  async #tokens(): Promise<void> {
    const { client, log, subjects } = this.#deployment;
    const random = this.#random;
    this.#dismiss();
    while (this.#victims.length < NUM_VICTIMS) {
      const { options, tokens } = random.pick(SPEAKERS);
      const requestId = `victim-${++this.numVictims}`;
      const generation = client.generate({ ...options, requestId, deadlineMs: VICTIM_DEADLINE_MS });
      this.#victims.push({ watched: new Watched(generation, tokens), hits: 0 });
    }
    const victim = random.pick(this.#victims);
    const { requestId: attacked } = victim.watched;
    victim.hits++;
    if (victim.hits === HITS_PER_VICTIM) {
      this.#victims = this.#victims.filter((other) => other !== victim);
      this.#ending.push(victim.watched);
    }
    const event = { ...random.pick(LOG_EVENTS), requestId: random.pick([attacked, "r"]) };
    const subject = subjects.tokens(attacked);
    const last = (await log.read(subject)).at(-1)?.seq ?? 0;
    const id = `fuzz ${attacked} ${victim.hits}`;
    const payload = mutateMessage(encode(event), random);
    victim.watched.isForged ||= isEventOf(attacked, payload);
    try {
      await log.append(subject, payload, { id, expectedLastSeq: last });
    } catch (thrown) {
      // Its owner was quicker.
      if (RallyError.from(thrown).code !== "stale-owner") throw thrown;
    }
  }

  #dismiss(): void {
    for (const { outcome, isForged, tokens, requestId } of this.#ending) {
      if (outcome === undefined || isForged) continue;
      // Nothing that could be taken for its owner's word was said; but each entry cost it an owner.
      if (outcome instanceof RallyError) {
        if (outcome.fields["lostOwners"] === undefined) throw new Error(`${requestId} failed`, { cause: outcome });
        this.numGivenUp++;
        continue;
      }
      expect(outcome.tokenIds).toEqual(tokens);
      this.numUnharmed++;
    }
    this.#ending = this.#ending.filter(({ outcome }) => outcome === undefined);
  }

  #batch(): Uint8Array {
    const random = this.#random;
    if (random.below(3) > 0) return mutateMessage(random.pick(HEADS), random);
    // Well-formed and intact, but for another model, layer, time or place.
    const odd = {
      ...BATCH,
      layer: random.below(6),
      epoch: random.pick([EPOCH, EPOCH, 0, 9]),
      microBatch: random.below(70_000),
      deadline: random.pick([0, 2 ** 50]),
      deployment: random.pick(["d", "e"]),
      attentionId: random.pick(["a0", "a1"]),
      expertIds: toWireI32(
        Int32Array.from({ length: 3 * topK }, () => random.below(6) - 1),
        [3, topK],
      ),
      hidden: toWireF32(
        new Float32Array(3 * hiddenSize).fill(random.pick([1, Number.NaN, Infinity])),
        random.pick([
          [3, hiddenSize],
          [hiddenSize, 3],
        ]),
        random.pick(["f32", "f16", "int8-row"]),
      ),
    };
    return encodedSealed(odd);
  }

  #answer(): Uint8Array {
    const random = this.#random;
    if (random.below(3) > 0) return mutateMessage(random.pick(HEADS), random);
    const odd = {
      ...ANSWER,
      microBatch: random.below(3),
      layer: random.below(4),
      shard: random.below(4),
      part: random.below(3),
    };
    return encodedSealed(odd);
  }

  #answerSubject(): string {
    const { subjects } = this.#deployment;
    const random = this.#random;
    const known = subjects.act("a0", random.below(3), random.pick(["", "e0", "x"]) || undefined);
    return random.below(4) === 0 ? `${known}.${this.#name()}` : known;
  }

  async #placement(): Promise<void> {
    const { placements } = this.#deployment;
    const random = this.#random;
    const bytes = mutateMessage(Uint8Array.from(encode(MESSAGES.placement)), random);
    await placements.put(random.pick(["current", "next"]), bytes);
  }

  #any(): Uint8Array {
    return mutateBytes(this.#random.pick(HEADS), this.#random);
  }

  /** Of no request that anybody makes. */
  #name(): string {
    const letters = Array.from({ length: 1 + this.#random.below(70) }, () =>
      this.#random.pick(["a", "Z", "0", "-", "$", "é"]),
    );
    return letters.join("");
  }
}

function isEventOf(requestId: string, payload: Uint8Array): boolean {
  try {
    return decodeLogEvent(payload).requestId === requestId;
  } catch {
    return false;
  }
}
