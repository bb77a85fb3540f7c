#!/usr/bin/env bash
# Compiles native/cuda with nvcc for every architecture that the library has machine code for, and writes what each kernel takes
# to native/cuda/resources.txt.
#   native/resources.sh           rewrites it
#   native/resources.sh --check   fails if a kernel spills registers that the file does not know of; says so, and goes on,
#                                 where only registers or shared memory changed: another nvcc counts differently
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
recorded=cuda/resources.txt
log=target/resources/build.log
found=target/resources/found.txt

# PTX alone takes nothing.
cmake --preset cuda -B target/resources -DCMAKE_CUDA_FLAGS=-Xptxas=-v "-DESPALIER_CUDA_ARCHITECTURES=80-real;90a-real" >/dev/null
cmake --build target/resources --target espalier_cuda --clean-first --parallel "$(nproc)" -- --output-sync=target \
  >"$log" 2>&1 || {
  grep -E 'error|warning' "$log" >&2 || tail -n 30 "$log" >&2
  exit 1
}

# ptxas, of each kernel and architecture: "Compiling entry function 'NAME' for 'sm_90'", "S bytes stack frame, X bytes
# spill stores, Y bytes spill loads", "Used R registers, ..., M bytes smem, ...". Before them make says which file it is.
awk '
  /Building CUDA object/ { file = $NF; sub(/.*\//, "", file); sub(/\.o$/, "", file) }
  /Compiling entry function/ { split($0, part, "\x27"); name = part[2]; target = part[4] }
  /bytes spill stores/ && name != "" { spill = $0; sub(/.*stack frame, /, "", spill); sub(/ bytes spill.*/, "", spill) }
  /Used [0-9]+ registers/ && name != "" {
    registers = $0; sub(/.*Used /, "", registers); sub(/ registers.*/, "", registers)
    shared = 0
    if ($0 ~ /bytes smem/) { shared = $0; sub(/ bytes smem.*/, "", shared); sub(/.*, /, "", shared) }
    print file, target, registers, shared, spill, name
    name = ""
  }' "$log" | c++filt | awk '
  # "void (anonymous namespace)::kernel<T, 4>(T const*, ...)" without its type, namespaces and parameters
  {
    text = ""
    for (i = 6; i <= NF; i++) text = text (i > 6 ? " " : "") $i
    sub(/^void /, "", text)
    gsub(/\(anonymous namespace\)::/, "", text)
    gsub(/esp::/, "", text)
    depth = 0
    for (i = 1; i <= length(text); i++) {
      c = substr(text, i, 1)
      if (c == "<") depth++
      if (c == ">") depth--
      if (c == "(" && depth == 0) break
    }
    kernel = substr(text, 1, i - 1)
    gsub(/__nv_bfloat16/, "bf16", kernel)
    printf "%s %s %d %d %d %s\n", $1, $2, $3, $4, $5, kernel
  }' | LC_ALL=C sort -k1,1 -k6 -k2,2 >"$found"
[[ -s $found ]] || { echo "no kernel found in $log" >&2; exit 1; }

if [[ ${1-} != --check ]]; then
  {
    echo "# What each kernel takes, by ptxas of $(nvcc --version | sed -n 's/.*release.*, //p'); written by native/resources.sh."
    echo "# file architecture registers shared-memory-bytes spilled-bytes kernel"
    cat "$found"
  } >"$recorded"
  exit 0
fi

spills=$(awk '
  NR == FNR { if ($1 != "#") { key = $1 " " $2; for (i = 6; i <= NF; i++) key = key " " $i; known[key] = $5 } next }
  { key = $1 " " $2; for (i = 6; i <= NF; i++) key = key " " $i
    if ($5 > known[key] + 0) print key ": " $5 " bytes, " known[key] + 0 " before" }' "$recorded" "$found")
if [[ -n $spills ]]; then
  printf 'kernels spill registers:\n%s\n' "$spills" >&2
  exit 1
fi
if ! diff -q <(grep -v '^#' "$recorded") "$found" >/dev/null; then
  echo "kernels take other registers or shared memory than $recorded says: native/resources.sh rewrites it"
fi
