#!/usr/bin/env bash
# A live comparison with PyTorch in an environment of its own (venv.sh): compare_live.sh [PROGRAM.py] [ARGUMENT...]
# The program is compare_live.py where none is named. Skips, with exit 0 and a loud line, only where pip cannot install.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if ! python=$("$here/venv.sh"); then
  bar='!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!'
  printf '\n%s\n%s\n%s\n\n' "$bar" 'SKIPPED: the live comparison with PyTorch, which could not be installed.' "$bar" >&2
  echo "0 passed, 0 failed, 1 skipped"
  exit 0
fi

export HF_HUB_OFFLINE=1 # everything is made here; nothing is to be looked up
if [[ ${1-} != *.py ]]; then set -- compare_live.py "$@"; fi
exec "$python" "$here/$1" "${@:2}"
