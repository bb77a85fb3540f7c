#!/usr/bin/env python3
"""Holds Espalier against transformers and PEFT on a fresh random model of every family: hidden states and logits, CE and
KL with an SAE, LoRA training on every linear layer, and the adapter that comes of it.

    compare_families.py [--launcher ./espalier] [--seed N] [--only TEXT] [--keep DIR]

Both compute in float32. Ends with 'N passed, N failed'.
"""
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

import family_models
import random_models
from compare_live import Case, Group, begin, check_loads, decided, drawn, end, espalier, train
from family_models import Family
from live_cases import Adapter
from sae import Sae
from spliced import Spliced, blocks, evaluate

# Of the spread of the values: two float32 computations in different order, through a few blocks.
FORWARD = 1e-4
# Relative: sums over many tokens, of which the errors average out.
LOSS, GRADIENT = 1e-4, 1e-3
LAYER, WIDTH, ACTIVE, RANK, ALPHA, STEPS = 1, 90, 9, 3, 6.0, 3


def compare_forward(folder: Path, launcher: str, model, ids: torch.Tensor) -> bool:
    group = Group("hidden states and logits")
    logits, hidden = folder / "logits.npy", folder / "hidden.npy"
    if espalier(group, launcher, "inspect", folder / "model", "--input", folder / "tokens.npy", "--output", logits,
                "--hidden", hidden) is None:
        return group.report()
    with torch.no_grad():
        want = model(ids, output_hidden_states=True, use_cache=False)
    states = [h.flatten(0, 1) for h in want.hidden_states]
    got = np.load(hidden).reshape(len(states), *states[0].shape)
    for i, state in enumerate(states):
        far(group, f"hidden state {i}", torch.from_numpy(got[i]), state)
    far(group, "logits", torch.from_numpy(np.load(logits)), want.logits.flatten(0, 1))
    return group.report()


def far(group: Group, what: str, got: torch.Tensor, want: torch.Tensor) -> None:
    group.close(what, (got - want).abs().max().item(), 0.0, 0.0, FORWARD, scale=want.std().item())


def make_sae(model, ids: torch.Tensor, seed: int, folder: Path) -> None:
    generator = torch.Generator().manual_seed(seed)
    kept = []
    handle = blocks(model)[LAYER].register_forward_hook(
        lambda m, i, out: kept.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        model(ids, use_cache=False)
    handle.remove()
    x = kept[0][~torch.isin(ids, torch.tensor([family_models.BOS, family_models.EOS]))]
    random_models.sae(generator, "jumprelu", WIDTH, x, ACTIVE).save(folder / "sae", LAYER)


def make_adapter(family: Family, folder: Path, seed: int) -> None:
    """On every linear layer but the head, as PEFT finds them itself."""
    generator = torch.Generator().manual_seed(seed)
    config = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear",
                        fan_in_fan_out=family.model_type == "gpt2")
    net = get_peft_model(family_models.read(folder / "model"), config)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "lora_A" in name:
                p.copy_((2 * torch.rand(p.shape, generator=generator) - 1) * p.shape[1] ** -0.5)
            elif "lora_B" in name:
                p.copy_(0.05 * torch.randn(p.shape, generator=generator))
    net.save_pretrained(folder / "adapter")


def spliced(folder: Path, adapter: Path | None, trainable: bool = False) -> Spliced:
    return Spliced(family_models.read(folder / "model"), {LAYER: Sae.load(folder / "sae")}, adapter, trainable)


def compare_evaluate(folder: Path, launcher: str, adapter: Path, heading: str) -> bool:
    group = Group(heading)
    out = espalier(group, launcher, "evaluate", "--json", "--model", folder / "model", "--data", folder / "tokens.npy",
                   "--sae", f"{LAYER}={folder}/sae", "--adapter", adapter)
    if out is None:
        return group.report()
    net = spliced(folder, adapter)
    with decided(net):
        want = evaluate(net, np.load(folder / "tokens.npy"))
    got = json.loads(out)
    for key in ("ce_base", "ce_sae", "kl_sae", "ce_adapted", "kl_adapted"):
        group.close(key, got.get(key), want[key], want[key], LOSS)
    for key in ("l0", "fvu", "cosine"):
        group.close(key, got["saes"][str(LAYER)].get(key), want["saes"][LAYER][key], 0, LOSS)
    return group.report()


def compare_adapt(folder: Path, launcher: str) -> bool:
    group = Group("adapt")
    options = {"--lr": 3e-3, "--batch": 2}
    case = Case("", {}, {LAYER: "jumprelu"}, Adapter((), (), RANK, ALPHA), options, steps=STEPS)
    out = folder / "out"
    args = ["adapt", "--model", folder / "model", "--data", folder / "tokens.npy", "--sae", f"{LAYER}={folder}/sae",
            "--order", "sequential", "--dropout", 0, "--steps", STEPS, "--out", out, "--init-adapter",
            folder / "adapter", *(x for option in options.items() for x in option)]
    if espalier(group, launcher, *args) is None:
        return group.report()
    steps = [line for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if "step_ms" in line]
    rows = np.load(folder / "tokens.npy")
    net = spliced(folder, folder / "adapter", trainable=True)
    with decided(net):
        want = train(net, rows, case, [s["lr"] for s in steps])
    group.holds(f"{len(steps)} steps for {STEPS}", len(steps) == STEPS)
    for i, step in enumerate(steps):
        group.close(f"step {i} kl", step.get("kl"), want[0][i], want[0][i], LOSS)
        group.close(f"step {i} grad_norm", step.get("grad_norm"), want[1][i], want[1][i], GRADIENT)
    check_loads(group, case, folder, out)
    return group.report()


def compare(family: Family, folder: Path, seed: int, launcher: str) -> list[bool]:
    model = family_models.build(family, folder / "model", seed)
    ids = random_models.tokens(torch.Generator().manual_seed(seed), 6, 24, model.config.vocab_size)
    np.save(folder / "tokens.npy", ids.numpy())
    make_sae(model, ids, seed, folder)
    make_adapter(family, folder, seed)
    passed = [compare_forward(folder, launcher, model, ids),
              compare_evaluate(folder, launcher, folder / "adapter", "evaluate with PEFT's adapter"),
              compare_adapt(folder, launcher)]
    if (folder / "out" / "adapter_model.safetensors").exists():
        passed.append(compare_evaluate(folder, launcher, folder / "out", "evaluate with Espalier's adapter"))
    return passed


def main() -> int:
    a = begin(__doc__)
    passed: list[bool] = []
    with tempfile.TemporaryDirectory() as temporary:
        for i, family in enumerate(family_models.families()):
            if a.only not in family.name:
                continue
            print(family.name, flush=True)
            root = a.keep or Path(temporary)
            passed += drawn(lambda attempt: compare(family, root / f"family-{i}-{attempt}", a.seed + 1000 * i + attempt,
                                                    a.launcher))
    return end(passed)


if __name__ == "__main__":
    sys.exit(main())
