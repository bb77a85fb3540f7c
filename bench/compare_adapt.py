#!/usr/bin/env python3
"""Measures a step of `espalier adapt` against PyTorch, alternating: the paper's code path, and the best tuned one
(reference/adapt_step.py says what each is).

    compare_adapt.py [--shape llama-256|gemma-512] [--sae topk|jumprelu] [--alternations 5 --steps 12]
    compare_adapt.py --shape smollm2 --model HF_DIR [--sae-layer L --sae-path DIR --tokens F.npy --init-adapter DIR]

All run on the same model, SAE, tokens, initial adapter and number of threads (reference/adapt_step.py makes the
files), each measurement a process of its own, whose peak resident memory is the kernel's figure. Which of them goes
first changes from one alternation to the next. Tokens/s: of the median step after the first two. Each measurement is a
line of results/adapt-TIME.jsonl. OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE are removed from the environment of all.

The limit: a step's needed floating-point operations (counted by `adapt --profile`, call by call; a test holds them
against StepFlops) at the rate that OpenBLAS reaches alone, in one call, on each product's own shape (reference/gemm_rates.py:
the OpenBLAS of numpy, with its own threads), attention's at that of a large product; both measured in the same
alternation. Beside it, the same operations all at the rate of a large product.

--bf16: Espalier in bfloat16 as well (a CPU with AMX or AVX512-BF16), in turn with the others.
"""
import argparse
import collections
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
STEP = HERE / "reference/adapt_step.py"
GEMM_RATES = HERE / "reference/gemm_rates.py"
REMOVED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
WARM = 2  # steps that are not counted: caches fill, the JIT compiles
BF16 = "bf16"  # Espalier's other type, as a side
PROFILED = 8  # steps after which `adapt --profile` has its time line
# The kernels that do what the algorithm needs (StepFlops counts the same).
COUNTED = {"esp_linear", "esp_gemm", "esp_attention_forward", "esp_attention_backward", "esp_head_kl", "esp_sae_encode"}


def busy_seconds() -> float:
    """CPU time of everything on the machine so far, and what other guests took from it (Linux: /proc/stat)."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, open("/proc/stat").readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def measure(command: list, env: dict, accepted: tuple[int, ...] = (0,)) -> tuple[str, dict]:
    """stdout of a process, its peak resident bytes, and how many cores others kept busy meanwhile."""
    start, busy = time.perf_counter(), busy_seconds()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([str(c) for c in command], stdout=out, stderr=err, env=env)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode not in accepted:
            sys.exit(f"{err.read()}exit {process.returncode}: {' '.join(map(str, command))}")
        others = busy_seconds() - busy - usage.ru_utime - usage.ru_stime
        return out.read(), dict(peak_rss_bytes=usage.ru_maxrss * 1024,
                                cores_of_others=max(0.0, others / (time.perf_counter() - start)))


def run_pytorch(a: argparse.Namespace, folder: Path, env: dict, variant: str) -> dict:
    out, measured = measure([a.python, STEP, "run", folder, "--steps", a.steps, "--threads", a.threads,
                             "--variant", variant], env)
    got = json.loads(out)
    kept = ("step_ms", "kl", "attention", "compiled", "compile_error", "versions")
    return {key: got[key] for key in kept} | measured


def limits(a: argparse.Namespace, trace: Path, env: dict) -> dict:
    """A step's least milliseconds, from the time line of `adapt --profile`: see above."""
    profile = json.loads(trace.read_text())
    events = profile["traceEvents"]
    steps = sum(e["cat"] == "step" for e in events)
    counted = [e["args"] for e in events if e["name"] in COUNTED]
    products = collections.Counter(p for args in counted for p in args.get("products", ()))
    fused = sum(args["flops"] for args in counted if "products" not in args)
    one_rate = profile["otherData"]["gemm_flops_per_second"]
    out, _ = measure([a.python, GEMM_RATES, "--threads", a.threads, *products], env)
    alone = json.loads(out)
    by_shape = sum(count * alone["seconds"][p] for p, count in products.items()) + fused / one_rate
    return dict(limit_ms=by_shape / steps * 1e3,
                large_product_ms=sum(args["flops"] for args in counted) / steps / one_rate * 1e3,
                limit_blas=alone["blas"])


