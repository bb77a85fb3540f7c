#!/usr/bin/env bash
# Lays out the C and C++ sources with clang-format 14 (other versions disagree in details).
#   native/format.sh           rewrites what is not laid out
#   native/format.sh --check   fails if something is not; says so and goes on where clang-format 14 is absent
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

for program in clang-format-14 clang-format; do
  "$program" --version 2>/dev/null | grep -q 'version 14\.' && break
  program=
done
if [[ -z $program ]]; then
  echo "WARNING: native/ is NOT checked for its layout: clang-format 14 is missing (Debian package clang-format-14)" >&2
  [[ ${1-} == --check ]] && exit 0 || exit 1
fi

mapfile -t sources < <(find include cpu cuda emulator mpi -name '*.h' -o -name '*.c' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' 2>/dev/null)
if [[ ${1-} == --check ]]; then
  "$program" --dry-run -Werror "${sources[@]}" || {
    echo "native/ is not laid out: run native/format.sh" >&2
    exit 1
  }
else
  "$program" -i "${sources[@]}"
fi
