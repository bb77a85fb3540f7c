#!/usr/bin/env bash
# What build.sh compiles the CUDA kernels for, as CMake numbers them: architectures.sh NVCC. The GPUs here; a Hopper as 90a, with
# the instructions that it alone has. Nothing, for the list in CMakeLists.txt, which suits all GPUs from 8.0 on, where none is
# known, or one that this nvcc is too old for. Older GPUs, such as one that a display hangs on, have no say; where there are no
# others it fails.
set -euo pipefail
oldest=80 # asynchronous copies and products of bfloat16

found=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -d '. ' | grep -E '^[0-9]+$' | sort -nu) || exit 0
usable=$(awk -v oldest=$oldest '$1 >= oldest' <<<"$found")
if [[ -z $usable ]]; then
  echo "the GPUs here are too old for the CUDA kernels, which need compute capability 8.0" >&2
  exit 1
fi
known=$("$1" --list-gpu-arch | tr -dc '0-9\n')
if grep -vxFq "$known" <<<"$usable"; then exit; fi
sed 's/^90$/90a/; s/$/-real/' <<<"$usable" | paste -sd ';'
