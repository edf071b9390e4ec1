#!/bin/sh
# Builds checks and timings of kernels into the folder given (default: dist/kernels). Needs nvcc 13; they run on a Hopper GPU.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
kernels=$here/../../models/kernels
out=${1:-$here/../../dist/kernels}
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT
mkdir -p "$out"

compile() { # NAME SOURCE [flag...]: one object
  object=$objects/$1.o
  source=$2
  shift 2
  echo "nvcc -O3 -std=c++20 -gencode=arch=compute_90a,code=sm_90a -I $kernels $* -c -o $object $source"
}
for source in "$kernels"/*.cu "$kernels"/f32/*.cu; do compile "$(basename "$source" .cu)" "$source"; done >"$objects/list"
checks="mfa-decode mfa-bench expert-ffn expert-bench norm router gemm stage-chain head f32-attention layer-chain"
for check in $checks; do compile "check-$check" "$here/$check.cu"; done >>"$objects/list"
# racecheck does not see that __syncwarp orders a warp's accesses before the arrival of one of its lanes
# as racecheck must have them, see kArrivalsPerWarp
for kernel in fp8-gemm expert-ffn; do compile "race-$kernel" "$kernels/$kernel.cu" -DRALLY_RACECHECK; done >>"$objects/list"
xargs -P "$(nproc)" -I{} sh -c '{}' <"$objects/list"

link() { # TARGET CHECK kernel...: the check and the kernels it calls
  target=$1
  inputs=$objects/check-$2.o
  shift 2
  for kernel in "$@"; do inputs="$inputs $objects/$kernel.o"; done
  nvcc -arch=sm_90a -cudart static -o "$out/$target" $inputs
}
around="norm-quantise router pack-weights mfa-decode mfa-append"
ends="embed candidates"
link mfa-decode mfa-decode mfa-decode mfa-append
link mfa-bench mfa-bench mfa-decode mfa-append
link head head $ends
link f32-attention f32-attention f32-attention
link norm norm norm-quantise
link router router router
link gemm gemm fp8-gemm pack-weights
link stage-chain stage-chain fp8-gemm $around
link layer-chain layer-chain fp8-gemm expert-ffn $around $ends
link expert-ffn expert-ffn expert-ffn
link expert-bench expert-bench expert-ffn
link race-gemm gemm race-fp8-gemm pack-weights
link race-stage-chain stage-chain race-fp8-gemm $around
link race-layer-chain layer-chain race-fp8-gemm race-expert-ffn $around $ends
link race-expert-ffn expert-ffn race-expert-ffn
