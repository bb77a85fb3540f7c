#!/usr/bin/env python3
"""Builds fresh random models, SAEs and adapters, runs Espalier on them and holds it against PyTorch.

    compare_live.py [--launcher ./espalier] [--device cpu|cuda|auto] [--seed N] [--only TEXT]... [--keep DIR]

PyTorch computes in float64; its own float32 is measured beside Espalier's (f32) and printed as a yardstick. A case in
which some latent's decision hangs on rounding has no right answer: it is drawn again. Ends with 'N passed, N failed'.
"""
import argparse
import json
import math
import secrets
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Callable

import numpy as np
import torch
import transformers
from peft import PeftModel
from safetensors import safe_open

import commands
import compare_metrics
import metrics
from exact import load_exact
from live_cases import Case, build, cases
from sae import Sae
from spliced import Spliced, ce_sum, evaluate, kl_sum, load_model

# Relative errors allowed: a thousand roundings of float32, all in the same direction. (PyTorch's own float32 errs by
# some 1e-7 in CE and KL and 1e-6 in gradients: it sums as many terms, but its roundings go either way.)
KL = GRAD_NORM = 1000 * 2.0**-24
# Of the whole change of the matrices, in norm. Adam divides a gradient by its own size, so entries near 0 amplify rounding.
WEIGHTS = 10 * KL
# A decision nearer than this, in standard deviations of the pre-activations, may fall either way in float32.
MARGIN = 1e-5


# Adam's first step is lr g / (|g| + 1e-8): where a gradient is this small, rounding errors of float32 decide on it.
LEAST_GRADIENT = 1e-7
DRAWS = 20


class Undecidable(Exception):
    """A latent is so near its threshold that float32 may take it for active or not, or a gradient so near 0 that it may
    have either sign."""


@contextmanager
def decided(net: Spliced):
    """Raises Undecidable if a decision of a latent in what `net` computes within hangs on rounding."""
    net.margin = math.inf
    yield
    if net.margin < MARGIN:
        raise Undecidable


def drawn(compare: Callable[[int], list[bool]]) -> list[bool]:
    """compare(attempt) of the first attempt in which no decision hangs on rounding errors."""
    for attempt in range(DRAWS):
        try:
            return compare(attempt)
        except Undecidable:
            print("  drawn again: a latent's decision, or Adam's, hangs on rounding")
    raise SystemExit(f"{DRAWS} draws, and in each a decision hangs on rounding")


class Group:
    """Figures compared under one heading: error of Espalier and of PyTorch's float32 against float64."""

    def __init__(self, heading: str):
        self.heading, self.faults, self.worst = heading, [], (0.0, "-", 0.0, 0.0)

    def close(self, what: str, got, want: float, single: float, allowed: float, scale: float | None = None) -> None:
        if not isinstance(got, (int, float)) or not math.isfinite(got):
            self.faults.append(f"{what}: {got!r} for {want:.6g}")
            return
        scale = abs(want) if scale is None else scale
        error, yardstick = abs(got - want) / scale, abs(single - want) / scale
        self.worst = max(self.worst, (error / allowed, what, error, yardstick))
        if error > allowed:
            self.faults.append(f"{what}: {got:.7g} for {want:.7g}, error {error:.1e} (float32 {yardstick:.1e}), "
                               f"allowed {allowed:.0e}")

    def holds(self, what: str, ok: bool) -> None:
        if not ok:
            self.faults.append(what)

    def report(self) -> bool:
        _, what, error, yardstick = self.worst
        print(f"  {'FAILED' if self.faults else 'ok':7}{self.heading}: worst error {error:.1e} "
              f"(PyTorch float32 {yardstick:.1e}) at {what}")
        for fault in self.faults[:20]:
            print(f"         {fault}")
        sys.stdout.flush()
        return not self.faults


