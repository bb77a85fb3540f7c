#!/usr/bin/env python3
"""Makes of what bench/gpu-check has found so far one JSON file, and an archive of the logs: gpu_report.py STATE OUT [--print]

STATE has stages/NAME.json (name, outcome, seconds, tests), figures/NAME.jsonl (an object a line), logs/NAME.log, and `of`: the
revision and the device. With --print also a table; the exit code is then 1 if a stage failed.
"""
import json
import subprocess
import sys
import tarfile
import time
from pathlib import Path

KEYS = ("width", "step_ms", "tokens_per_second", "peak_bytes", "share_of_gemm_rate", "ms", "ratio", "share_of_copy_rate",
        "tflops", "gb_per_second", "nodes", "kernels_ms", "outside_kernels", "between_steps_ms", "error")


def said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def figures(line: str) -> list:
    try:
        figure = json.loads(line)
    except json.JSONDecodeError:  # cut off at the time limit
        return []
    return [figure] if "measured" in figure else []


def gather(state: Path) -> dict:
    revision, device = (state / "of").read_text().split()
    gpu, _, driver = said("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "-i", "0").partition(", ")
    files = sorted((state / "stages").glob("*.json"), key=lambda file: file.stat().st_mtime)
    stages = [json.loads(file.read_text()) for file in files]
    lines = [line for file in files for line in (state / "figures" / (file.name + "l")).read_text().splitlines()]
    return dict(gpu=gpu if device == "cuda" else "none: run on the emulator, whose times say nothing of a GPU", driver=driver,
                cuda=said("nvcc", "--version").splitlines()[-1:], revision=revision, time=time.strftime("%FT%T%z"),
                stages=stages, figures=[f for line in lines for f in figures(line)])


def show(report: dict) -> None:
    for stage in report["stages"]:
        tests = ", ".join(f"{count} {what}" for what, count in stage["tests"].items() if count)
        print(f"{'ok    ' if stage['ok'] else 'FAILED'} {stage['seconds']:4d} s  {stage['stage']}  {tests}")
    for f in report["figures"]:
        what = f.get("kernel") or f"{f['side']} {f.get('variant', '')} {f['shape']} batch {f['batch']} layers {f['layers']}"
        print(f"{what}: " + ", ".join(f"{k} {f[k]:.4g}" if isinstance(f[k], float) else f"{k} {f[k]}" for k in KEYS if k in f))


def main() -> int:
    state, out = Path(sys.argv[1]), Path(sys.argv[2])
    report = gather(state)
    name = "emulator" if report["gpu"].startswith("none") else "".join(c if c.isalnum() else "-" for c in report["gpu"].lower())
    (out / f"{name or 'unknown'}.json").write_text(json.dumps(report, indent=1) + "\n")
    with tarfile.open(out / "logs.tar.gz", "w:gz") as archive:
        archive.add(state / "logs", "logs")
    if "--print" not in sys.argv:
        return 0
    show(report)
    return 0 if all(stage["ok"] for stage in report["stages"]) else 1


if __name__ == "__main__":
    sys.exit(main())
