#!/usr/bin/env bash
# Lets Jazzer look for bytes that a parser neither reads nor refuses: each method of ParserFuzzTest for a while, two at a
# time. What it finds is left in engine/src/test/resources/espalier/fuzz, as a further seed, and fails the run.
#
#   bench/fuzz.sh SECONDS [METHOD...]
#
# ESPALIER_CLASSPATH: the class path of the tests, if they are compiled. Otherwise Maven compiles them first, and may delete
# classes that something beside is running.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=${1:?usage: bench/fuzz.sh SECONDS [METHOD...]}
shift
tests=engine/src/test/java/espalier/fuzz/ParserFuzzTest.java
(($#)) || mapfile -t methods < <(grep -A 2 '@FuzzTest' "$tests" | sed -n 's/^  void \(\w*\)(byte.*/\1/p')
(($#)) && methods=("$@")

. .mvn/tools.sh
espalier_find_jdk
classpath=${ESPALIER_CLASSPATH:-$(espalier_test_classpath)}
arguments=$(sed -n 's|.*<fuzz.arguments>\(.*\)</fuzz.arguments>.*|\1|p' pom.xml)
# In a few seconds C2 takes more than it gives.
((seconds >= 30)) || arguments+=" -XX:TieredStopAtLevel=1"
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

fuzz() {
  local method=$1 log=$logs/$1
  # shellcheck disable=SC2086 # several arguments
  if JAZZER_FUZZ=1 JAZZER_MAX_DURATION=${seconds}s "$JAVA_HOME/bin/java" $arguments -cp "$classpath" \
    espalier.RunTests "fuzz.ParserFuzzTest#$method" >"$log" 2>&1; then
    printf 'ok     %-14s %s\n' "$method" "$(grep -oE '^#[0-9]+' "$log" | tail -n 1) inputs"
  else
    printf 'FAILED %s\n' "$method"
    grep -vE '^(INFO|WARNING)|^#' "$log" | head -n 60
    return 1
  fi
}
export -f fuzz
export logs seconds classpath arguments

cd engine
printf '%s\n' "${methods[@]}" | xargs -P 2 -I {} bash -c 'fuzz {}'
