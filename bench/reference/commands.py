"""Espalier's commands, for comparisons that run hundreds of them.

Each is a process of its own, by the launcher, or, with the command line of espalier.cli.RunCommands in ESPALIER_COMMANDS,
all run in one process: starting takes longer than what they do.
"""
import json
import os
import shlex
import subprocess
from functools import cache
from typing import NamedTuple


class Done(NamedTuple):
    """As RunCommands writes it."""
    code: int
    out: str
    err: str


@cache
def _process(command: str) -> subprocess.Popen:
    return subprocess.Popen(shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def run(launcher: str, *args) -> Done:
    words = [str(arg) for arg in args]
    command = os.environ.get("ESPALIER_COMMANDS")
    if not command:
        done = subprocess.run([launcher, *words], capture_output=True, text=True)
        return Done(done.returncode, done.stdout, done.stderr)
    process = _process(command)
    process.stdin.write(json.dumps(words).encode() + b"\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise SystemExit(f"FAILED: {command} ended with exit code {process.wait()} in: {' '.join(words)}")
    return Done(**json.loads(answer))
