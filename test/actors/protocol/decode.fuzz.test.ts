import { describe, expect, it } from "vitest";
import {
  decodeActivationBatch,
  decodeExpertNotice,
  decodeExpertResult,
  decodeGenerateRequest,
  decodeLogEvent,
  decodeOffer,
  decodeOfferAnswer,
  decodePlacement,
  requestIdOf,
} from "../../../actors/protocol/decode.ts";
import { encode } from "../../../infra/codec.ts";
import { RallyError } from "../../../infra/errors.ts";
import { FUZZ_SEED, FUZZ_TIMEOUT_MS, NUM_FUZZ_MESSAGES } from "../../support/fuzz-run.ts";
import { MESSAGES } from "../../support/messages.ts";
import { FuzzRandom, mutateMessage } from "../../support/mutations.ts";

const {
  request,
  offer,
  offered,
  tokens,
  completed,
  failed,
  cancelled,
  activations,
  result,
  refused,
  expert,
  placement,
} = MESSAGES;

/** Each decoder with the messages that it accepts. */
const DECODERS = [
  ["decodeGenerateRequest", decodeGenerateRequest, [request]],
  ["decodeOffer", decodeOffer, [offer]],
  ["decodeOfferAnswer", decodeOfferAnswer, [offered]],
  ["decodeLogEvent", decodeLogEvent, [tokens, completed, failed, cancelled]],
  ["decodeActivationBatch", decodeActivationBatch, [activations]],
  ["decodeExpertResult", decodeExpertResult, [result, refused]],
  ["decodeExpertNotice", decodeExpertNotice, [expert]],
  ["decodePlacement", decodePlacement, [placement]],
  ["requestIdOf", requestIdOf, [request]],
] as const;

const ALL = Object.values(MESSAGES).map((message) => Uint8Array.from(encode(message)));
describe(`${NUM_FUZZ_MESSAGES} mutated and random messages, seed ${FUZZ_SEED}`, () => {
  it.each(DECODERS)(
    "%s throws RallyErrors only",
    (name, decoder, accepted) => {
      const random = new FuzzRandom(FUZZ_SEED);
      const own = accepted.map((message) => Uint8Array.from(encode(message)));
      let refusals = 0;
      for (let n = 0; n < NUM_FUZZ_MESSAGES; n++) {
        const good = random.pick(random.below(4) === 0 ? ALL : own);
        const bytes = mutateMessage(good, random);
        try {
          decoder(bytes);
        } catch (error) {
          refusals++;
          if (error instanceof RallyError && (error.code === "bad-message" || error.code === "bad-request")) continue;
          throw new Error(`message ${n} (${Buffer.from(bytes).toString("hex")}) broke ${name}`, { cause: error });
        }
      }
      // Fuzz that is all refused at the first byte, or not at all, would prove nothing.
      const share = refusals / NUM_FUZZ_MESSAGES;
      const [least, most] = name === "requestIdOf" ? [0, 0] : [0.5, 0.99];
      expect(share).toBeGreaterThanOrEqual(least);
      expect(share).toBeLessThanOrEqual(most);
    },
    FUZZ_TIMEOUT_MS,
  );
});
