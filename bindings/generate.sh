#!/usr/bin/env bash
# Regenerates the Java bindings of espalier.h, espalier_mpi.h and of the used parts of cuda_runtime_api.h, cublas_v2.h and
# nccl.h with jextract 22 (newer ones emit calls that Java 22 lacks). Needs jextract on the PATH or in JEXTRACT, g++, and the headers of CUDA, cuBLAS and NCCL (pip: nvidia-cuda-runtime,
# nvidia-cuda-crt, nvidia-cuda-cccl, nvidia-cublas, nvidia-nccl-cu13), found in CUDA_HOME/include or in the folders of
# CUDA_INCLUDE (separated by colons).
#
#   bindings/generate.sh           writes src/generated/java and jextract/fingerprints
#   bindings/generate.sh --check   fails if one of our headers changed and the bindings did not, or if they were edited;
#                                  comments and white space of the headers do not count. The build runs this.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

headers=(../native/include/espalier.h ../native/mpi/espalier_mpi.h)
generated=src/generated/java
fingerprints=jextract/fingerprints

fail() {
  echo "bindings/generate.sh: $1" >&2
  exit 1
}

# What the declarations of our headers say, whatever their layout: comments dropped, white space collapsed.
header_fingerprints() {
  local header
  for header in "${headers[@]}"; do
    echo "$(perl -0777 -pe 's{/\*.*?\*/|//[^\n]*}{ }gs; s/\s+/ /g' "$header" | sha256sum | cut -d' ' -f1)  $header"
  done
}

file_fingerprints() {
  find "$generated" -type f | LC_ALL=C sort | xargs sha256sum
}

if [[ ${1-} == --check ]]; then
  [[ $(head -n ${#headers[@]} "$fingerprints") == "$(header_fingerprints)" ]] ||
    fail "one of ${headers[*]} changed and the bindings did not: run bindings/generate.sh"
  [[ $(tail -n +$((1 + ${#headers[@]})) "$fingerprints") == "$(file_fingerprints)" ]] ||
    fail "bindings/$generated is not what jextract wrote: run bindings/generate.sh"
  exit 0
fi

jextract=${JEXTRACT:-$(command -v jextract || true)}
[[ -n $jextract ]] || fail "jextract 22 is missing: put it on the PATH or its file name in JEXTRACT"
command -v g++ >/dev/null || fail "g++ is missing (Debian package g++)"

rm -rf "$generated"
# libclang's own headers (stddef.h, stdint.h) may be absent; the compiler's serve as well.
includes=(-I "$(g++ -print-file-name=include)")

rm -f target/espalier.includes # jextract would add to it
"$jextract" "${includes[@]}" --dump-includes target/espalier.includes "${headers[0]}"
grep 'espalier\.h$' target/espalier.includes | sed 's/ *#.*//' >jextract/kernels.includes
"$jextract" "${includes[@]}" @jextract/kernels.args @jextract/kernels.includes --output "$generated" "${headers[0]}"
"$jextract" "${includes[@]}" @jextract/mpi.args @jextract/mpi.includes --output "$generated" "${headers[1]}"

IFS=: read -ra cuda <<<"${CUDA_INCLUDE:-${CUDA_HOME:-/usr/local/cuda}/include}"
for folder in "${cuda[@]}"; do includes+=(-I "$folder"); done
cuda_header() {
  local folder
  for folder in "${cuda[@]}"; do
    [[ ! -f $folder/$1 ]] || { echo "$folder/$1"; return; }
  done
  fail "$1 is in none of ${cuda[*]}"
}
"$jextract" "${includes[@]}" @jextract/cudart.args @jextract/cudart.includes --output "$generated" "$(cuda_header cuda_runtime_api.h)"
"$jextract" "${includes[@]}" @jextract/cublas.args @jextract/cublas.includes --output "$generated" "$(cuda_header cublas_v2.h)"
"$jextract" "${includes[@]}" @jextract/nccl.args @jextract/nccl.includes --output "$generated" "$(cuda_header nccl.h)"

{
  header_fingerprints
  file_fingerprints
} >"$fingerprints"
