#!/usr/bin/env python3
"""Holds SAEs at every site, with every kind of normalisation, against hooks in transformers: evaluations and steps of
LoRA training, whose gradients pass the SAE and the statistics of its normalisation.

    compare_sites.py [--launcher ./espalier] [--seed N] [--only TEXT] [--keep DIR]

Both compute in float32; a case in which a decision hangs on rounding is drawn again. Ends with 'N passed, N failed'.
"""
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import family_models
import random_models
from compare_families import LAYER, WIDTH, compare_adapt, compare_evaluate, make_adapter
from compare_live import DRAWS, begin, drawn, end
from family_models import Family
from spliced import attention_name, blocks_path, place

ACTIVE = 9
SITES = ["attn.hook_z", "hook_attn_out", "hook_mlp_out", "hook_resid_post"]  # by TransformerLens's names
MODULES = ["attention", "mlp"]  # of transformers; they end before Gemma's second norms, elsewhere where the sites do
NORMALISATIONS = ["none", "constant_norm_rescale", "layer_norm"]
KINDS = ["jumprelu", "topk", "standard"]


def activations(model, ids: torch.Tensor, site: str) -> torch.Tensor:
    """Where SAEs are applied, so without BOS and EOS; [n, d]"""
    module, is_input = place(model, LAYER, site)
    kept = []
    if is_input:
        handle = module.register_forward_pre_hook(lambda m, args: kept.append(args[0]))
    else:
        handle = module.register_forward_hook(
            lambda m, args, out: kept.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        model(ids, use_cache=False)
    handle.remove()
    return kept[0][~torch.isin(ids, torch.tensor([family_models.BOS, family_models.EOS]))]


@torch.no_grad()
def make_sae(model, ids: torch.Tensor, seed: int, kind: str, site: str, normalize: str, folder: Path) -> None:
    is_module = site in MODULES
    if site == "attention":
        site = attention_name(model)
    x = activations(model, ids, site)
    if normalize == "constant_norm_rescale":
        x = x * x.shape[1] ** 0.5 / x.norm(dim=1, keepdim=True)
    elif normalize == "layer_norm":
        x = (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)
    sae = random_models.sae(torch.Generator().manual_seed(seed), kind, WIDTH, x, ACTIVE)
    sae.site, sae.normalize = site, normalize
    sae.save(folder, LAYER, blocks=blocks_path(model) if is_module else "blocks")


def compare(family: Family, folder: Path, seed: int, kind: str, site: str, normalize: str, launcher: str) -> list[bool]:
    model = family_models.build(family, folder / "model", seed)
    ids = random_models.tokens(torch.Generator().manual_seed(seed), 6, 24, model.config.vocab_size)
    np.save(folder / "tokens.npy", ids.numpy())
    make_sae(model, ids, seed, kind, site, normalize, folder / "sae")
    make_adapter(family, folder, seed)
    return [compare_evaluate(folder, launcher, folder / "adapter", "evaluate"), compare_adapt(folder, launcher)]


def families() -> list[Family]:
    """The first of each model type."""
    return list({family.model_type: family for family in reversed(family_models.families())}.values())[::-1]


def main() -> int:
    a = begin(__doc__)
    passed: list[bool] = []
    with tempfile.TemporaryDirectory() as temporary:
        for i, family in enumerate(families()):
            for j, site in enumerate(SITES + (MODULES if family.model_type.startswith("gemma") else [])):
                # every site with every normalisation and kind, over the families
                normalize, kind = NORMALISATIONS[(i + j) % 3], KINDS[(i // 3 + j) % 3]
                name = f"{family.name}: {kind} at {site}, normalisation {normalize}"
                if a.only not in name:
                    continue
                print(name, flush=True)
                root = a.keep or Path(temporary)
                passed += drawn(lambda attempt: compare(
                    family, root / f"case-{i}-{j}-{attempt}", a.seed + 1000 * i + DRAWS * j + attempt, kind, site, normalize,
                    a.launcher))
    return end(passed)


if __name__ == "__main__":
    sys.exit(main())
