#!/usr/bin/env bash
# Prints the path of a python that has requirements.txt installed; makes its environment on first use and keeps it.
# Exit 1, with the reason on stderr, where that cannot be done.
# ESPALIER_VENV: the environment's folder (default: ~/.cache/espalier/pytorch).
set -euo pipefail

requirements=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/requirements.txt
venv=${ESPALIER_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/espalier/pytorch}

fail() {
  echo "$1" >&2
  exit 1
}

mkdir -p "$venv"
exec {lock}>"$venv/lock"
flock "$lock"
# The copy tells a finished environment from a half-made or older one.
if ! cmp -s "$requirements" "$venv/installed"; then
  command -v python3 >/dev/null || fail "No python3 (Debian: apt install python3-venv)."
  python3 -m venv "$venv" >"$venv/install.log" 2>&1 ||
    fail "python3 cannot make an environment with pip (Debian: apt install python3-venv); see $venv/install.log."
  echo "Installing PyTorch, transformers and PEFT in $venv ..." >&2
  "$venv/bin/pip" install --disable-pip-version-check --retries 1 -r "$requirements" >>"$venv/install.log" 2>&1 ||
    fail "pip cannot install $(paste -sd ' ' "$requirements"); see $venv/install.log."
  cp "$requirements" "$venv/installed"
fi
echo "$venv/bin/python"