def run_espalier(a: argparse.Namespace, folder: Path, env: dict, dtype: str = "f32") -> dict:
    """The limit, of float32 alone, is measured in a second process: a profile costs memory."""
    def adapt(out: str, steps: int, *more) -> dict:
        return measure(
            [a.launcher, "adapt", "--device", "cpu", "--dtype", dtype, "--model", folder / job["model"],
             "--sae", f"{job['layer']}={folder / job['sae']}", "--data", folder / job["tokens"],
             "--init-adapter", folder / job["adapter"], "--order", "sequential", "--steps", steps,
             "--batch", job["batch"], "--context", job["context"], "--lr", job["lr"],
             "--schedule", "constant", "--weight-decay", job["weight_decay"], "--clip", job["clip"],
             "--dropout", 0, "--out", out, *more], env)[1]

    job = json.loads((folder / "job.json").read_text())
    with tempfile.TemporaryDirectory() as temporary:
        measured = adapt(temporary + "/out", a.steps)
        lines = [json.loads(line) for line in open(temporary + "/out/metrics.jsonl")]
        settings = json.load(open(temporary + "/out/run.json"))
        least = {}
        if dtype == "f32":
            trace = Path(temporary) / "trace.json"
            adapt(temporary + "/profiled", PROFILED, "--profile", trace)
            least = limits(a, trace, env)
    steps = [line for line in lines if "step_ms" in line]
    return dict(step_ms=[s["step_ms"] for s in steps], kl=[s["kl"] for s in steps], **least, **measured,
                versions=settings.get("versions"))


def environment(a: argparse.Namespace, env: dict) -> dict:
    def output(*command) -> str:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=env, cwd=HERE)
        return done.stdout.strip()

    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
               platform.processor())
    output(a.launcher, "--version")  # builds what is missing, before anything is measured
    return dict(git=output("git", "describe", "--always", "--dirty", "--abbrev=12"), cpu=cpu, cores=os.cpu_count(),
                threads=a.threads, kernel=platform.release())


