import { CHECK_KEY, seal, UNSEALED } from "../../actors/protocol/seal.ts";
import { encode } from "../../infra/codec.ts";

/** A message as an actor would send it over the network, whatever is in it. */
export function encodedSealed(message: object): Uint8Array {
  const bytes = Uint8Array.from(encode({ ...message, [CHECK_KEY]: UNSEALED }));
  seal(bytes);
  return bytes;
}
