#!/usr/bin/env python3
"""Holds Espalier's reading, writing and merging of adapters against PEFT: every way of choosing layers, ranks and scales.

    compare_peft.py [--launcher ./espalier] [--seed N] [--only TEXT] [--keep DIR]

A fresh random Llama for each case: PEFT writes an adapter, Espalier evaluates with it, trains it further, and PEFT loads
what comes of it, without a warning, with the same ranks and scales. Both merge it. For every family: merging, and what
--targets chooses. Ends with 'N passed, N failed'.
"""
import copy
import json
import re
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

import family_models
import live_cases
import random_models
from compare_families import make_sae
from compare_live import GRAD_NORM, KL, Group, begin, compare_evaluate, decided, drawn, end, espalier, spliced, train
from live_cases import ATTENTION, LLAMA3, MLP, PLAIN, Case, llama

# Of the spread of the logits: the same float32 weights but for the order in which an update is summed.
MERGED = 1e-5


@dataclass(frozen=True)
class Choice:
    """What LoraConfig is told; edits: changes to adapter_config.json that PEFT's own writing undoes."""
    name: str
    config: dict
    edits: dict = field(default_factory=dict)


CHOICES = [
    Choice("list of names", dict(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])),
    Choice("list with paths within blocks, alpha no multiple of r",
           dict(r=3, lora_alpha=7, target_modules=["self_attn.k_proj", "mlp.up_proj", "model.layers.1.mlp.gate_proj"])),
    Choice("regular expression",
           dict(r=2, lora_alpha=6, target_modules=r"model\.layers\.(?:[02])\.(?P<half>self_attn\.[qv]|mlp\.(up|down))_proj")),
    Choice("all-linear", dict(r=2, lora_alpha=4, target_modules="all-linear"), dict(target_modules="all-linear")),
    Choice("all-linear but some", dict(r=2, lora_alpha=4, target_modules="all-linear", exclude_modules=r".*\.1\..*|.*down_proj"),
           dict(target_modules="all-linear")),
    Choice("names but some", dict(r=2, lora_alpha=4, target_modules=[*ATTENTION, *MLP], exclude_modules=["mlp.up_proj", "k_proj"])),
    Choice("blocks", dict(r=5, lora_alpha=2, target_modules=["o_proj", "gate_proj"], layers_to_transform=[0, 3],
                          layers_pattern="layers")),
    Choice("one block, any pattern", dict(r=1, lora_alpha=1, target_modules=["v_proj"], layers_to_transform=2)),
    Choice("rank patterns", dict(r=4, lora_alpha=8, target_modules=[*ATTENTION, "up_proj"], rank_pattern={
        "q_proj": 2, r"layers\.[13]\.self_attn\.v_proj": 7, "model.layers.0.mlp.up_proj": 1})),
    Choice("alpha patterns", dict(r=4, lora_alpha=8, target_modules=[*ATTENTION, "up_proj"], alpha_pattern={
        "up_proj": 3, r".*\.2\.self_attn\.[kq]_proj": 12.5})),
    Choice("rsLoRA with rank and alpha patterns", dict(
        r=4, lora_alpha=5, use_rslora=True, target_modules=[*ATTENTION, *MLP], layers_to_transform=[1, 2, 3],
        rank_pattern={"k_proj": 3, r"layers.2.*proj": 6}, alpha_pattern={"q_proj|v_proj": 2})),
    Choice("no targets: PEFT's default", dict(r=3, lora_alpha=3), dict(target_modules=None)),
]

MODELS = [
    ("float32, tied", llama(64, 4, 2, 16, 90, 4, 151, True, LLAMA3), dict()),
    ("bfloat16 shards, untied", llama(60, 5, 1, 12, 77, 4, 133, False, PLAIN), dict(bf16=True, shard_size="60KB")),
]


@torch.no_grad()
def randomise(net: PeftModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, p in net.named_parameters():
        if "lora_A" in name:
            p.copy_((2 * torch.rand(p.shape, generator=generator) - 1) * p.shape[1] ** -0.5)
        elif "lora_B" in name:
            p.copy_(0.05 * torch.randn(p.shape, generator=generator))


def write_adapter(choice: Choice, model: Path, folder: Path, seed: int, dtype: torch.dtype) -> None:
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    net = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **copy.deepcopy(choice.config)))
    randomise(net, seed)
    net.to(dtype).save_pretrained(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | choice.edits))


