#!/usr/bin/env bash
# adapt on the real model: two ranks under mpirun give bit for bit what one process gives with --accumulate 2.
#   bench/check_ranks.sh MODEL_DIR SHARED_MODELS_DIR [MPIRUN]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
model=$1 shared=$2 mpirun=${3:-mpirun}

runs=$(mktemp -d)
trap 'rm -rf "$runs"' EXIT
adapt() {
  "${@:2}" ./espalier adapt --model "$model" --sae "14=$shared/sae/topk-layer14" --data "$shared/tokens/train_512.npy" \
    --init-adapter "$shared/adapter-init" --lr 1e-4 --steps 3 --out "$runs/$1" "${more[@]}"
}
# All but what the clock says.
results() {
  sed -E 's/"(step_ms|tokens_per_second)":[^,}]*//g' "$runs/$1/metrics.jsonl"
}

more=(--accumulate 2)
adapt one env
more=()
# Open MPI refuses root unless told, and more ranks than cores.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
adapt two "$mpirun" -np 2

cmp "$runs"/{one,two}/adapter_model.safetensors
diff <(results one) <(results two)
echo "two ranks: the same bits as one process, after $(wc -l <"$runs/two/metrics.jsonl") steps"
