import type { Scenario } from "../../../actors/chaos/scenario.ts";
import { parseScenario } from "../../../actors/chaos/scenario-file.ts";

/** A scenario from its YAML. */
export function scenarioOf(text: string): Scenario {
  return parseScenario("test.yaml", text);
}
