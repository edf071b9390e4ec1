/**
 * Where ONNX Runtime's CUDA provider comes from. It must be of exactly onnxruntime-node's version: provider and runtime share
 * structures, not only an interface.
 */
export interface RuntimePin {
  readonly version: string;
  readonly platform: string;
  /** In turn, until one gives everything. */
  readonly sources: readonly RuntimeSource[];
}

export interface RuntimeSource {
  readonly name: string;
  /** Disk space that is needed on the way. */
  readonly roomBytes: number;
  readonly archives: readonly PinnedArchive[];
}

export interface PinnedArchive {
  /** A URL, or a package that npm fetches, from whichever registry it is set up for. */
  readonly from: { readonly url: string } | { readonly npm: string; readonly bytes: number };
  readonly sha256: string;
  /** What is taken out of it, as GNU tar matches names. */
  readonly libraries: readonly string[];
  readonly headers: readonly string[];
}

export const PROVIDER_LIBRARIES = ["libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"] as const;
export const MAIN_HEADER = "onnxruntime_c_api.h";

/**
 * What the CUDA provider loads, besides the C and C++ libraries. cuDNN is not among them: the provider looks for it only when a
 * graph has convolutions, and ours have none.
 */
export const CUDA_LIBRARIES = ["libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10"] as const;
/** Part of the driver. */
export const DRIVER_LIBRARY = "libcuda.so.1";

/** The oldest driver that runs CUDA 13, and the oldest GPU that CUDA 13 builds for. */
export const OLDEST_DRIVER = 580;
export const OLDEST_COMPUTE_CAPABILITY = 7.5;

const RELEASE = "onnxruntime-linux-x64-gpu_cuda13-1.29.0.tgz";
const IOS_HEADERS = "package/Plugins/iOS~/onnxruntime.xcframework/ios-arm64/onnxruntime.framework/Headers/*.h";

export const PINNED_RUNTIME: RuntimePin = {
  version: "1.29.0",
  platform: "linux-x64",
  sources: [
    {
      name: "official release",
      roomBytes: 600_000_000,
      archives: [
        {
          from: { url: `https://github.com/microsoft/onnxruntime/releases/download/v1.29.0/${RELEASE}` },
          sha256: "844c64acfc43ab9423215c26493055ea229268e28283146cc644ecef0bdae048",
          libraries: PROVIDER_LIBRARIES.map((name) => `*/lib/${name}`),
          headers: ["*/include/*.h"],
        },
      ],
    },
    {
      // Builds of the same release; its headers come with another package of theirs.
      name: "npm packages",
      roomBytes: 700_000_000,
      archives: [
        {
          from: { npm: "com.github.asus4.onnxruntime.linux-x64-gpu@0.4.9", bytes: 179_145_956 },
          sha256: "2b459e0c17f340c92970c10ed86de4f37a3009f93c14053e6ad4334cbb6be412",
          libraries: PROVIDER_LIBRARIES.map((name) => `package/Plugins/Linux/x64/${name}`),
          headers: [],
        },
        {
          from: { npm: "com.github.asus4.onnxruntime@0.4.9", bytes: 149_786_233 },
          sha256: "e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d",
          libraries: [],
          headers: [IOS_HEADERS],
        },
      ],
    },
  ],
};
