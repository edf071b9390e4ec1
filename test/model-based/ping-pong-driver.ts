import { expect } from "vitest";
import { Engine } from "../../actors/attention/engine.ts";
import { SimulatedClock } from "../../infra/clock.ts";
import { RallyError } from "../../infra/errors.ts";
import type { ModelConfig } from "../../models/config.ts";
import { engineRequest } from "../support/engine-requests.ts";
import { fakeConfig, FakeStages } from "../support/fake-model.ts";
import { ManualFfn } from "../support/manual-ffn.ts";
import { referenceTokens } from "../support/reference-tokens.ts";
import { quiet } from "../support/turns.ts";

/** One: a sequence with more to come starts its next pass as soon as one is over, and the micro-batch would never be idle. */
const MAX_TOKENS = 1;

/** A gate that lets one through each time it is opened, or breaks under whoever waits at it. */
class Gate {
  #waiting: { readonly pass: () => void; readonly refuse: (error: RallyError) => void } | undefined;
  #isOpen = false;

  async wait(): Promise<void> {
    if (this.#isOpen) return;
    await new Promise<void>((pass, refuse) => (this.#waiting = { pass, refuse }));
  }

  open(): void {
    this.#waiting?.pass();
    this.#waiting = undefined;
  }

  break(): void {
    this.#waiting?.refuse(new RallyError("session-failed", "the graph broke"));
    this.#waiting = undefined;
  }

  openForGood(): void {
    this.#isOpen = true;
    this.open();
  }
}

/** An engine with one micro-batch, stopped at every phase; each event is made to happen to it. */
export class PingPongDriver {
  readonly #config: ModelConfig;
  readonly #clock = new SimulatedClock();
  readonly #attend = new Gate();
  readonly #head = new Gate();
  readonly #tokens = new Map<number, number[]>();
  readonly #over = new Set<number>();
  readonly #gone = new Set<number>();
  readonly #by: "release" | "failure";
  readonly #stages: FakeStages;
  readonly #engine: Engine;
  readonly #ffn = new ManualFfn();
  #numAdmitted = 0;

  /** `abandon` comes of a sequence that is released, or of a graph that fails. */
  constructor(numLayers: number, by: "release" | "failure") {
    this.#by = by;
    const layerKinds = Array.from({ length: numLayers }, () => "moe" as const);
    this.#config = { ...fakeConfig, numLayers, layerKinds };
    const stages = (this.#stages = new FakeStages(this.#config));
    stages.gate = () => this.#attend.wait();
    stages.headGate = () => this.#head.wait();
    this.#engine = new Engine({
      stages,
      ffn: this.#ffn,
      clock: this.#clock,
      listener: {
        tokens: (tokens) => {
          for (const { key, id, finish } of tokens) {
            this.#tokens.set(key, [...(this.#tokens.get(key) ?? []), id]);
            if (finish !== undefined) this.#over.add(key);
          }
        },
        failed: (key) => void this.#gone.add(key),
      },
      observer: { computed: () => undefined, waited: () => undefined },
      maxSequences: 8,
      maxMicroBatches: 1,
      microBatches: () => 1,
      prefillTokens: 32,
    });
    this.#engine.start();
  }

  async event(type: string, phase: string): Promise<void> {
    switch (type) {
      case "start":
        this.#admit();
        break;
      case "attended":
      case "completed":
        this.#stages.whole = type === "completed" ? [...this.#config.layerKinds.keys()] : [];
        this.#attend.open();
        break;
      case "answered":
        // A late or repeated answer does not get this far: the dispatching side drops it.
        if (this.#ffn.pending > 0) await this.#ffn.answer();
        break;
      case "sampled":
        this.#head.open();
        break;
      case "abandon":
        this.#abandon(phase);
        break;
      default:
        // The engine itself decides these, as soon as the answer is there.
        break;
    }
    await quiet(10);
  }

  expectPhase(phase: string): void {
    const { underWay } = this.#engine.counts;
    expect(underWay).toBe(phase !== "idle");
    const isAway = phase === "dispatched";
    expect(this.#ffn.pending).toBe(isAway ? 1 : 0);
  }

  /** Lets everything go its way: every sequence that is still wanted gets its tokens, and nothing is left. */
  async finish(how: "run" | "close"): Promise<void> {
    const admitted = [...this.#keys()];
    this.#attend.openForGood();
    this.#head.openForGood();
    if (how === "run") {
      for (let i = 0; i < 400 && this.#engine.counts.activeSequences > 0; i++) {
        if (this.#ffn.pending > 0) await this.#ffn.answer();
        await quiet(2);
      }
      for (const key of admitted.filter((each) => !this.#gone.has(each))) {
        expect(this.#tokens.get(key)).toEqual(await referenceTokens(requestOf(key), this.#config));
        expect(this.#over).toContain(key);
      }
    }
    await this.#engine.close();
    expect(this.#engine.counts).toMatchObject({ activeSequences: 0, kvTokens: 0, underWay: false });
    expect(this.#ffn.pending).toBe(0);
    expect(this.#clock.pending).toBe(0);
  }

  #admit(): void {
    this.#engine.admit(requestOf(++this.#numAdmitted));
  }

  *#keys(): Generator<number> {
    for (let key = 1; key <= this.#numAdmitted; key++) yield key;
  }

  #abandon(phase: string): void {
    if (this.#by === "failure" && phase === "dispatched") {
      for (const key of this.#keys()) this.#gone.add(key);
      this.#ffn.fail(new RallyError("session-failed", "the experts broke"));
    } else if (this.#by === "release" || phase === "idle") {
      for (const key of this.#keys()) {
        if (!this.#over.has(key)) this.#gone.add(key);
        this.#engine.release(key);
      }
      // Graphs cannot be stopped: what was released while it was computed is dropped afterwards.
      if (phase === "attending") this.#attend.open();
      if (phase === "sampling") this.#head.open();
    } else if (phase === "attending") this.#attend.break();
    else if (phase === "sampling") this.#head.break();
  }
}

function requestOf(key: number) {
  return engineRequest(key, 3 + key, MAX_TOKENS);
}