def espalier(group: Group, launcher: str, *args) -> str | None:
    done = commands.run(launcher, *args)
    if done.code:
        group.faults.append(f"exit {done.code}: {' '.join(map(str, args))}\n{done.err.strip()}")
        return None
    return done.out


def spliced(case: Case, folder: Path, adapter: Path | None, exact: bool, trainable: bool = False) -> Spliced:
    model = (load_exact if exact else load_model)(folder / "model")
    saes = {layer: Sae.load(folder / f"sae-{layer}").to(model.dtype) for layer in case.saes}
    return Spliced(model, saes, adapter, trainable)


def compare_evaluate(case: Case, folder: Path, launcher: str, adapter: Path | None, heading: str,
                     device: str = "cpu") -> bool:
    group = Group(heading)
    args = ["evaluate", "--json", "--metrics", "all", "--device", device, "--model", folder / "model", "--data", folder / "tokens.npy"]
    for layer in case.saes:
        args += ["--sae", f"{layer}={folder}/sae-{layer}"]
    out = espalier(group, launcher, *args, *(["--adapter", adapter] if adapter else []))
    if out is None:
        return group.report()
    try:
        got = json.loads(out)
    except ValueError:
        group.faults.append(f"stdout is not one JSON object: {out[:200]!r}")
        return group.report()
    rows = np.load(folder / "tokens.npy")
    want, margin = measure(case, folder, adapter, rows, load_exact)
    if margin < MARGIN:
        raise Undecidable
    single, _ = measure(case, folder, adapter, rows, load_model)
    compare_metrics.compare(group, got, want, single)
    return group.report()


def measure(case: Case, folder: Path, adapter: Path | None, rows: np.ndarray, load) -> tuple[dict, float]:
    model = load(folder / "model")
    saes = {layer: Sae.load(folder / f"sae-{layer}").to(model.dtype) for layer in case.saes}
    net = metrics.Measured(model, saes, adapter)
    return metrics.evaluate(net, rows), net.margin


def train(net: Spliced, rows: np.ndarray, case: Case, lrs: list[float], weights: list[torch.Tensor] | None = None,
          objective: str = "kl") -> tuple[list[float], list[float]]:
    """Loss per token and gradient norm of each step of `espalier adapt --order sequential`; lrs as Espalier logged them;
    weights: what is trained, else the net's adapter.

    Raises Undecidable where the first gradient has elements that are not 0 but hardly more than rounding errors."""
    option = {"--batch": 1, "--accumulate": 1, "--weight-decay": 0.01, "--clip": 1.0} | case.options
    weights = list(net.adapter_weights().values()) if weights is None else weights
    optimizer = torch.optim.AdamW(weights, weight_decay=option["--weight-decay"])
    ids, at, losses, norms = torch.from_numpy(rows.astype(np.int64)), 0, [], []
    predictions = ids.shape[1] - (objective == "ce")
    for lr in lrs:
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        total = 0.0
        for _ in range(option["--accumulate"]):
            batch = ids[[(at + i) % len(ids) for i in range(option["--batch"])]]
            at += option["--batch"]
            with torch.no_grad():
                base = net.logits(batch, spliced=False, adapted=False)
            new = net.logits(batch, spliced=True, adapted=True)
            loss = kl_sum(base, new) if objective == "kl" else ce_sum(new, batch)
            (loss / (option["--batch"] * option["--accumulate"])).backward()
            total += loss.item()
        norms.append(torch.nn.utils.clip_grad_norm_(weights, option["--clip"]).item())
        if not losses and any((w.grad[w.grad != 0].abs() < LEAST_GRADIENT).any() for w in weights):
            raise Undecidable
        optimizer.step()
        losses.append(total / (option["--batch"] * option["--accumulate"] * predictions))
    return losses, norms


