#!/usr/bin/env bash
# Runs the JMH benchmarks: bench/jmh.sh [REGEX] [JMH OPTIONS], for example bench/jmh.sh Gemm -f 3; -h for help.
set -euo pipefail
root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/..
. "$root/.mvn/tools.sh"
espalier_find_jdk
"$root/mvnw" -q -f "$root/pom.xml" -pl bench -am -Dmaven.test.skip=true package
exec "$JAVA_HOME/bin/java" -jar "$root/bench/target/espalier-bench.jar" "$@"
