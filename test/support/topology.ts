import { DEFAULT_TOPOLOGY, type Topology } from "../../actors/supervisor/topology.ts";

export function topologyOf(changes: Partial<Topology> = {}): Topology {
  return { ...DEFAULT_TOPOLOGY, deployment: "test", modelDir: "/no/model", ...changes };
}
