import { RallyError } from "../../infra/errors.ts";
import { TOPOLOGY_LIMITS } from "../supervisor/topology.ts";
import { badFlag, type Flag } from "./flags.ts";

const FORM = "the experts of each shard, e.g. 0-3/4,5/6,7";
const PART = /^(\d{1,5})(?:-(\d{1,5}))?$/;

/** Which experts are in which shard: shards between slashes, each a list of experts and of ranges of them. */
export function splitFlag(help: string): Flag<readonly (readonly number[])[] | undefined> {
  return {
    value: "EXPERTS/…",
    help,
    read(name, texts) {
      const text = texts.at(-1);
      if (text === undefined) return undefined;
      const shards = text.split("/").map((shard) => expertsOf(name, text, shard));
      const limit = TOPOLOGY_LIMITS.numShards;
      if (shards.length > limit) throw badFlag(name, `${shards.length} shards`, `at most ${limit} shards`);
      const placed = new Set<number>();
      for (const expert of shards.flat()) {
        if (placed.has(expert)) {
          throw new RallyError("bad-settings", `--${name} has expert ${expert} twice`, {
            field: `--${name}`,
            found: expert,
            expected: "each expert in one shard",
          });
        }
        placed.add(expert);
      }
      return shards;
    },
  };
}

function expertsOf(name: string, text: string, shard: string): number[] {
  const experts = shard.split(",").flatMap((part) => {
    const [, first, last = first] = PART.exec(part.trim()) ?? [];
    const [from, to] = [Number(first), Number(last)];
    if (first === undefined || to < from) throw badFlag(name, text, FORM);
    return Array.from({ length: to - from + 1 }, (_, i) => from + i);
  });
  return experts.sort((a, b) => a - b);
}
