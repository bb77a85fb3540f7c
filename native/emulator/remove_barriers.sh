#!/usr/bin/env bash
# Tests whether every barrier is needed and tested. In a copy of native/cuda it takes out, one at a time, each barrier (of
# a cluster, a block, a warpgroup or a warp), each wait for copies or products, and each shared_is_written(), and runs
# tests that use the file: one must fail. If none does, the barrier is superfluous or the tests are too weak.
#
#   native/emulator/remove_barriers.sh                       all of them (half a minute to two minutes each)
#   native/emulator/remove_barriers.sh head.cu attention_forward.cu:66   those of some files, or on some lines
#
# It prints a line for each. native/emulator/barriers.txt keeps the lines of earlier runs; its line numbers may be out of
# date. PRESET (emulator-races unless set) is the build of the emulator. The tests run under up to four schedules, up to
# the first failure. It needs what the build needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

preset=${PRESET:-emulator-races}
schedules='0 1 2 3'

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r native "$copy/native"
rm -rf "$copy/native/target"

. .mvn/tools.sh
espalier_find_jdk
classpath=$(espalier_test_classpath)

# The smallest tests that go through all of a file, as RunTests takes them.
tests_of() {
  case $1 in
    attention_blocked.cu) echo kernels.AttentionTest#forwardAndBackward ;;
    attention_*.cu) echo kernels.AttentionTest#inBfloat16 ;;
    columns.cuh) echo kernels.RmsNormTest kernels.LayerNormTest kernels.ElementwiseTest ;;
    convert.cu) echo kernels.ConvertMatrixTest ;;
    device.cuh) echo kernels.RmsNormTest kernels.LayerNormTest ;;
    distance.cu) echo kernels.DistanceTest ;;
    embedding.cu) echo kernels.EmbeddingTest kernels.ElementwiseTypesTest ;;
    head.cu) echo kernels.HeadTest kernels.ProductTypesTest ;;
    head_cluster.cu) echo kernels.LargeVocabularyTest ;;
    linear_fused.cu) echo kernels.LinearTest#fusedEqualsThePlainLoop ;;
    optimizer.cu) echo kernels.OptimizerTest ;;
    rms_norm*.cu) echo kernels.RmsNormTest ;;
    sae_encode*.cu | sae_tile.cuh) echo kernels.SaeEncodeTest ;;
    sae_largest.cuh) echo kernels.SaeEncodeTest kernels.SaeTrainingTest ;;
    sae_*.cu | sae_*.cuh | scan.cuh) echo kernels.SaeTrainTest kernels.SaeTrainingTest kernels.SaeBfloat16Test ;;
    *)
      echo "no tests are named here for $1" >&2
      return 1
      ;;
  esac
}

# The GPU that takes its kernels.
capability_of() {
  case $1 in
    attention_forward.cu | attention_backward.cu) echo 80 ;;
    *) echo 90 ;;
  esac
}

build() {
  (cd "$copy/native" && cmake --preset "$preset" && cmake --build --preset "$preset" --parallel --target espalier_emulator) \
    >"$copy/build.log" 2>&1 || {
    cat "$copy/build.log" >&2
    exit 2
  }
}

# pass SCHEDULES TEST...: whether those of `file` do under all of them; leaves the last one tried in `schedule`.
pass() {
  for schedule in $1; do
    ESPALIER_EMULATOR_SCHEDULE=$schedule ESPALIER_EMULATOR_CAPABILITY=$(capability_of "$file") \
      ESPALIER_NATIVE_PATH=$copy/native/target/$preset "$JAVA_HOME/bin/java" --enable-native-access=ALL-UNNAMED \
      -Despalier.device=emulator -cp "$classpath" espalier.RunTests "${@:2}" >"$copy/tests.log" 2>&1 || return 1
  done
}

# What the emulator complained about, or else the first test.
complaint() { { grep -m1 '^emulator: ' "$copy/tests.log" || head -n 1 "$copy/tests.log"; } | cut -c1-200; }

wanted() {
  (($# == 2)) && return 0
  local at=$1:$2 choice
  for choice in "${@:3}"; do
    [[ $at == "$choice" || $1 == "$choice" ]] && return 0
  done
  return 1
}

barriers='__sync(threads|warp)\(\);|^ *((group_|cluster_)?barrier|cluster_meeting|(cp_async|products)_wait<[^>]*>|shared_is_written)\([a-z0-9]*\);'
# A vote of a block is a barrier, too: without it each thread has but its own.
vote='__syncthreads_or'

unnoticed=0 removed=0
declare -A whole # files whose tests pass as they are
while IFS=: read -r path line text; do
  file=${path##*/}
  wanted "$file" "$line" "$@" || continue
  read -ra tests <<<"$(tests_of "$file")"
  if [[ -z ${whole[$file]-} ]]; then
    build
    pass 0 "${tests[@]}" || {
      cat "$copy/tests.log" >&2
      echo "${tests[*]} fail with all barriers in place" >&2
      exit 2
    }
    whole[$file]=1
  fi
  cp "$path" "$copy/$file"
  sed -i -E "${line}s/$barriers/{}/; ${line}s/$vote/int/" "$path"
  build
  removed=$((removed + 1))
  at="$file:$line: $(sed -E 's/^ +//; s/ *\/\*.*//' <<<"$text")"
  if pass "$schedules" "${tests[@]}"; then
    echo "$at UNNOTICED by ${tests[*]}"
    unnoticed=$((unnoticed + 1))
  else
    echo "$at noticed under schedule $schedule: $(complaint)"
  fi
  cp "$copy/$file" "$path"
done < <(grep -nE "$barriers|$vote\\(" "$copy"/native/cuda/*.cu "$copy"/native/cuda/*.cuh)
echo "$removed barriers taken out, $unnoticed not noticed"
((removed > 0 && unnoticed == 0))
