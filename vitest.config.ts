import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    maxWorkers: 2,
    // A busy machine may take its time; what must be quick says so itself.
    testTimeout: 90_000,
    hookTimeout: 90_000,
    expect: { poll: { timeout: 10_000 } },
    // ONNX Runtime would write telemetry files into the temporary folder.
    env: { ORT_DISABLE_TELEMETRY: "1" },
  },
});
