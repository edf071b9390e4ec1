/** Where a consumer is: counts of deliveries beside positions in the stream. */
interface Place {
  readonly consumer: number;
  readonly stream: number;
}

export interface ConsumerState {
  readonly ackFloor: Place;
  readonly delivered: Place;
  /** Delivered and not acknowledged, all of them just now. */
  readonly pending: readonly Place[];
}

const MAGIC = 22;
const VERSION = 2;

/** As nats-server keeps it in `obs/<consumer>/o.dat`. */
export function encodeConsumerState({ ackFloor, delivered, pending }: ConsumerState): Uint8Array {
  const now = Math.round(Date.now() / 1000);
  return Uint8Array.from([
    MAGIC,
    VERSION,
    ...[ackFloor, delivered].flatMap((place) => [...uvarint(place.consumer), ...uvarint(place.stream)]),
    ...uvarint(pending.length),
    ...(pending.length === 0 ? [] : uvarint(2 * now)),
    // Behind the floor, and for how many seconds.
    ...pending.flatMap(({ consumer, stream }) => [
      ...uvarint(stream - ackFloor.stream),
      ...uvarint(consumer - ackFloor.consumer),
      ...uvarint(0),
    ]),
    // None of them redelivered.
    ...uvarint(0),
  ]);
}

function uvarint(value: number): number[] {
  const bytes: number[] = [];
  let left = value;
  for (; left > 127; left = Math.floor(left / 128)) bytes.push((left % 128) + 128);
  return [...bytes, left];
}
