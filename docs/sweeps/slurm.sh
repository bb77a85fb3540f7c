#!/usr/bin/env bash
# A reproduction as a Slurm array, a cell a task: docs/sweeps/slurm.sh EXPERIMENT --out DIR [OPTION...], for example
#   SBATCH_PARTITION=cpu docs/sweeps/slurm.sh rank --out /shared/runs/rank --budget 600
# DIR must be on a file system that all nodes share. Waits for the array, then collects; what failed or was preempted is
# done by running the same again. sbatch takes its options from SBATCH_* in the environment.
set -euo pipefail
espalier=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../espalier
cells=$(mktemp -p "${SLURM_SHARED_TMP:-$PWD}" cells.XXXXXX)
trap 'rm -f "$cells"' EXIT
"$espalier" reproduce "$@" --list >"$cells"
sbatch --wait --output="${SLURM_LOGS:-.}/espalier-%A-%a.log" --array="1-$(wc -l <"$cells")" \
  --wrap "eval \"\$(sed -n \"\${SLURM_ARRAY_TASK_ID}p\" ${cells@Q})\"" ||
  echo "slurm.sh: some cells did not end well, see the logs" >&2
"$espalier" reproduce "$@" --collect
