#!/usr/bin/env bash
# How long espalier takes until it has said something: medians of RUNS (9) runs, of wall time and of CPU time (which others on the
# machine change less). Fails if a wall time is beyond what is promised.
#   bench/check_startup.sh [RUNS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
runs=${1:-9}
TIMEFORMAT='%R %U %S'

# The middle one of the numbers on stdin.
median() {
  sort -n | sed -n "$(((runs + 1) / 2))p"
}

./espalier --version # builds first
failed=0
# check LIMIT_SECONDS ARGUMENT...
check() {
  local limit=$1 times wall cpu verdict=""
  shift
  times=$(for ((i = 0; i < runs; i++)); do { time ./espalier "$@" >/dev/null 2>&1; } 2>&1; done)
  wall=$(awk '{ print $1 }' <<<"$times" | median)
  cpu=$(awk '{ print $2 + $3 }' <<<"$times" | median)
  if awk "BEGIN { exit !($wall > $limit) }"; then
    verdict=", TOO LONG"
    failed=1
  fi
  echo "espalier $*: $wall s (at most $limit), $cpu s of CPU$verdict"
}
check 0.4 --help
check 1 doctor
echo "medians of $runs runs on $(nproc) processors, load $(cut -d ' ' -f 1 /proc/loadavg)"
exit $failed
