#!/bin/sh
# Builds the check and the timings of the expert feed-forward kernel into the folder given (default: dist/kernels). Needs nvcc 13.
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
build expert-ffn "$here/expert-ffn.cu" "$kernels/expert-ffn.cu"
build expert-bench "$here/expert-bench.cu" "$kernels/expert-ffn.cu"
# for compute-sanitizer --tool racecheck, with the argument `small`
build expert-racecheck -DRALLY_RACECHECK "$here/expert-ffn.cu" "$kernels/expert-ffn.cu"
