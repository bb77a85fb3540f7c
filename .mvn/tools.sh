# Sourced by mvnw and by the launcher: finds the JDK, says what is missing, starts it. POSIX sh.

# The major version of the JDK in folder $1; fails if there is none.
espalier_jdk_major() {
  [ -x "$1/bin/javac" ] && [ -r "$1/release" ] || return 1
  sed -n 's/^JAVA_VERSION="\([0-9]*\).*/\1/p' "$1/release"
}

# Exports JAVA_HOME: the first JDK 22 or newer in JAVA_HOME, on the PATH, in the usual folders.
espalier_find_jdk() {
  espalier_on_path=$(readlink -f "$(command -v javac || command -v java || true)" 2>/dev/null || true)
  for espalier_jdk in "${JAVA_HOME:-}" "${espalier_on_path%/bin/java*}" /usr/lib/jvm/* /opt/* /usr/local/* \
    "${HOME:-}"/.sdkman/candidates/java/* "${HOME:-}"/.jdks/*; do
    espalier_major=$(espalier_jdk_major "$espalier_jdk") || continue
    if [ "${espalier_major:-0}" -ge 22 ]; then
      export JAVA_HOME="$espalier_jdk"
      return 0
    fi
  done
  echo "missing: a JDK 22 or newer (Debian package openjdk-25-jdk, or temurin-25-jdk of Adoptium)" >&2
  return 1
}

# What the native build calls.
espalier_require_compiler() {
  for espalier_tool in g++ cmake make; do
    command -v "$espalier_tool" >/dev/null 2>&1 || {
      echo "missing: $espalier_tool (Debian package $espalier_tool)" >&2
      return 1
    }
  done
}

# Becomes a command: espalier_become COMMAND... But MPICH's launcher kills all processes of a job as soon as one of its children
# was killed, before a rank can say which; so there this shell stays its child, and leaves the others time to say it.
espalier_become() {
  [ -n "${PMI_SIZE:-}" ] && [ -n "${MPI_LOCALNRANKS:-}" ] || exec "$@"
  trap : INT TERM # are for the command, which gets them, too, and ends as it likes
  espalier_code=0
  "$@" || espalier_code=$?
  case $espalier_code in
    132 | 134 | 135 | 137 | 139) sleep 5 ;; # SIGILL, SIGABRT, SIGBUS, SIGKILL, SIGSEGV; the job's end ends this wait
  esac
  exit "$espalier_code"
}

# Compiles all, and prints the class path that the engine's tests have: for running them without Maven, from folder engine.
espalier_test_classpath() {
  espalier_list=$(mktemp) || return 1
  ./mvnw -B -q --no-transfer-progress -pl engine -am test-compile dependency:build-classpath \
    -Dmdep.outputFile="$espalier_list" -Dmdep.includeScope=test >&2 || return 1
  echo "$PWD/engine/target/test-classes:$PWD/engine/target/classes:$(cat "$espalier_list")"
  rm -f "$espalier_list"
}
