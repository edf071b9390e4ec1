#!/bin/sh
# Builds checks and timings of kernels into the folder given (default: dist/kernels). Needs nvcc 13; they run on a Hopper GPU.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
kernels=$here/../../models/kernels
out=${1:-$here/../../dist/kernels}
mkdir -p "$out"
build() {
  target=$1
  shift
  nvcc -O3 -std=c++20 -gencode=arch=compute_90a,code=sm_90a -cudart static -o "$out/$target" "$@"
}
build mfa-decode "$here/mfa-decode.cu" "$kernels/mfa-decode.cu" "$kernels/mfa-append.cu"
build mfa-bench "$here/mfa-bench.cu" "$kernels/mfa-decode.cu" "$kernels/mfa-append.cu"
build expert-ffn "$here/expert-ffn.cu" "$kernels/expert-ffn.cu"
build expert-bench "$here/expert-bench.cu" "$kernels/expert-ffn.cu"
# for compute-sanitizer --tool racecheck, with the argument `small`
build expert-racecheck -DRALLY_RACECHECK "$here/expert-ffn.cu" "$kernels/expert-ffn.cu"
# the attention stage's kernels, alone and one after the other
for check in norm router gemm stage-chain; do
  sources=
  for kernel in norm-quantise router fp8-gemm pack-weights mfa-decode mfa-append; do sources="$sources $kernels/$kernel.cu"; done
  build "$check" "$here/$check.cu" $sources
done
