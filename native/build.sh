#!/usr/bin/env bash
# Builds libespalier_cpu.so and, where there is a GPU to run on, libespalier_cuda.so; what is up to date is left alone.
# Called by Maven: build.sh BUILD_DIR OUTPUT_DIR PORTABLE. Prints nothing unless something fails.
# The CUDA library needs nvcc, on the PATH or in CUDA_HOME, and a loaded NVIDIA driver. ESPALIER_CUDA=on builds it without
# a driver and makes a failure final; ESPALIER_CUDA=off leaves it out.
set -euo pipefail
build=$1 output=$2 portable=$3
cd "$(dirname "${BASH_SOURCE[0]}")"

for tool in g++ cmake make; do
  command -v "$tool" >/dev/null || {
    echo "missing: $tool (Debian package $tool)" >&2
    exit 1
  }
done

# compile FOLDER TARGET [CMAKE OPTION...]
compile() {
  local folder=$1 target=$2
  mkdir -p "$folder"
  cmake -S . -B "$folder" -G 'Unix Makefiles' -DESPALIER_PORTABLE="$portable" -DESPALIER_OUTPUT="$output" "${@:3}" &&
    cmake --build "$folder" --target "$target" --parallel
}

mkdir -p "$build"
log=$build/build.log
compile "$build" espalier_cpu >"$log" 2>&1 || {
  cat "$log" >&2
  exit 1
}

find_nvcc() {
  command -v nvcc || { [[ -n ${CUDA_HOME-} && -x $CUDA_HOME/bin/nvcc ]] && echo "$CUDA_HOME/bin/nvcc"; }
}

wanted=${ESPALIER_CUDA:-auto}
library=$output/libespalier_cuda.so
if [[ $wanted == off ]] || { [[ $wanted == auto && ! -e /proc/driver/nvidia/version ]] && ! nvidia-smi -L >/dev/null 2>&1; }; then
  rm -f "$library" # an older build's would be of other sources
  exit
fi
if ! nvcc=$(find_nvcc); then
  rm -f "$library"
  [[ $wanted == auto ]] && exit # `espalier doctor` says what is missing
  echo "ESPALIER_CUDA=on, but there is no nvcc on the PATH or in CUDA_HOME" >&2
  exit 1
fi
if ! found=$(./architectures.sh "$nvcc") && [[ $wanted == auto ]]; then
  rm -f "$library"
  exit
fi
found=${found:+-DESPALIER_CUDA_ARCHITECTURES=$found} # else the list, whatever an earlier build found
log=$build/build-cuda.log
compile "$build/cuda" espalier_cuda -DESPALIER_CUDA=ON -DCMAKE_CUDA_COMPILER="$nvcc" \
  "${found:--UESPALIER_CUDA_ARCHITECTURES}" >"$log" 2>&1 || {
  rm -f "$library"
  echo "espalier: the CUDA kernels did not compile, so GPUs cannot be used; see $log" >&2
  [[ $wanted == auto ]] || exit 1
}
