#!/usr/bin/env bash
# Builds libespalier_cpu.so; what is up to date is left alone. Called by Maven: build.sh BUILD_DIR OUTPUT_DIR PORTABLE.
# Prints nothing unless it fails.
set -euo pipefail
build=$1 output=$2 portable=$3
cd "$(dirname "${BASH_SOURCE[0]}")"

for tool in g++ cmake make; do
  command -v "$tool" >/dev/null || {
    echo "missing: $tool (Debian package $tool)" >&2
    exit 1
  }
done

mkdir -p "$build"
log=$build/build.log
{
  cmake -S . -B "$build" -G 'Unix Makefiles' -DESPALIER_PORTABLE="$portable" -DESPALIER_OUTPUT="$output" &&
    cmake --build "$build" --parallel
} >"$log" 2>&1 || {
  cat "$log" >&2
  exit 1
}
