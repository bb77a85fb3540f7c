#!/usr/bin/env bash
# A reproduction with GNU parallel: docs/sweeps/parallel.sh JOBS EXPERIMENT --out DIR [OPTION...], for example
#   docs/sweeps/parallel.sh 4 sparsity --out runs/sparsity --budget 60
# The list is made once (and the plan with it); a cell that fails or is stopped is done by running the same again.
# On several machines that share DIR: parallel --sshloginfile NODES.
set -euo pipefail
espalier=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../espalier
jobs=$1
shift
cells=$(mktemp)
trap 'rm -f "$cells"' EXIT
"$espalier" reproduce "$@" --list >"$cells"
# Each job gets its share of the cores; timings are the clock's, which is a cell of its own.
export OMP_NUM_THREADS=$((($(nproc) + jobs - 1) / jobs))
parallel --jobs "$jobs" --halt soon,fail=1 --line-buffer <"$cells"
"$espalier" reproduce "$@" --collect
