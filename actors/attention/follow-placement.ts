import type { Subscription } from "../../infra/bus.ts";
import { RallyError } from "../../infra/errors.ts";
import { checkCovers, checkModel, type Placements } from "../protocol/placement.ts";
import type { Placed } from "./placed-ffn.ts";

/** Tells of each placement to dispatch by; resolves once `changed` has taken in the first. */
export async function followPlacement(
  placements: Placements,
  options: {
    /** Of the model in this process. */
    readonly modelHash: string;
    readonly numExperts: number;
    /** Resolves once it can be dispatched by; must not reject. */
    readonly changed: (placed: Placed) => Promise<unknown>;
    readonly warn: (text: string) => void;
    /** The deployment serves another model: this process must not take part. */
    readonly mismatch: (error: RallyError) => void;
  },
): Promise<Subscription> {
  const { modelHash, numExperts, changed, warn, mismatch } = options;
  let settle: () => void = () => undefined;
  const first = new Promise<void>((resolve) => (settle = resolve));
  const subscription = await placements.watch(
    "current",
    (placement) => {
      try {
        checkModel(placement, modelHash);
        checkCovers(placement, numExperts);
      } catch (thrown) {
        const error = RallyError.from(thrown);
        // A placement that makes no sense changes nothing.
        return error.code === "bad-model" ? mismatch(error) : warn(error.message);
      }
      const { epoch, shards, sharedExperts } = placement;
      const placed = { epoch, numShards: shards.length, ...(sharedExperts !== undefined && { sharedExperts }) };
      void changed(placed).then(settle);
    },
    warn,
  );
  await first;
  return subscription;
}
