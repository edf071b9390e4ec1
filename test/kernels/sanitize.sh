#!/bin/sh
# compute-sanitizer's memcheck and racecheck over every kernel, on what build.sh has made in the folder given (default: dist/kernels).
# Needs a Hopper GPU and compute-sanitizer. SECONDS_EACH bounds one run (default 300); one that does not end in time is a failure, too.
set -u
here=$(cd "$(dirname "$0")" && pwd)
built=${1:-$here/../../dist/kernels}
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
status=0

sanitize() { # TOOL CHECK [argument...]
  log=$logs/$1-$2
  { timeout "${SECONDS_EACH:-300}" compute-sanitizer --tool "$1" --error-exitcode 9 "$built/$2" $3 >"$log" 2>&1; echo $? >"$log.rc"; } &
}
for check in norm router head f32-attention; do
  sanitize memcheck $check small
  sanitize racecheck $check small
done
for check in gemm stage-chain layer-chain expert-ffn; do
  sanitize memcheck $check small
  sanitize racecheck race-$check small
done
for tool in memcheck racecheck; do sanitize $tool mfa-decode "1 small"; done
wait
for log in "$logs"/*check-*.rc; do
  run=${log%.rc}
  rc=$(cat "$log")
  printf '%-28s rc %-4s %s\n' "$(basename "$run")" "$rc" "$(grep -h 'ERROR SUMMARY\|RACECHECK SUMMARY' "$run" | sed 's/=* //')"
  [ "$rc" = 0 ] || { status=1; tail -15 "$run"; }
done
exit $status
