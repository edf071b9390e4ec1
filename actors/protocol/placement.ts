import type { Durable } from "../../infra/durable.ts";
import type { Subscription } from "../../infra/bus.ts";
import { encode } from "../../infra/codec.ts";
import { RallyError } from "../../infra/errors.ts";
import { decodePlacement } from "./decode.ts";
import type { Placement } from "./messages.ts";
import type { Subjects } from "./subjects.ts";

const KEY = "current";

/** The placement as it stands and every later one. One that cannot be read is a warning, and the last good one stays. */
export async function watchPlacement(
  durable: Durable,
  subjects: Subjects,
  options: {
    /** Hash of the model in this process. */
    readonly modelHash: string;
    readonly changed: (placement: Placement) => void;
    readonly warn: (text: string) => void;
    /** The deployment serves another model: this process must not take part. */
    readonly mismatch: (error: RallyError) => void;
  },
): Promise<Subscription> {
  const bucket = await durable.keyValue(subjects.placementBucket);
  return bucket.watch(KEY, ({ value }) => {
    let placement: Placement;
    try {
      placement = decodePlacement(value);
    } catch (thrown) {
      return options.warn(`placement: ${RallyError.from(thrown).message}`);
    }
    if (placement.modelHash === options.modelHash) return options.changed(placement);
    options.mismatch(
      new RallyError("bad-model", "the deployment serves another model than this process has loaded", {
        field: "modelHash",
        found: options.modelHash,
        expected: placement.modelHash,
      }),
    );
  });
}

export async function readPlacement(durable: Durable, subjects: Subjects): Promise<Placement | undefined> {
  const bucket = await durable.keyValue(subjects.placementBucket);
  const entry = await bucket.get(KEY);
  return entry === undefined ? undefined : decodePlacement(entry.value);
}

/** Writes the next epoch. RallyError `stale-owner` when somebody else has just done so. */
export async function publishPlacement(
  durable: Durable,
  subjects: Subjects,
  placement: Omit<Placement, "kind" | "epoch">,
): Promise<Placement> {
  const bucket = await durable.keyValue(subjects.placementBucket);
  const entry = await bucket.get(KEY);
  const epoch = entry === undefined ? 1 : decodePlacement(entry.value).epoch + 1;
  const next: Placement = { kind: "placement", epoch, ...placement };
  await bucket.put(KEY, encode(next), entry?.revision ?? 0);
  return next;
}