def check_schedule(group: Group, lrs: list[float], options: dict) -> None:
    peak = options["--lr"]
    if options.get("--schedule", "constant") == "constant":
        group.holds(f"lr {lrs} is not constantly {peak}", all(abs(lr / peak - 1) < 1e-6 for lr in lrs))
        return
    warmup = options.get("--warmup", 0)
    falling = lrs[max(warmup - 1, 0):]
    group.holds(f"lr {lrs} does not rise for {warmup} steps, then fall, below {peak}",
                all(0 <= lr <= peak * (1 + 1e-6) for lr in lrs) and lrs[: warmup + 1] == sorted(lrs[: warmup + 1])
                and lrs[warmup:] == sorted(lrs[warmup:], reverse=True) and falling[-1] < 0.7 * peak)


def compare_adapt(case: Case, folder: Path, launcher: str, out: Path, device: str) -> bool:
    group = Group("adapt")
    initial = folder / "adapter" if case.adapter else None
    args = ["adapt", "--device", device, "--model", folder / "model", "--data", folder / "tokens.npy",
            "--order", "sequential", "--dropout", 0, "--steps", case.steps, "--out", out]
    for layer in case.saes:
        args += ["--sae", f"{layer}={folder}/sae-{layer}"]
    if initial:
        args += ["--init-adapter", initial]
    for option, value in case.options.items():
        args += [option, value]
    if espalier(group, launcher, *args) is None:
        return group.report()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "step_ms" in line]
    if len(steps) != case.steps:
        group.faults.append(f"{len(steps)} lines of steps in metrics.jsonl for {case.steps}")
        return group.report()
    lrs = [float(step["lr"]) for step in steps]
    check_schedule(group, lrs, case.options)
    rows = np.load(folder / "tokens.npy")
    names = check_loads(group, case, folder, out)
    if initial:
        exact = spliced(case, folder, initial, exact=True, trainable=True)
        before = {n: p.detach().clone() for n, p in exact.adapter_weights().items()}
        with decided(exact):
            want = train(exact, rows, case, lrs)
        single = spliced(case, folder, initial, exact=False, trainable=True)
        near = train(single, rows, case, lrs)
        for i, step in enumerate(steps):
            group.close(f"step {i} kl", step.get("kl"), want[0][i], near[0][i], KL)
            group.close(f"step {i} grad_norm", step.get("grad_norm"), want[1][i], near[1][i], GRAD_NORM)
        if names is not None:
            compare_weights(group, before, exact.adapter_weights(), single.adapter_weights(), names)
    else:  # B is zero, so the first step's KL does not depend on what A was drawn
        batch = rows[: case.options.get("--batch", 1)]
        want, near = (evaluate(spliced(case, folder, None, exact), batch)["kl_sae"] for exact in (True, False))
        group.close("step 0 kl", steps[0].get("kl"), want, near, KL)
        if names is not None:
            started = spliced(case, folder, None, exact=True), spliced(case, folder, out, exact=True)
            before, after = evaluate(started[0], rows)["kl_sae"], evaluate(started[1], rows)["kl_adapted"]
            group.holds(f"KL {after:.4f} after training is not below {before:.4f}", after < before)
    return group.report()


def check_loads(group: Group, case: Case, folder: Path, out: Path) -> dict[str, torch.Tensor] | None:
    """The matrices of the adapter that Espalier wrote, after PEFT loaded exactly those and with the right scale."""
    net = PeftModel.from_pretrained(load_model(folder / "model"), out)
    loaded = {n.replace(".default.", "."): p for n, p in net.named_parameters() if "lora_" in n}
    with safe_open(out / "adapter_model.safetensors", "pt") as file:
        written = {name: file.get_tensor(name) for name in file.keys()}
    group.holds(f"PEFT expects matrices other than those written: {sorted(set(loaded) ^ set(written))[:4]}",
                set(loaded) == set(written))
    if set(loaded) != set(written):
        return None
    group.holds("PEFT loaded other values than were written",
                all(torch.equal(loaded[n].float(), written[n].float()) for n in written))
    options = case.options
    rank, alpha = (case.adapter.rank, case.adapter.alpha) if case.adapter else (options["--rank"], options["--alpha"])
    config = net.peft_config["default"]
    group.holds(f"r {config.r}, alpha {config.lora_alpha} for {rank}, {alpha}",
                (config.r, config.lora_alpha) == (rank, alpha) and all(
                    written[n].shape[0] == rank for n in written if "lora_A" in n))
    return written


