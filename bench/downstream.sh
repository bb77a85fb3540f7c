#!/usr/bin/env bash
# Probing, multiple choice and steering on the real model of ../shared/models: bench/downstream.sh [OPTIONS of the sets]
# ADAPTER=DIR: an adapter that was trained around topk-layer14. Results: bench/results/downstream/{probe,score,steer}.json
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
shared=$PWD/../shared/models
work=$PWD/runs/downstream
python=$(bench/reference/venv.sh)
[[ -e $work/smollm2/config.json ]] || { mkdir -p "$work"; "$python" "$shared/make_model.py" "$work/smollm2"; }
model=(--model "$work/smollm2" --sae "14=$shared/sae/topk-layer14" ${ADAPTER:+--adapter "$ADAPTER"})
results=bench/results/downstream
mkdir -p "$results"
"$python" bench/reference/make_downstream_sets.py sets "$shared/text/train.jsonl" "$shared/text/eval.jsonl" "$work/sets" "$@"
./espalier probe "${model[@]}" --data "$work/sets/probe-train.jsonl" --eval-data "$work/sets/probe-eval.jsonl" --label party \
  --features "$work/features" --json | tee "$results/probe.json"
./espalier score "${model[@]}" --questions "$work/sets/questions.jsonl" --context 256 --json | tee "$results/score.json"
latent=$("$python" bench/reference/make_downstream_sets.py steering "$work/sets/probe-train.jsonl" \
  "$work/features/train.latents.14.npy" "$work/sets" | sed -n 's/^latent \([0-9]*\):.*/\1/p')
./espalier steer "${model[@]}" --latent "14:$latent" --strength 0 10 20 40 80 --positive "$work/sets/positive.jsonl" \
  --negative "$work/sets/negative.jsonl" --context 128 --json | tee "$results/steer.json"
