import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Forward } from "../../support/forward.ts";
import { SMALL_MODEL } from "../../support/random-checkpoint.ts";

const VOCAB = SMALL_MODEL.vocab_size;

/** Seeded token ids, another text for each `text`. */
export function tokens(count: number, text = 0): number[] {
  return Array.from({ length: count }, (_, i) => ((i + 3) * (i + 17) * (text * 2 + 7) + text) % VOCAB);
}

/** Logits of every token of one sequence that is prefilled in chunks of `chunk`, alone in slot `slot`. [count, VOCAB] */
export async function prefill(forward: Forward, ids: readonly number[], chunk: number, slot = 0, stride = 64) {
  const kv = forward.cache(slot + 1);
  kv.reserve(stride, slot + 1);
  const logits: number[] = [];
  for (let past = 0; past < ids.length; past += chunk) {
    const part = ids.slice(past, past + chunk);
    const pass = await forward.pass(kv, part, [past], { firstSlot: slot });
    logits.push(...(await forward.head(pass, [...part.keys()])));
  }
  return new Float32Array(logits);
}

/** The promise of `AttentionStages` and `FfnShard`, of SMALL_MODEL wherever it is computed. */
export function stagesContract(name: string, open: () => Promise<Forward>): void {
  describe(`bitwise the same: ${name}`, () => {
    const ids = tokens(200);
    let forward: Forward;
    let whole: Float32Array;

    beforeAll(async () => {
      forward = await open();
      whole = await prefill(forward, ids, ids.length, 0, 256);
    });

    afterAll(() => forward.release());

    it.each([1, 2, 7, 64, 130])("in chunks of %i", async (chunk) => {
      expect(await prefill(forward, ids, chunk, 0, 256)).toEqual(whole);
    });

    // With a small stride in one run, with a large one each sequence in a run of its own.
    it.each([256, 320, 448, 1024])("three prompts at once with a stride of %i", async (stride) => {
      const kv = forward.cache(3);
      kv.reserve(stride, 3);
      const logits: number[][] = [[], [], []];
      for (let past = 0; past < 200; past += 50) {
        const part = ids.slice(past, past + 50);
        const pass = await forward.pass(kv, [...part, ...tokens(50, past), ...part], [past, past, past]);
        const all = await forward.head(pass, [...Array(150).keys()]);
        for (const [i, rows] of logits.entries()) rows.push(...all.subarray(i * 50 * VOCAB, (i + 1) * 50 * VOCAB));
      }
      expect(new Float32Array(logits[0] ?? [])).toEqual(whole);
      expect(new Float32Array(logits[2] ?? [])).toEqual(whole);
    });

    it("while the stride grows and in any slot", async () => {
      expect(await prefill(forward, ids, 16, 5)).toEqual(whole);
    });

    it.each([192, 256, 448, 1024])("alone and in a batch of 32 of different lengths, stride %i", async (stride) => {
      const texts = Array.from({ length: 32 }, (_, i) => tokens(2 + i * 6, i));
      const alone: Float32Array[] = [];
      for (const text of texts) alone.push((await prefill(forward, text, text.length)).slice(-VOCAB));
      const kv = forward.cache(32);
      kv.reserve(stride, 32);
      for (const [slot, text] of texts.entries()) {
        await forward.pass(kv, text.slice(0, -1), [0], { firstSlot: slot });
      }
      const lasts = texts.map((text) => text.at(-1) as number);
      const pass = await forward.pass(
        kv,
        lasts,
        texts.map((text) => text.length - 1),
      );
      const together = await forward.head(pass, [...texts.keys()]);
      for (const i of texts.keys()) {
        expect(together.slice(i * VOCAB, (i + 1) * VOCAB), `sequence ${i}`).toEqual(alone[i]);
      }
    });

    // Passes of one shape follow each other here, as they do when decoding.
    it("when two sequences change places from pass to pass, at different lengths", async () => {
      const kv = forward.cache(2);
      kv.reserve(256, 2);
      const [long, short] = [ids.slice(0, 150), ids.slice(0, 20)];
      for (const [slot, text] of [long, short].entries()) await forward.pass(kv, text, [0], { firstSlot: slot });
      for (let step = 0; step < 6; step++) {
        const isSwapped = step % 2 === 1;
        const pasts = [150 + step, 20 + step];
        const next = pasts.map((past) => ids[past] as number);
        if (isSwapped) {
          pasts.reverse();
          next.reverse();
        }
        const logits = await forward.head(await forward.pass(kv, next, pasts), [0, 1]);
        for (const [row, past] of pasts.entries()) {
          expect(logits.slice(row * VOCAB, (row + 1) * VOCAB), `step ${step}, position ${past}`).toEqual(
            whole.slice(past * VOCAB, (past + 1) * VOCAB),
          );
        }
        kv.swap(0, 1, 160);
      }
    });

    it("when stale rows of an earlier sequence lie beyond the end", async () => {
      const kv = forward.cache(1);
      await forward.pass(kv, tokens(200, 9), [0]);
      const pass = await forward.pass(kv, ids.slice(0, 90), [0]);
      expect((await forward.head(pass, [89])).slice()).toEqual(whole.slice(89 * VOCAB, 90 * VOCAB));
    });
  });
}
