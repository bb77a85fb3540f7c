#!/usr/bin/env python3
"""Holds everything that `espalier adapt` can train against PyTorch: LoRA, an adapter at each SAE's output, the SAEs
themselves, and LoRA with them, by the KL and by the CE.

    compare_baselines.py [--launcher ./espalier] [--seed N] [--only TEXT] [--keep DIR]

For each case a fresh random Llama with two SAEs. What Espalier draws at first is what a run leaves whose learning rate
is as good as 0. From there PyTorch trains in float64; the loss and the gradient norm of every step, and what has been
trained, are compared. A case in which a decision hangs on rounding is drawn again. Ends with 'N passed, N failed'.
"""
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

import compare_live
import live_cases
from compare_live import DRAWS, GRAD_NORM, KL, Group, begin, compare_weights, decided, drawn, end, espalier, spliced
from live_cases import PLAIN, Case, llama
from sae import Sae
from spliced import Spliced, blocks

# What is trained, by what, and the kind of the first SAE. LoRA by the KL is compare_live.py's.
CASES = [
    ("lora", "ce", "topk"),
    ("linear", "kl", "jumprelu"), ("linear", "ce", "standard"),
    ("mlp", "kl", "standard"), ("mlp", "ce", "topk"),
    ("sae", "kl", "topk"), ("sae", "kl", "jumprelu"), ("sae", "ce", "standard"),
    ("lora+sae", "ce", "topk"), ("lora+sae", "ce", "jumprelu"), ("lora+sae", "kl", "standard"),
]
LAYERS = [0, 2]
STEPS, LR = 4, 3e-3
OPTIONS = {"--batch": 2, "--accumulate": 2, "--weight-decay": 0.02, "--clip": 20.0}
BANDWIDTH = 1e-3  # of the thresholds' straight-through gradient
NOTHING = 1e-30  # as a learning rate: of all weights only those that are 0 change, by no more than this


def case(train: str, objective: str, kind: str) -> Case:
    return Case(f"--train {train} --objective {objective}, SAEs {kind} and topk", llama(32, 4, 2, 8, 50, 4, 151, True, PLAIN),
                dict(zip(LAYERS, [kind, "topk"])), None, OPTIONS, length=18, width=45, l0=6)


def run(group: Group, launcher: str, folder: Path, train: str, objective: str, lr: float, steps: int, out: Path) -> bool:
    args = ["adapt", "--model", folder / "model", "--data", folder / "tokens.npy", "--order", "sequential",
            "--train", train, "--objective", objective, "--dropout", 0, "--steps", steps, "--lr", lr, "--out", out]
    for option, value in OPTIONS.items():
        args += [option, value]
    for layer in LAYERS:
        args += ["--sae", f"{layer}={folder}/sae-{layer}"]
    if train != "sae":
        args += ["--rank", 3]
    if train.startswith("lora"):
        args += ["--layers", "all", "--alpha", 6]
    return espalier(group, launcher, *args) is not None


def written(train: str, out: Path) -> dict[str, Tensor]:
    """What Espalier trained, by names of this file."""
    found = {}
    if train.startswith("lora"):
        found |= load_file(out / "adapter_model.safetensors")
    elif train != "sae":
        found |= load_file(out / "output_adapter.safetensors")
    if train.endswith("sae"):
        for layer in LAYERS:
            for name, value in Sae.load(out / f"layer-{layer}").named_parameters():
                found[f"layer.{layer}.{name}"] = value.data
    return found


def apply_output_adapter(net: Spliced, layer: int, down: Tensor, up: Tensor, train: str) -> None:
    """y + up (down y), or y + up gelu(down y), after the SAE's own hook, where it is applied."""

    def hook(_module, _inputs, out):
        if not net.on:
            return out
        y = out[0] if isinstance(out, tuple) else out
        hidden = y @ down.T
        if train == "mlp":
            hidden = F.gelu(hidden)
        y = torch.where(net.apply[..., None], y + hidden @ up.T, y)
        return (y, *out[1:]) if isinstance(out, tuple) else y

    blocks(net.model)[layer].register_forward_hook(hook)


class Reference:
    """PyTorch's training from where Espalier began; exact: in float64."""

    def __init__(self, case: Case, folder: Path, train: str, initial: Path, exact: bool):
        self.net = spliced(case, folder, initial if train.startswith("lora") else None, exact, trainable=True)
        self.parameters = dict(self.net.adapter_weights())
        if train in ("linear", "mlp"):
            for name, value in written(train, initial).items():
                self.parameters[name] = value.to(self.net.model.dtype).requires_grad_(True)
            for layer in LAYERS:
                apply_output_adapter(self.net, layer, *(self.parameters[f"layer.{layer}.{half}"] for half in ("down", "up")),
                                     train)
        if train.endswith("sae"):
            for layer, sae in self.net.saes.items():
                sae.bandwidth = BANDWIDTH
                for name, parameter in sae.requires_grad_(True).named_parameters():
                    self.parameters[f"layer.{layer}.{name}"] = parameter
        for parameter in self.parameters.values():
            parameter.data[parameter.abs() <= 2 * NOTHING] = 0  # what was 0 at first

    def values(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def train(self, case: Case, objective: str, rows: np.ndarray) -> tuple[list[float], list[float]]:
        return compare_live.train(self.net, rows, case, [LR] * STEPS, list(self.parameters.values()), objective)


def compare(case: Case, folder: Path, train: str, objective: str, launcher: str) -> bool:
    group = Group("adapt")
    initial, out = folder / "initial", folder / "out"
    if not (run(group, launcher, folder, train, objective, NOTHING, 1, initial)
            and run(group, launcher, folder, train, objective, LR, STEPS, out)):
        return group.report()
    rows = np.load(folder / "tokens.npy")
    exact, single = (Reference(case, folder, train, initial, exact) for exact in (True, False))
    before = exact.values()
    with decided(exact.net):
        want = exact.train(case, objective, rows)
    near = single.train(case, objective, rows)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "step_ms" in line]
    group.holds(f"{len(steps)} lines of steps in metrics.jsonl for {STEPS}", len(steps) == STEPS)
    for i, step in enumerate(steps[:STEPS]):
        group.close(f"step {i} {objective}", step.get(objective), want[0][i], near[0][i], KL)
        group.close(f"step {i} grad_norm", step.get("grad_norm"), want[1][i], near[1][i], GRAD_NORM)
    compare_weights(group, before, exact.values(), single.values(), written(train, out))
    return group.report()


def main() -> int:
    a = begin(__doc__)
    passed: list[bool] = []
    with tempfile.TemporaryDirectory() as temporary:
        for i, (train, objective, kind) in enumerate(CASES):
            model = case(train, objective, kind)
            if a.only not in model.name:
                continue

            def draw(attempt: int) -> list[bool]:
                folder = (a.keep or Path(temporary)) / f"case-{i}-{attempt}"
                folder.mkdir(parents=True)
                live_cases.build(model, folder, a.seed + DRAWS * i + attempt)
                print(model.name)
                return [compare(model, folder, train, objective, a.launcher)]

            passed += drawn(draw)
    return end(passed)


if __name__ == "__main__":
    sys.exit(main())
