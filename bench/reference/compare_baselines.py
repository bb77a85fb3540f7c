#!/usr/bin/env python3
"""Holds everything that `espalier adapt` can train against PyTorch: LoRA, an adapter at each SAE's output, the SAEs
themselves, and LoRA with them, by the KL and by the CE.

    compare_baselines.py [--launcher ./espalier] [--seed N] [--only TEXT] [--keep DIR]

For each case a fresh random Llama with two SAEs. What Espalier draws at first is what a run leaves whose learning rate
is as good as 0. From there PyTorch trains in float64; the loss and the gradient norm of every step, and what has been
trained, are compared. A case in which a decision hangs on rounding is drawn again. Ends with 'N passed, N failed'.
"""
import argparse
import json
import math
import secrets
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from torch import Tensor

import live_cases
from compare_live import (DRAWS, GRAD_NORM, KL, LEAST_GRADIENT, WEIGHTS, Group, Undecidable, decided, drawn, espalier,
                          spliced)
from live_cases import PLAIN, Case, llama
from sae import Sae
from spliced import Spliced, blocks, ce_sum, kl_sum

# What is trained, by what, and the kind of the first SAE. LoRA by the KL is compare_live.py's.
CASES = [
    ("lora", "ce", "topk"),
    ("linear", "kl", "jumprelu"), ("linear", "ce", "standard"),
    ("mlp", "kl", "standard"), ("mlp", "ce", "topk"),
    ("sae", "kl", "topk"), ("sae", "kl", "jumprelu"), ("sae", "ce", "standard"),
    ("lora+sae", "ce", "topk"), ("lora+sae", "ce", "jumprelu"), ("lora+sae", "kl", "standard"),
]
LAYERS = [0, 2]
STEPS, BATCH, ACCUMULATE, WEIGHT_DECAY, CLIP, LR = 4, 2, 2, 0.02, 20.0, 3e-3
BANDWIDTH = 1e-3  # of the thresholds' straight-through gradient
NOTHING = 1e-30  # as a learning rate: of all weights only those that are 0 change, by no more than this


def case(train: str, objective: str, kind: str) -> Case:
    return Case(f"--train {train} --objective {objective}, SAEs {kind} and topk", llama(32, 4, 2, 8, 50, 4, 151, True, PLAIN),
                dict(zip(LAYERS, [kind, "topk"])), None, length=18, width=45, l0=6)


def run(group: Group, launcher: str, folder: Path, train: str, objective: str, lr: float, steps: int, out: Path) -> bool:
    args = ["adapt", "--model", folder / "model", "--data", folder / "tokens.npy", "--order", "sequential",
            "--train", train, "--objective", objective, "--dropout", 0, "--steps", steps, "--batch", BATCH,
            "--accumulate", ACCUMULATE, "--weight-decay", WEIGHT_DECAY, "--clip", CLIP, "--lr", lr, "--out", out]
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

    def train(self, objective: str, rows: np.ndarray) -> list[tuple[float, float]]:
        """Loss per token and gradient norm of each step."""
        weights = list(self.parameters.values())
        optimizer = torch.optim.AdamW(weights, lr=LR, weight_decay=WEIGHT_DECAY)
        ids, at, steps = torch.from_numpy(rows.astype(np.int64)), 0, []
        predictions = ids.shape[1] - (objective == "ce")
        for _ in range(STEPS):
            optimizer.zero_grad()
            total = 0.0
            for _ in range(ACCUMULATE):
                batch = ids[[(at + i) % len(ids) for i in range(BATCH)]]
                at += BATCH
                with torch.no_grad():
                    base = self.net.logits(batch, spliced=False, adapted=False)
                new = self.net.logits(batch, spliced=True, adapted=True)
                loss = kl_sum(base, new) if objective == "kl" else ce_sum(new, batch)
                (loss / (BATCH * ACCUMULATE)).backward()
                total += loss.item()
            norm = torch.nn.utils.clip_grad_norm_(weights, CLIP).item()
            if not steps and any((w.grad[w.grad != 0].abs() < LEAST_GRADIENT).any() for w in weights if w.grad is not None):
                raise Undecidable
            optimizer.step()
            steps.append((total / (BATCH * ACCUMULATE * predictions), norm))
        return steps


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
        want = exact.train(objective, rows)
    near = single.train(objective, rows)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "step_ms" in line]
    group.holds(f"{len(steps)} lines of steps in metrics.jsonl for {STEPS}", len(steps) == STEPS)
    for i, step in enumerate(steps[:STEPS]):
        group.close(f"step {i} {objective}", step.get(objective), want[i][0], near[i][0], KL)
        group.close(f"step {i} grad_norm", step.get("grad_norm"), want[i][1], near[i][1], GRAD_NORM)
    got, wanted, nearly = written(train, out), exact.values(), single.values()
    group.holds(f"other parameters than PyTorch's: {sorted(set(got) ^ set(wanted))[:4]}", set(got) == set(wanted))

    def kind_of(name: str) -> str:
        return name.rpartition(".")[2] if name.startswith("layer.") else "lora"

    for kind in sorted(set(map(kind_of, wanted))):
        names = [name for name in set(got) & set(wanted) if kind_of(name) == kind]

        def distance(a: dict, b: dict) -> float:
            return math.sqrt(sum((a[n].double() - b[n].double()).pow(2).sum().item() for n in names))

        group.close(f"{kind} after the last step", distance(got, wanted), 0.0, distance(nearly, wanted), WEIGHTS,
                    distance(wanted, before))
    return group.report()


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--launcher", default=str(Path(__file__).parents[2] / "espalier"))
    p.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    p.add_argument("--only", default="", help="cases whose name contains this")
    p.add_argument("--keep", type=Path, help="an empty folder for the cases' files")
    a = p.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # the models are small
    print(f"Espalier against PyTorch {torch.__version__}, transformers {transformers.__version__}; --seed {a.seed}")
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
    print(f"{sum(passed)} passed, {len(passed) - sum(passed)} failed")
    return 0 if passed and all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
