#!/usr/bin/env bash
# Takes each __syncthreads() and __syncwarp() out of a copy of native/cuda in turn and runs the tests of the families that use
# the file: they must fail. A barrier whose removal nobody notices is superfluous, or the tests are too weak.
#
#   native/emulator/remove_barriers.sh                       all of them (a minute or two each)
#   native/emulator/remove_barriers.sh head.cu attention.cu:60   those of some files, or on some lines
#
# PRESET (emulator-races unless set) is the emulator's build. The tests run under up to four schedules; one that fails is enough.
# Needs what the build needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

preset=${PRESET:-emulator-races}
schedules=(0 1 2 3)

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r native "$copy/native"
rm -rf "$copy/native/target"

./mvnw -q -B --no-transfer-progress -pl engine -am test-compile dependency:build-classpath \
  -Dmdep.outputFile="$copy/classpath" -Dmdep.includeScope=test
classpath=engine/target/test-classes:engine/target/classes:$(<"$copy/classpath")
java=${JAVA_HOME:+$JAVA_HOME/bin/}java

# The test classes of a file: those that begin with the name of its family, or of the families that include it; all of SAEs'
# where there is none of that name; and those of all families in both types.
tests_of() {
  local file=$1 families=("${1%.cu}") family class
  if [[ $file == device.cuh ]]; then
    mapfile -t families < <(cd native/cuda && grep -l block_sum -- *.cu | sed 's/\.cu$//')
  elif [[ $file == *.cuh ]]; then
    mapfile -t families < <(cd native/cuda && grep -l "\"$file\"" -- *.cu | sed 's/\.cu$//')
  fi
  (
    cd engine/src/test/java/espalier/kernels
    for family in "${families[@]}"; do
      class=$(sed -E 's/(^|_)([a-z])/\U\2/g' <<<"$family")
      compgen -G "$class*Test.java" || { [[ $family == sae_* ]] && compgen -G 'Sae*Test.java'; } || true
    done
    compgen -G '*TypesTest.java'
  ) | sed 's/\.java$//' | sort -u | tr '\n' ' '
}

build() {
  (cd "$copy/native" && cmake --preset "$preset" && cmake --build --preset "$preset" --parallel --target espalier_emulator) \
    >"$copy/build.log" 2>&1 || {
    cat "$copy/build.log" >&2
    exit 2
  }
}

# Whether the tests, one argument each, pass under every schedule.
pass() {
  local schedule
  for schedule in "${schedules[@]}"; do
    ESPALIER_EMULATOR_SCHEDULE=$schedule ESPALIER_NATIVE_PATH=$copy/native/target/$preset "$java" \
      --enable-native-access=ALL-UNNAMED -Despalier.device=emulator -cp "$classpath" native/emulator/RunTests.java "$@" \
      >"$copy/tests.log" 2>&1 || return 1
  done
}

# What the tests complained about first.
complaint() { grep -m1 -v '^emulator: ' "$copy/tests.log" | cut -c1-300 || true; }

wanted() {
  (($# == 2)) && return 0
  local at=$1:$2 choice
  for choice in "${@:3}"; do
    [[ $at == "$choice" || $1 == "$choice" ]] && return 0
  done
  return 1
}

build
unnoticed=0 removed=0
declare -A whole # files whose tests pass as they are
while IFS=: read -r path line _; do
  file=${path##*/}
  wanted "$file" "$line" "$@" || continue
  read -ra tests <<<"$(tests_of "$file")"
  if [[ -z ${whole[$file]-} ]]; then
    pass "${tests[@]}" || {
      cat "$copy/tests.log" >&2
      echo "${tests[*]} fail with all barriers in place" >&2
      exit 2
    }
    whole[$file]=1
  fi
  sed -i -E "${line}s/__sync(threads|warp)\(\);/{}/" "$copy/native/cuda/$file"
  build
  removed=$((removed + 1))
  if pass "${tests[@]}"; then
    echo "$file:$line: UNNOTICED by ${tests[*]}"
    unnoticed=$((unnoticed + 1))
  else
    echo "$file:$line: noticed: $(complaint)"
  fi
  cp -p "native/cuda/$file" "$copy/native/cuda/$file"
  touch "$copy/native/cuda/$file"
done < <(grep -nE '__sync(threads|warp)\(\);' native/cuda/*.cu native/cuda/*.cuh)
echo "$removed barriers taken out, $unnoticed not noticed"
((removed > 0 && unnoticed == 0))
