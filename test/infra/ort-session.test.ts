import { existsSync } from "node:fs";
import { expect, test } from "vitest";
import { allowedCores } from "../../infra/cores.ts";
import { openOrtSession } from "../../infra/ort-session.ts";
import { sessionContract } from "./session.contract.ts";

sessionContract("ort-session", openOrtSession);
sessionContract("ort-session on cores of its own", (graphFile, options) => {
  const [first = 0, second = first] = allowedCores() ?? [];
  return openOrtSession(graphFile, { ...options, numThreads: 2, cores: [second, first] });
});

test.skipIf(existsSync("/proc/driver/nvidia"))("a provider that this machine lacks is refused, not replaced", () => {
  const open = () => openOrtSession("/any/graph.onnx", { numThreads: 1, provider: "cuda" });
  expect(open).toThrow(
    expect.objectContaining({ code: "provider-unavailable", message: expect.stringContaining("rally doctor") }),
  );
});
