#!/usr/bin/env bash
# The live comparison with PyTorch (compare_live.py) in an environment of its own (venv.sh).
# Skips, with exit 0 and a loud line, only where pip cannot install. Arguments go to compare_live.py.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if ! python=$("$here/venv.sh"); then
  bar='!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!'
  printf '\n%s\n%s\n%s\n\n' "$bar" 'SKIPPED: the live comparison with PyTorch, which could not be installed.' "$bar" >&2
  echo "0 passed, 0 failed, 1 skipped"
  exit 0
fi

export HF_HUB_OFFLINE=1 # everything is made here; nothing is to be looked up
exec "$python" "$here/compare_live.py" "$@"
