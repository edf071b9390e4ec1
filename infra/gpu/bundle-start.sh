#!/bin/sh
# Joins, verifies and starts Rally on a machine without internet; needs no root, only sh, tar, xz and sha256sum.
#
#   ./start.sh doctor --provider cuda      any command of rally: run, up, bench, …
#   ./start.sh --exec node program.mjs     any program, in the same environment
#   ./start.sh --tests test/e2e            tests, where the bundle has them
#
# Everything stays in the folder of this script, or in RALLY_BUNDLE_HOME: unpacked files, graphs, stores.
set -eu

parts=$(cd "$(dirname "$0")" && pwd)
home=${RALLY_BUNDLE_HOME:-$parts/unpacked}
sums=$parts/SHA256SUMS

fail() {
  echo "start.sh: $1" >&2
  exit 1
}

for tool in tar xz sha256sum; do
  command -v "$tool" >/dev/null || fail "$tool is missing"
done
[ -f "$sums" ] || fail "$sums is missing"
mkdir -p "$home/cache/rally" "$home/data"

# A layer's name ends in the hash of its content, so a folder of that name holds just that.
unpack() { # base-0123… or app-0123…
  [ -d "$home/$1" ] || (
    cd "$parts"
    grep "  $1\.tar\.xz\." "$sums" >"$home/$1.sums"
    echo "start.sh: verifying and unpacking $1" >&2
    sha256sum -c --status "$home/$1.sums" || {
      sha256sum -c "$home/$1.sums" 2>&1 | grep -v ': OK$' >&2
      fail "parts of $1 are missing or damaged"
    }
    new=$home/.$1.$$
    trap 'rm -rf "$new"' EXIT
    mkdir "$new"
    # Of a pipe only the last status counts: tar's, which fails where the archive ends early.
    cut -c 67- "$home/$1.sums" | while read -r part; do cat "$part"; done | xz -dc -T0 | tar -xf - -C "$new"
    # Another start may have been faster.
    mv "$new" "$home/$1" 2>/dev/null || [ -d "$home/$1" ]
  )
  ln -sfn "$1" "$home/${1%%-*}"
}

for layer in $(cut -c 67- "$sums" | sed -n 's/\.tar\.xz\..*//p' | sort -u); do unpack "$layer"; done
for kept in "$home"/base/cache/* "$home"/app/cache/*; do
  [ -e "$kept" ] && ln -sfn "$kept" "$home/cache/rally/$(basename "$kept")"
done

# The loader's own folders and those that the caller names come after; cuDNN is the system's.
libraries=
for folder in "$home"/cache/rally/onnxruntime-*/lib "${CUDA_HOME:-/usr/local/cuda}"/targets/x86_64-linux/lib \
  /usr/local/cuda-13*/targets/x86_64-linux/lib /usr/local/nvidia/lib64; do
  [ -d "$folder" ] && libraries=$libraries$folder:
done
LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:-}
LD_LIBRARY_PATH=${LD_LIBRARY_PATH%:}
PATH=$home/base/bin:${PATH:-/usr/local/bin:/usr/bin:/bin}
XDG_CACHE_HOME=$home/cache
XDG_DATA_HOME=${XDG_DATA_HOME:-$home/data}
export LD_LIBRARY_PATH PATH XDG_CACHE_HOME XDG_DATA_HOME

if [ "${1:-}" = --exec ]; then
  shift
  exec "$@"
fi
if [ "${1:-}" = --tests ]; then
  shift
  [ -d "$home/tests" ] || fail "this bundle has no tests"
  cd "$home/tests"
  exec node node_modules/vitest/vitest.mjs run "$@"
fi
exec node "$home/app/dist/actors/cli/main.js" "$@"
