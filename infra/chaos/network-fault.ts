import type { SeededRandom } from "./seeded.ts";
import type { Frame } from "./nats-frames.ts";

export type FlowDirection = "to-server" | "from-server";

/** What a network does to the traffic of one proxy while the fault lasts. */
export type NetworkFault = {
  /** Undefined: both. */
  readonly direction: FlowDirection | undefined;
} & (
  | {
      readonly kind: "drop" | "duplicate" | "corrupt";
      readonly probability: number;
      readonly concerns: (subject: string) => boolean;
    }
  | {
      readonly kind: "reorder";
      readonly probability: number;
      /** How long a message stands aside for later ones. */
      readonly delayMs: number;
      readonly concerns: (subject: string) => boolean;
    }
  | { readonly kind: "delay" | "jitter"; readonly delayMs: number }
  | { readonly kind: "throttle"; readonly bytesPerSecond: number }
  | { readonly kind: "partition" | "half-open" }
);

/** What becomes of one frame. */
export interface Fate {
  /** None if it is lost, two if it is duplicated. */
  readonly copies: readonly Uint8Array[];
  /** In its turn, so much later. */
  readonly delayMs: number;
  /** Bytes a second that it may travel at. */
  readonly bytesPerSecond: number;
  /** Out of its turn, so much later. */
  readonly asideMs: number | undefined;
}

/** Whole messages are lost, doubled, changed or overtaken; everything else on a TCP connection only ever comes late. */
export function fateOf(frame: Frame, faults: Iterable<NetworkFault>, random: SeededRandom): Fate {
  let copies: readonly Uint8Array[] = [frame.bytes];
  let delayMs = 0;
  let bytesPerSecond = Infinity;
  let asideMs: number | undefined;
  for (const fault of faults) {
    switch (fault.kind) {
      case "drop":
        if (strikes(fault, frame, random)) copies = [];
        break;
      case "duplicate":
        if (strikes(fault, frame, random)) copies = [...copies, ...copies];
        break;
      case "corrupt":
        if (strikes(fault, frame, random)) copies = copies.map(() => corrupted(frame, random));
        break;
      case "reorder":
        if (strikes(fault, frame, random)) asideMs = fault.delayMs;
        break;
      case "delay":
        delayMs += fault.delayMs;
        break;
      case "jitter":
        delayMs += fault.delayMs * random.next();
        break;
      case "throttle":
        bytesPerSecond = Math.min(bytesPerSecond, fault.bytesPerSecond);
        break;
      case "partition":
      case "half-open":
        // Matters of the connection, not of a frame.
        break;
    }
  }
  return { copies, delayMs, bytesPerSecond, asideMs };
}

function strikes(
  fault: { readonly probability: number; readonly concerns: (subject: string) => boolean },
  { message }: Frame,
  random: SeededRandom,
): boolean {
  return message !== undefined && fault.concerns(message.subject) && random.next() < fault.probability;
}

/** Another value for one byte of headers or payload; the protocol around them stays whole. */
function corrupted({ bytes, message }: Frame, random: SeededRandom): Uint8Array {
  const copy = new Uint8Array(bytes);
  if (message === undefined) return copy;
  const { headersAt, payloadAt, payloadBytes } = message;
  const count = payloadAt + payloadBytes - headersAt;
  if (count === 0) return copy;
  const at = headersAt + random.integer(0, count - 1);
  copy[at] = (copy[at] ?? 0) ^ random.integer(1, 255);
  return copy;
}
