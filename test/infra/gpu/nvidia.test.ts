import { expect, it } from "vitest";
import { findNvidia, type NvidiaPorts } from "../../../infra/gpu/nvidia.ts";

function ports(more: Partial<NvidiaPorts> = {}): NvidiaPorts {
  return {
    run: () => Promise.reject(new Error("not found")),
    readText: () => undefined,
    list: () => [],
    ...more,
  };
}

it("asks nvidia-smi, wherever it is", async () => {
  const asked: string[] = [];
  const run: NvidiaPorts["run"] = async (file, args) => {
    asked.push(file);
    if (!file.startsWith("/usr/local")) throw new Error("ENOENT");
    expect(args[0]).toBe("--query-gpu=driver_version,name,compute_cap,memory.total");
    return "580.159.04, NVIDIA H100 80GB HBM3, 9.0, 81559\n580.159.04, NVIDIA T4, 7.5, [N/A]\n";
  };
  expect(await findNvidia(ports({ run }))).toEqual({
    driver: { version: "580.159.04", source: "nvidia-smi" },
    gpus: [
      { name: "NVIDIA H100 80GB HBM3", computeCapability: 9, memoryMiB: 81559 },
      { name: "NVIDIA T4", computeCapability: 7.5 },
    ],
  });
  expect(asked[0]).toBe("nvidia-smi");
});

it.each([
  ["NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\n", "550.54.14"],
  [
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\nGCC version: 12\n",
    "580.159.04",
  ],
])("without nvidia-smi it reads what the kernel module tells", async (text, version) => {
  const files: Record<string, string> = {
    "/proc/driver/nvidia/version": text,
    "/proc/driver/nvidia/gpus/0000:0a:00.0/information": "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 5\n",
  };
  const found = await findNvidia(
    ports({
      readText: (file) => files[file],
      list: (folder) => (folder === "/proc/driver/nvidia/gpus" ? ["0000:0a:00.0", "broken"] : []),
    }),
  );
  expect(found).toEqual({
    driver: { version, source: "/proc/driver/nvidia" },
    gpus: [{ name: "NVIDIA H100 80GB HBM3" }],
  });
});

it("finds nothing where there is nothing, or where nvidia-smi only complains", async () => {
  const none = { driver: undefined, gpus: [] };
  expect(await findNvidia(ports())).toEqual(none);
  const complaint = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n";
  expect(await findNvidia(ports({ run: async () => complaint }))).toEqual(none);
});
