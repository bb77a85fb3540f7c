#!/usr/bin/env python3
"""Writes the smallest model of every family with what transformers and PEFT compute of it in float32, for the tests that
need no Python.

    make_family_fixtures.py [FOLDER]    default: engine/src/test/resources/families
"""
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import save_file

import compare_families
import family_models
import fixture_folder
import random_models

SMALL = dict(hidden_size=16, num_attention_heads=4, num_key_value_heads=2, head_dim=6, intermediate_size=20,
             num_hidden_layers=3, vocab_size=40, max_position_embeddings=16)
SMALL_GPT2 = dict(n_embd=16, n_head=4, n_layer=2, n_inner=20, n_positions=16, vocab_size=40, max_position_embeddings=16)
ROWS, LENGTH, SEED = 2, 12, 7


def main() -> None:
    root = fixture_folder.asked_for(__doc__, "families")
    torch.set_num_threads(1)
    seen = set()
    for family in family_models.families():
        if family.model_type in seen:  # the first of each is the plain one
            continue
        seen.add(family.model_type)
        small = SMALL_GPT2 if family.model_type == "gpt2" else {
            k: v for k, v in SMALL.items() if family.model_type != "gpt_neox" or k not in ("num_key_value_heads", "head_dim")}
        config = family.config | small
        if "num_key_value_heads" not in config and family.model_type == "gpt_neox":
            config |= dict(rope_parameters=family.config["rope_parameters"] | dict(partial_rotary_factor=0.5))
        write(replace(family, config=config, dtype=torch.float32, shard_size="5GB"), root / family.model_type)


@torch.no_grad()
def write(family: family_models.Family, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    model = family_models.build(family, folder / "model", SEED)
    ids = random_models.tokens(torch.Generator().manual_seed(SEED), ROWS, LENGTH, model.config.vocab_size)
    np.save(folder / "tokens.npy", ids.numpy().astype(np.int32))
    out = model(ids, output_hidden_states=True, use_cache=False)
    compare_families.make_adapter(family, folder, SEED)
    for leftover in ("model/generation_config.json", "adapter/README.md"):
        (folder / leftover).unlink(missing_ok=True)
    adapted = PeftModel.from_pretrained(family_models.read(folder / "model"), folder / "adapter")
    config = folder / "adapter/adapter_config.json"
    config.write_text(config.read_text().replace(str(folder / "model"), "model"))
    save_file(dict(hidden=torch.stack([h.flatten(0, 1) for h in out.hidden_states]),
                   logits=out.logits.flatten(0, 1).contiguous(),
                   adapted=adapted(ids, use_cache=False).logits.flatten(0, 1).contiguous()),
              folder / "expected.safetensors")


if __name__ == "__main__":
    main()
