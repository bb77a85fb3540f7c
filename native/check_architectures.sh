#!/usr/bin/env bash
# architectures.sh on machines with other GPUs and other versions of nvcc, which programs under their names stand for.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
program() { printf '#!/bin/sh\n%s\n' "$2" >"$work/$1" && chmod +x "$work/$1"; }

# expect RESULT GPUS: as nvidia-smi names them, with an nvcc that knows up to 9.0
expect() {
  program nvidia-smi "printf '$2'"
  program nvcc "printf 'compute_75\ncompute_80\ncompute_86\ncompute_89\ncompute_90\n'"
  local said
  said=$(PATH=$work:$PATH ./architectures.sh nvcc 2>/dev/null) || said=none
  [[ $said == "$1" ]] || { echo "GPUs $2: $said, not $1" >&2; exit 1; }
}
expect '86-real' '8.6\n8.6\n'
expect '89-real;90a-real' '9.0\n8.9\n'
expect '86-real' '7.5\n8.6\n'      # kernels do not compile for 7.5
expect '' '8.6\n12.0\n'            # nor at all with this nvcc for 12.0, which takes the PTX of 9.0
expect '' ''
expect '' 'NVIDIA-SMI has failed\n'
expect none '7.5\n6.1\n'
