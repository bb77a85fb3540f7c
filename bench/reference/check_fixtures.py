#!/usr/bin/env python3
"""Holds `espalier inspect` against SAEs that SAELens, sparsify, dictionary_learning and others wrote, each with what its
library computes.

    check_fixtures.py FOLDER [--launcher ./espalier] [--only TEXT]

FOLDER holds a folder a case with case.json, expected.safetensors and the SAE's files; those under unsupported/ must be
refused. Active latents must be the same ones. Ends with 'N passed, N failed'.
"""
import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import commands

# Of max(1, the largest value of a row).
SINGLE = 1e-5


def expected_rows(tensors: dict, case: dict) -> tuple[np.ndarray, np.ndarray]:
    """The rows that float32 arithmetic on the widened weights gives."""
    for suffix in ("_openmoss", "_f32", ""):
        if "f" + suffix in tensors:
            return tensors["f" + suffix], tensors["y" + suffix]
    raise SystemExit(f"{case}: no expected values")


def faults_of_values(what: str, got: np.ndarray, want: np.ndarray, skip: list[int]) -> list[str]:
    if got.shape != want.shape:
        return [f"{what} has shape {got.shape}, expected {want.shape}"]
    keep = np.setdiff1d(np.arange(len(want)), skip)
    got, want = got[keep].astype(np.float64), want[keep].astype(np.float64)
    faults = []
    if what == "f" and ((got != 0) != (want != 0)).any():
        faults.append(f"{int(((got != 0) != (want != 0)).sum())} latents are active in one only")
    error = np.abs(got - want).max(1) / np.maximum(1, np.abs(want).max(1))
    if not (error <= SINGLE).all():
        faults.append(f"{what}: error {error.max():.1e} in row {int(error.argmax())}")
    return faults


def check(launcher: str, folder: Path, case: dict, scratch: Path) -> list[str]:
    sae, tensors = folder / case["path"], load_file(folder / "expected.safetensors")
    x, f, y = (scratch / name for name in ("x.npy", "f.npy", "y.npy"))
    np.save(x, tensors["x"])
    done = commands.run(launcher, "inspect", sae, "--json", "--input", x, "--latents", f, "--output", y)
    if done.code:
        return [f"exit {done.code}: {done.err.strip()}"]
    facts, faults = json.loads(done.out), []
    for key in ("d_in", "d_out", "d_sae"):
        if facts.get(key) != case[key]:
            faults.append(f"{key} is {facts.get(key)}, expected {case[key]}")
    want = expected_rows(tensors, case)
    skip = case.get("nan_rows", [])
    return faults + faults_of_values("f", np.load(f), want[0], skip) + faults_of_values("y", np.load(y), want[1], skip)


def check_refused(launcher: str, folder: Path, case: dict) -> list[str]:
    sae = folder / case["path"]
    done = commands.run(launcher, "inspect", sae)
    faults = []
    if done.code != 2:
        faults.append(f"exit {done.code}, expected 2")
    if done.out:
        faults.append("stdout is not empty")
    lines = done.err.strip().splitlines()
    if len(lines) != 1 or str(sae) not in lines[0]:
        faults.append(f"not one line that names the file: {done.err.strip()!r}")
    return faults


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path)
    p.add_argument("--launcher", default=str(Path(__file__).parents[2] / "espalier"))
    p.add_argument("--only", default="", help="cases whose name contains this")
    a = p.parse_args()
    failed = passed = 0
    with tempfile.TemporaryDirectory() as temporary:
        for file in sorted(a.folder.glob("**/case.json")):
            name = str(file.parent.relative_to(a.folder))
            if a.only not in name:
                continue
            case = json.loads(file.read_text())
            refuse = case.get("expect") == "refuse"
            faults = (check_refused(a.launcher, file.parent, case) if refuse
                      else check(a.launcher, file.parent, case, Path(temporary)))
            print(f"{'FAILED' if faults else 'ok':7}{name}{' (refused)' if refuse and not faults else ''}")
            for fault in faults:
                print(f"       {fault}")
            failed, passed = failed + bool(faults), passed + (not faults)
    print(f"{passed} passed, {failed} failed")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