def compare_weights(group: Group, before: dict, want: dict, single: dict, got: dict) -> None:
    if set(got) != set(want):
        group.faults.append(f"other parameters than PyTorch's: {sorted(set(got) ^ set(want))[:4]}")
        return

    def kind_of(name: str) -> str:  # such as lora_A, of all layers
        return name.removesuffix(".weight").rpartition(".")[2]

    for kind in sorted(set(map(kind_of, want))):
        names = [n for n in want if kind_of(n) == kind]

        def distance(a: dict, b: dict) -> float:
            return math.sqrt(sum((a[n].double() - b[n].double()).pow(2).sum().item() for n in names))

        change = distance(want, before)
        group.close(f"{kind} after the last step", distance(got, want), 0.0, distance(single, want), WEIGHTS, change)
        worst = max(names, key=lambda n: (got[n].double() - want[n].double()).norm())
        if group.faults and kind in group.faults[-1]:
            group.faults.append(f"  most of it in {worst}")


def compare(case: Case, folder: Path, launcher: str, device: str) -> list[bool]:
    passed = [compare_evaluate(case, folder, launcher, folder / "adapter" if case.adapter else None, "evaluate", device)]
    out = folder / "out"
    passed.append(compare_adapt(case, folder, launcher, out, device))
    if (out / "adapter_model.safetensors").exists():
        passed.append(compare_evaluate(case, folder, launcher, out, "evaluate with the adapter that Espalier trained", device))
    return passed


def parser(doc: str) -> argparse.ArgumentParser:
    """With the options that all live comparisons have."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--launcher", default=str(Path(__file__).parents[2] / "espalier"))
    p.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    p.add_argument("--keep", type=Path, help="an empty folder for the cases' files")
    return p


def begin_torch(seed: int) -> None:
    """Sets PyTorch up, and says what is compared."""
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # the models are small
    print(f"Espalier against PyTorch {torch.__version__}, transformers {transformers.__version__}; --seed {seed}")


def begin(doc: str) -> argparse.Namespace:
    """The options of a comparison that draws cases with names."""
    p = parser(doc)
    p.add_argument("--only", default="", help="cases whose name contains this")
    a = p.parse_args()
    begin_torch(a.seed)
    transformers.utils.logging.set_verbosity_error()
    return a


def end(passed: list[bool]) -> int:
    """Says how many passed; the exit code."""
    print(f"{sum(passed)} passed, {len(passed) - sum(passed)} failed")
    return 0 if passed and all(passed) else 1


def main() -> int:
    p = parser(__doc__)
    p.add_argument("--device", default="cpu", help="Espalier's; PyTorch computes on the CPU")
    p.add_argument("--only", action="append", help="cases whose name contains this, or one of these")
    a = p.parse_args()
    begin_torch(a.seed)
    passed: list[bool] = []
    with tempfile.TemporaryDirectory() as temporary:
        for i, case in enumerate(cases(Random(a.seed))):
            if a.only and not any(text in case.name for text in a.only):
                continue

            def draw(attempt: int) -> list[bool]:
                folder = (a.keep or Path(temporary)) / f"case-{i}-{attempt}"
                folder.mkdir(parents=True)
                build(case, folder, a.seed + 1000 * i + attempt)
                print(case.name)
                return compare(case, folder, a.launcher, a.device)

            passed += drawn(draw)
    return end(passed)


if __name__ == "__main__":
    sys.exit(main())
