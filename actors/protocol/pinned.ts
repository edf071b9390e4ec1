import { pin, threadId } from "../../infra/cores.ts";
import type { RoleSettings } from "./role.ts";

type Settings = Pick<RoleSettings, "pinned">;

/** Keeps this thread, which runs graphs, on its core. RallyError `bad-settings` where that cannot be done. */
export async function pinThread({ pinned }: Settings): Promise<void> {
  if (pinned !== undefined) await pin(threadId(), pinned.compute.slice(0, 1));
}

/** As graphs are opened with. */
export function coresOf({ pinned }: Settings): { readonly cores?: readonly number[] } {
  return pinned === undefined ? {} : { cores: pinned.compute };
}
