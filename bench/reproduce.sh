#!/usr/bin/env bash
# The experiments whose results are in bench/results/reproduce, where of `real` timing alone is committed: on the demo's model
# (together about 30 minutes on 2 cores), then on the real model of ../shared/models. Wants a machine that does nothing else.
#   bench/reproduce.sh demo [MINUTES]     8 experiments of MINUTES each (default: 3.5)
#   bench/reproduce.sh real [MINUTES]     timing of MINUTES (default: 60), and the others on the given SAEs of half as much
# What was stopped goes on when it is started again. Runs stay in runs/reproduce; results, plan, report, and the command with its
# revision and machine (run.json) are copied.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
shared=$PWD/../shared/models

# experiment NAME BUDGET OUT [OPTION...]
experiment() {
  local name=$1 budget=$2 out=$3
  shift 3
  local results=bench/results/reproduce/$out clock=runs/reproduce/$out/cells/clock/cell.json
  ./espalier reproduce "$name" --budget "$budget" --out "runs/reproduce/$out" "$@"
  mkdir -p "$results"
  cp "runs/reproduce/$out"/{results.csv,reproduction.json,plan.json,run.json,report.html} "$results/"
  [[ ! -e $clock ]] || cp "$clock" "$results/clock.json"
  {
    printf './espalier reproduce'
    printf ' %q' "$name" --budget "$budget" --out "runs/reproduce/$out" "$@"
    printf '\n'
  } >"$results/command.txt"
  # Files as they are called from the project's folder, wherever that is.
  sed -i "s#$PWD/\.\./#../#g; s#$PWD/##g; s#${PWD%/*}/#../#g" "$results"/{command.txt,run.json,report.html}
}

case ${1-} in
  demo)
    budget=${2-3.5}
    # The demo's model once for all of them, in the demo's own folder layout.
    [[ -e runs/reproduce/demo/results.json ]] || ./espalier demo --out runs/reproduce/demo
    model=(--model "$PWD/runs/reproduce/demo/model" --data "$PWD/runs/reproduce/demo/data/train.jsonl"
      --eval-data "$PWD/runs/reproduce/demo/data/eval.jsonl" --batch 16 --context 256 --k 16 --lr 2e-3 --sae-lr 2e-3)
    for name in timing sparsity width layer rank per-layer multi-sae baselines; do
      experiment "$name" "$budget" "demo-$name" "${model[@]}"
    done
    ;;
  real)
    budget=${2-60}
    half=$(awk "BEGIN { print $budget / 2 }")
    [[ -e runs/reproduce/smollm2/config.json ]] || {
      mkdir -p runs/reproduce
      "$(bench/reference/venv.sh)" "$shared/make_model.py" runs/reproduce/smollm2
    }
    model=(--model "$PWD/runs/reproduce/smollm2" --data "$shared/tokens/train_512.npy" --eval-data "$shared/tokens/eval_512.npy")
    experiment timing "$budget" real-timing --model "$PWD/runs/reproduce/smollm2" --data "$shared/text/train.jsonl" \
      --eval-data "$shared/tokens/eval_512.npy" --batch 2
    experiment rank "$half" real-rank "${model[@]}" --sae "14=$shared/sae/topk-layer14"
    experiment sparsity "$half" real-saes "${model[@]}" --sae "14=$shared/sae/topk-layer14" \
      --sae "14=$shared/sae/jumprelu-layer14" --sae "20=$shared/sae/layers.20"
    experiment per-layer "$half" real-per-layer "${model[@]}" --sae "14=$shared/sae/topk-layer14"
    experiment multi-sae "$half" real-multi-sae "${model[@]}" --sae "14=$shared/sae/topk-layer14" --sae "20=$shared/sae/layers.20"
    experiment baselines "$half" real-baselines "${model[@]}" --sae "14=$shared/sae/topk-layer14"
    ;;
  *)
    sed -n '2,7s/^# //p' "$0" >&2
    exit 2
    ;;
esac