def load(group: Group, model: Path, adapter: Path) -> PeftModel:
    """As PEFT loads it; any warning of keys or settings is a fault."""
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        net = PeftModel.from_pretrained(base, adapter).eval()
    for warning in seen:
        group.holds(f"PEFT warns of {adapter.name}: {warning.message}", False)
    return net


def scales(net: PeftModel) -> dict[str, tuple[int, float]]:
    """Rank and scale of every adapted module."""
    return {name: (m.r["default"], m.scaling["default"]) for name, m in net.named_modules() if isinstance(m, LoraLayer)}


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def compare_training(case: Case, folder: Path, launcher: str) -> bool:
    """Trained further by Espalier, an adapter has the same modules, ranks and scales, and PEFT loads and writes it back."""
    group = Group("trained further")
    out, again = folder / "out", folder / "again"
    sae = [x for layer in case.saes for x in ("--sae", f"{layer}={folder}/sae-{layer}")]
    if espalier(group, launcher, "adapt", "--model", folder / "model", "--data", folder / "tokens.npy", *sae, "--steps", 3,
                "--order", "sequential", "--dropout", 0, "--lr", 1e-3, "--init-adapter", folder / "adapter", "--out", out) is None:
        return group.report()
    compare_steps(group, case, folder, out)
    before, after = load(group, folder / "model", folder / "adapter"), load(group, folder / "model", out)
    group.holds(f"ranks and scales {scales(after)} for {scales(before)}", scales(after) == scales(before))
    old, new = tensors(folder / "adapter"), tensors(out)
    group.holds(f"tensors differ: {sorted(set(old) ^ set(new))[:4]}", set(old) == set(new))
    group.holds("nothing was trained", any(not torch.equal(old[n].float(), new[n]) for n in set(old) & set(new)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that "model", the base's name, is not at hand to look for its vocabulary
        after.save_pretrained(again)
    back = tensors(again)
    group.holds("PEFT writes other tensors than it was given", set(back) == set(new) and all(
        torch.equal(back[n], new[n]) for n in new))
    return group.report()


def compare_steps(group: Group, case: Case, folder: Path, out: Path) -> None:
    """KL and gradient norm of every step against PEFT's, in float64."""
    steps = [line for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if "step_ms" in line]
    rows, lrs = np.load(folder / "tokens.npy"), [step["lr"] for step in steps]
    exact, single = (spliced(case, folder, folder / "adapter", exact, trainable=True) for exact in (True, False))
    with decided(exact):
        want = train(exact, rows, case, lrs)
    near = train(single, rows, case, lrs)
    group.holds(f"{len(steps)} steps for 3", len(steps) == 3)
    for i, step in enumerate(steps):
        group.close(f"step {i} kl", step.get("kl"), want[0][i], near[0][i], KL)
        group.close(f"step {i} grad_norm", step.get("grad_norm"), want[1][i], near[1][i], GRAD_NORM)


def compare_merge(model: Path, adapter: Path, out: Path, launcher: str, ids: torch.Tensor) -> bool:
    """PEFT's merge_and_unload against Espalier's: weights, and the logits transformers computes from the files."""
    group = Group("merged")
    printed = espalier(group, launcher, "merge", "--json", "--model", model, "--adapter", adapter, "--out", out)
    if printed is None or espalier(group, launcher, "merge", "--model", model, "--adapter", adapter, "--out", f"{out}-f32",
                                   "--dtype", "f32") is None:
        return group.report()
    base, before = AutoModelForCausalLM.from_pretrained(model, dtype="auto", output_loading_info=True)
    want = load(group, model, adapter).merge_and_unload()
    for folder, dtype in ((out, base.dtype), (Path(f"{out}-f32"), torch.float32)):
        got, report = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", attn_implementation="eager",
                                                           output_loading_info=True)
        group.holds(f"{folder.name} is {got.dtype}, not {dtype}", got.dtype == dtype)
        group.holds(f"{folder.name} loads with {report}, the model with {before}", report == before)
        for name, p in want.named_parameters():
            theirs = got.get_parameter(name)
            # of float32, the order of a sum; of others, one rounding, which may fall either way on a tie
            allowed = 2.0**-20 if dtype == torch.float32 else torch.finfo(dtype).eps
            group.holds(f"{folder.name} {name}", theirs.dtype == dtype and torch.allclose(
                theirs.float(), p, rtol=allowed, atol=1e-7))
    with torch.no_grad():
        logits = want(ids, use_cache=False).logits
        mine = got(ids, use_cache=False).logits
    group.close("logits", (mine - logits).abs().max().item(), 0.0, 0.0, MERGED, scale=logits.std().item())
    check_loss(group, model, out, want, json.loads(printed)["rounding_loss"])
    return group.report()


def compare_targets(folder: Path, launcher: str) -> bool:
    """What --targets means for a family: PEFT adapts the same layers of Espalier's folder, without a warning."""
    group = Group("layers chosen by --targets")
    base = AutoModelForCausalLM.from_pretrained(folder / "model")
    linear = {name: int(re.search(r"\.(\d+)\.", name)[1]) for name, m in base.named_modules()
              if isinstance(m, (torch.nn.Linear, Conv1D)) and m is not base.get_output_embeddings()}
    for targets, layers, chosen in (("attn", "all", lambda name, block: ".mlp." not in name),
                                    ("mlp", "0,2", lambda name, block: ".mlp." in name and block in (0, 2)),
                                    ("all-linear", "after", lambda name, block: block > 1)):
        out = folder / f"targets-{targets}"
        if espalier(group, launcher, "adapt", "--model", folder / "model", "--data", folder / "tokens.npy", "--sae",
                    f"1={folder}/sae", "--steps", 1, "--rank", 2, "--layers", layers, "--targets", targets, "--out",
                    out) is None:
            continue
        got = scales(load(group, folder / "model", out))
        names = {name.removeprefix("base_model.model.") for name in got}
        want = {name for name, block in linear.items() if chosen(name, block)}
        group.holds(f"--targets {targets}: {sorted(names ^ want)[:4]}", names == want)
        group.holds(f"{targets}: ranks and scales {set(got.values())}", set(got.values()) == {(2, 16.0)})
    return group.report()


def check_loss(group: Group, model: Path, out: Path, exact, printed: float) -> None:
    before = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    after = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    lost = update = 0.0
    for (_, a), (_, b), (_, e) in zip(*(m.named_parameters() for m in (before, after, exact))):
        if not torch.equal(a, e):
            lost += (b.double() - e.double()).pow(2).sum().item()
            update += (e.double() - a.double()).pow(2).sum().item()
    # in float32 the sum itself is rounded on both sides: nothing to compare but that it is small
    near = 1e-2 * (lost / update) ** 0.5 + 1e-5
    group.holds(f"rounding_loss {printed} for {(lost / update) ** 0.5}", abs(printed - (lost / update) ** 0.5) < near)


def compare_choice(choice: Choice, case: Case, root: Path, launcher: str, seed: int) -> list[bool]:
    dtype = (torch.float32, torch.bfloat16, torch.float16)[seed % 3]

    def draw(attempt: int) -> list[bool]:
        folder = root / str(attempt)
        folder.mkdir(parents=True)
        live_cases.build(case, folder, seed + attempt)
        write_adapter(choice, folder / "model", folder / "adapter", seed, dtype)
        ids = torch.from_numpy(np.load(folder / "tokens.npy").astype(np.int64))
        return [compare_evaluate(case, folder, launcher, folder / "adapter", f"evaluate ({dtype})"),
                compare_training(case, folder, launcher),
                compare_evaluate(case, folder, launcher, folder / "out", "evaluate what was trained"),
                compare_merge(folder / "model", folder / "adapter", folder / "merged", launcher, ids)]

    return drawn(draw)


def main() -> int:
    a = begin(__doc__)
    passed: list[bool] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = a.keep or Path(temporary)
        for i, choice in enumerate(CHOICES):
            name, config, more = MODELS[i % len(MODELS)]
            title = f"{choice.name}; {name}"
            if a.only not in title:
                continue
            print(title, flush=True)
            passed += compare_choice(choice, Case(title, config, {1: "jumprelu"}, None, **more), root / f"choice-{i}",
                                     a.launcher, a.seed + 100 * i)
        for i, family in enumerate(family_models.families()):
            title = f"families; {family.name}"
            if a.only not in title:
                continue
            print(title, flush=True)
            folder = root / f"family-{i}"
            model = family_models.build(family, folder / "model", a.seed + i)
            net = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=6, target_modules="all-linear",
                                                   fan_in_fan_out=family.model_type == "gpt2"))
            randomise(net, a.seed + i)
            net.save_pretrained(folder / "adapter")
            ids = random_models.tokens(torch.Generator().manual_seed(i), 4, 24, model.config.vocab_size)
            np.save(folder / "tokens.npy", ids.numpy())
            passed.append(compare_merge(folder / "model", folder / "adapter", folder / "merged", a.launcher, ids))
            make_sae(family_models.read(folder / "model"), ids, a.seed + i, folder)
            passed.append(compare_targets(folder, a.launcher))
    return end(passed)


if __name__ == "__main__":
    sys.exit(main())
