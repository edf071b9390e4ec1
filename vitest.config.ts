import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    testTimeout: 30_000,
    hookTimeout: 60_000,
    maxWorkers: 2,
    // ONNX Runtime would write telemetry files into the temporary folder.
    env: { ORT_DISABLE_TELEMETRY: "1" },
  },
});
