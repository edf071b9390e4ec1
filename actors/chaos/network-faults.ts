import type { NetworkFault } from "../../infra/chaos/network-fault.ts";
import { matchesSubject } from "../../infra/subject.ts";
import type { Fault, FaultKind, FaultOf } from "./faults.ts";

type Lasting = Exclude<FaultOf<"network">, Fault<Extract<FaultKind, "disconnect">>>;

/** As the proxy takes it. */
export function networkFault(fault: Lasting): NetworkFault {
  const direction = fault.direction === "both" ? undefined : fault.direction;
  const { subjects } = fault;
  const concerns = (subject: string) => subjects === undefined || matchesSubject(subjects, subject);
  switch (fault.kind) {
    case "drop":
    case "duplicate":
    case "corrupt":
      return { kind: fault.kind, direction, probability: fault.numbers.probability, concerns };
    case "reorder": {
      const { probability, delayMs } = fault.numbers;
      return { kind: fault.kind, direction, probability, delayMs, concerns };
    }
    case "delay":
    case "jitter":
      return { kind: fault.kind, direction, delayMs: fault.numbers.delayMs };
    case "throttle":
      return { kind: fault.kind, direction, bytesPerSecond: fault.numbers.bytesPerSecond };
    default:
      return { kind: fault.kind, direction };
  }
}