def print_table(rounds: list[dict[str, dict]], tokens: int) -> float:
    """Prints tokens/s and peak memory of each alternation; returns the median ratio to the paper's path."""
    def median(side: str, key: str) -> float:
        return statistics.median(r[side][key] for r in rounds)

    def reached(key: str) -> float:
        return statistics.median(r["espalier"][key] * r["espalier"]["tokens_per_second"] / tokens / 1e3 for r in rounds)

    for i, r in enumerate(rounds):
        print(f"{i + 1:>3}  " + ", ".join(f"{side} {got['tokens_per_second']:.0f}" for side, got in r.items()) + " tokens/s")
    limit = statistics.median(tokens / r["espalier"]["limit_ms"] * 1e3 for r in rounds)
    print(f"\n{'':9} {'tokens/s':>9} {'peak GB':>8}   {'ratio of Espalier to it':28} {'share of its memory'}")
    for side in rounds[0]:
        line = f"{side:9} {median(side, 'tokens_per_second'):9.0f} {median(side, 'peak_rss_bytes') / 1e9:8.2f}   "
        if side == BF16:
            ratios = [r[side]["tokens_per_second"] / r["espalier"]["tokens_per_second"] for r in rounds]
            line += f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times Espalier in float32"
        elif side != "espalier":
            ratios = [r["espalier"]["tokens_per_second"] / r[side]["tokens_per_second"] for r in rounds]
            share = statistics.median(r["espalier"]["peak_rss_bytes"] / r[side]["peak_rss_bytes"] for r in rounds)
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            at_limit = statistics.median(tokens / r["espalier"]["limit_ms"] * 1e3 / r[side]["tokens_per_second"] for r in rounds)
            line += f"{spread:28} {share:.2f}, at the limit the ratio were {at_limit:.2f}"
        print(line)
    print(f"{'limit':9} {limit:9.0f}            Espalier reaches {reached('limit_ms'):.0%} of it, "
          f"{reached('large_product_ms'):.0%} with all at the rate of a large product; {tokens} tokens a step")
    return statistics.median(r["espalier"]["tokens_per_second"] / r["paper"]["tokens_per_second"] for r in rounds)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shape", choices=["llama-256", "gemma-512", "smollm2"], default="llama-256")
    p.add_argument("--sae", choices=["topk", "jumprelu"], default="topk", help="kind of a random SAE")
    p.add_argument("--alternations", type=int, default=5)
    p.add_argument("--steps", type=int, default=12)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--bf16", action="store_true", help="Espalier with --dtype bf16, too: a CPU with AMX or AVX512-BF16")
    p.add_argument("--require", type=float, help="exit 1 where the median ratio to the paper's path is below this")
    p.add_argument("--launcher", default=HERE.parent / "espalier")
    p.add_argument("--python", help="one that has reference/requirements.txt (default: that of reference/venv.sh)")
    p.add_argument("--out", type=Path, default=HERE / "results" / time.strftime("adapt-%Y%m%d-%H%M%S.jsonl"))
    for option in ("--model", "--sae-layer", "--sae-path", "--tokens", "--init-adapter"):
        p.add_argument(option, help="for smollm2")
    a = p.parse_args()
    if a.steps <= WARM:
        p.error(f"--steps must be more than {WARM}: the first {WARM} are not counted")
    if not a.python:
        a.python = subprocess.run([HERE / "reference/venv.sh"], check=True, stdout=subprocess.PIPE,
                                  text=True).stdout.strip()
    env = {k: v for k, v in os.environ.items() if k not in REMOVED}
    env |= dict(OMP_NUM_THREADS=str(a.threads), HF_HUB_OFFLINE="1")
    around = environment(a, env)
    print(f"{a.shape}, {a.threads} threads, {around['cpu']}, {around['git']}")
    print(f"removed from the environment of all: {', '.join(REMOVED)}")
    sides = dict(paper=lambda *job: run_pytorch(*job, "paper"), tuned=lambda *job: run_pytorch(*job, "tuned"),
                 espalier=run_espalier)
    if a.bf16:
        sides[BF16] = lambda *job: run_espalier(*job, "bf16")
    rounds: list[dict[str, dict]] = []
    a.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, a.out.open("a") as results:
        folder = Path(temporary) / "job"
        make = [a.python, STEP, "make", folder, "--shape", a.shape, "--sae", a.sae]
        for option in ("model", "sae_layer", "sae_path", "tokens", "init_adapter"):
            if getattr(a, option):
                make += [f"--{option.replace('_', '-')}", getattr(a, option)]
        subprocess.run([str(m) for m in make], check=True, env=env, stdout=sys.stderr)
        job = json.loads((folder / "job.json").read_text())
        tokens = job["batch"] * job["context"]
        for i in range(a.alternations):
            measured = {}
            for turn in range(len(sides)):
                side = list(sides)[(turn + i) % len(sides)]
                got = sides[side](a, folder, env)
                median = statistics.median(got["step_ms"][WARM:])
                measured[side] = got | dict(tokens_per_second=tokens / median * 1e3)
                line = dict(side=side, shape=a.shape, sae=Path(job["sae"]).name if a.sae_path else a.sae, alternation=i,
                            time=time.strftime("%FT%T%z"), steps=a.steps, tokens_per_step=tokens,
                            median_step_ms=median, **measured[side], environment=around)
                results.write(json.dumps(line) + "\n")
                results.flush()
                print(f"{i + 1}/{a.alternations} {side}: {measured[side]['tokens_per_second']:.0f} tokens/s, "
                      f"{got['peak_rss_bytes'] / 1e9:.2f} GB", file=sys.stderr)
            # the same work: the KLs of the steps agree (the bound leaves room for steps of training to drift apart)
            for side in ("paper", "tuned"):
                worst = max(abs(x / y - 1) for x, y in zip(measured["espalier"]["kl"], measured[side]["kl"], strict=True))
                if worst > 1e-2:
                    sys.exit(f"the KL of a step differs by {worst:.1e} from {side}: they did not do the same work")
            rounds.append({side: measured[side] for side in sides})
    ratio = print_table(rounds, tokens)
    busiest = max(got["cores_of_others"] for measured in rounds for got in measured.values())
    if busiest > 0.2:
        print(f"WARNING: others kept up to {busiest:.1f} cores busy: measure again on a quiet machine")
    print(f"written: {a.out}")
    if a.require and ratio < a.require:
        sys.exit(f"the ratio is below {a.require}")


if __name__ == "__main__":
    main()
