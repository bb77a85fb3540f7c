"""Random models of every family that Espalier loads, in odd shapes and as different versions of transformers write them."""
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

BOS, EOS = 1, 2
PLAIN = dict(rope_type="default", rope_theta=10000.0)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=48, rope_theta=500000.0)


@dataclass(frozen=True)
class Family:
    """config: of transformers' class; rewrite: changes files to what other versions or tools write."""
    name: str
    model_type: str
    config: dict
    rewrite: Callable[[Path], None] = lambda folder: None
    dtype: torch.dtype = torch.float32
    shard_size: str = "5GB"
    options: dict = field(default_factory=dict)


def families() -> list[Family]:
    return [
        Family("Llama, grouped heads, llama3 rope, tied", "llama",
               dict(hidden_size=96, num_attention_heads=6, num_key_value_heads=2, head_dim=16, intermediate_size=131,
                    num_hidden_layers=4, vocab_size=307, tie_word_embeddings=True, rope_parameters=LLAMA3)),
        Family("Llama, biases everywhere, old rope keys, float16 shards", "llama",
               dict(hidden_size=60, num_attention_heads=5, num_key_value_heads=1, head_dim=12, intermediate_size=77,
                    num_hidden_layers=3, vocab_size=203, attention_bias=True, mlp_bias=True,
                    rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=10000.0)),
               rewrite=old_rope, dtype=torch.float16, shard_size="60KB"),
        Family("Mistral, sliding window", "mistral",
               dict(hidden_size=72, num_attention_heads=6, num_key_value_heads=3, head_dim=20, intermediate_size=110,
                    num_hidden_layers=3, vocab_size=211, sliding_window=7, rope_parameters=PLAIN)),
        Family("Qwen 2, biases, window from block 2 on", "qwen2",
               dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, intermediate_size=90,
                    num_hidden_layers=4, vocab_size=251, use_sliding_window=True, sliding_window=6,
                    max_window_layers=2, rope_parameters=PLAIN)),
        Family("Qwen 2, as Qwen 2.5 is published: bfloat16, old rope keys, window off", "qwen2",
               dict(hidden_size=48, num_attention_heads=6, num_key_value_heads=1, intermediate_size=64,
                    num_hidden_layers=3, vocab_size=199, tie_word_embeddings=True, sliding_window=6,
                    rope_parameters=dict(rope_type="default", rope_theta=1e6)),
               rewrite=old_rope, dtype=torch.bfloat16),
        Family("Qwen 3, normalised heads", "qwen3",
               dict(hidden_size=56, num_attention_heads=4, num_key_value_heads=2, head_dim=24, intermediate_size=81,
                    num_hidden_layers=4, vocab_size=233, rope_parameters=PLAIN)),
        Family("Gemma 2, caps that bite, odd head size", "gemma2",
               dict(hidden_size=80, num_attention_heads=4, num_key_value_heads=2, head_dim=28, intermediate_size=121,
                    num_hidden_layers=4, vocab_size=271, query_pre_attn_scalar=19, sliding_window=5,
                    attn_logit_softcapping=2.0, final_logit_softcapping=3.0, rope_parameters=PLAIN)),
        Family("Gemma 2, as published: old rope keys, head size 256", "gemma2",
               dict(hidden_size=96, num_attention_heads=2, num_key_value_heads=1, head_dim=256, intermediate_size=100,
                    num_hidden_layers=3, vocab_size=199, sliding_window=6, query_pre_attn_scalar=224,
                    rope_parameters=PLAIN), rewrite=old_gemma2),
        Family("Gemma 3, two rotary bases", "gemma3_text",
               dict(hidden_size=72, num_attention_heads=4, num_key_value_heads=1, head_dim=26, intermediate_size=99,
                    num_hidden_layers=7, vocab_size=229, query_pre_attn_scalar=31, sliding_window=5,
                    sliding_window_pattern=3,
                    rope_parameters=dict(
                        full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                        sliding_attention=dict(rope_type="default", rope_theta=10000.0)))),
        Family("Gemma 3, as published: old rope keys", "gemma3_text",
               dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=20, intermediate_size=80,
                    num_hidden_layers=6, vocab_size=217, query_pre_attn_scalar=20, sliding_window=4,
                    sliding_window_pattern=2), rewrite=old_gemma3, dtype=torch.bfloat16, shard_size="90KB"),
        Family("GPT-2", "gpt2",
               dict(n_embd=60, n_head=5, n_layer=4, n_inner=97, n_positions=64, vocab_size=239)),
        Family("GPT-2, as published: bare names, causal masks", "gpt2",
               dict(n_embd=48, n_head=4, n_layer=3, n_positions=40, vocab_size=181), rewrite=bare_gpt2),
        Family("GPT-NeoX, parallel, a quarter of each head rotated", "gpt_neox",
               dict(hidden_size=96, num_attention_heads=4, intermediate_size=150, num_hidden_layers=4, vocab_size=263,
                    rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.25)),
               dtype=torch.float16),
        Family("GPT-NeoX, sequential, as Pythia is published: old rope keys, masks", "gpt_neox",
               dict(hidden_size=60, num_attention_heads=3, intermediate_size=88, num_hidden_layers=3, vocab_size=193,
                    use_parallel_residual=False, attention_bias=True,
                    rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5)),
               rewrite=old_neox),
    ]


@torch.no_grad()
def build(family: Family, folder: Path, seed: int) -> PreTrainedModel:
    """Writes the model; returns it as transformers reads it back, in float32."""
    generator = torch.Generator().manual_seed(seed)
    config = AutoConfig.for_model(family.model_type, **dict(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=None, max_position_embeddings=64) | family.config)
    model = AutoModelForCausalLM.from_config(config)
    gemma = family.model_type.startswith("gemma")
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if "norm" in name or ".ln_" in name:
            p.copy_(0.2 * noise + (0 if gemma or name.endswith("bias") else 1))
        elif name.endswith("bias"):
            p.copy_(0.2 * noise)
        elif any(part in name for part in ("embed", "lm_head", "wte", "wpe")):
            p.copy_(2.5 * noise * p.shape[1] ** -0.5 + 0.05)
        else:
            p.copy_(1.3 * noise * p.shape[0 if family.model_type == "gpt2" else 1] ** -0.5 + 0.3 / p.shape[1])
    model.to(family.dtype).save_pretrained(folder, max_shard_size=family.shard_size)
    family.rewrite(folder)
    return read(folder)


def read(folder: Path) -> PreTrainedModel:
    """Eager attention: the only one that applies caps."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.requires_grad_(False).eval()


def edit(folder: Path, change: Callable[[dict], None]) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config, indent=2))


def old_rope(folder: Path) -> None:
    def change(config: dict) -> None:
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
        config["torch_dtype"] = config.pop("dtype")
    edit(folder, change)


def old_gemma2(folder: Path) -> None:
    old_rope(folder)
    edit(folder, lambda config: (config.pop("layer_types"), config.update(hidden_act="gelu_pytorch_tanh")))


def old_gemma3(folder: Path) -> None:
    def change(config: dict) -> None:
        rope = config.pop("rope_parameters")
        config.pop("layer_types")
        config.update(rope_theta=rope["full_attention"]["rope_theta"], rope_scaling=None, sliding_window_pattern=2,
                      rope_local_base_freq=rope["sliding_attention"]["rope_theta"])
    edit(folder, change)


def old_neox(folder: Path) -> None:
    def change(config: dict) -> None:
        rope = config.pop("rope_parameters")
        config.update(rotary_emb_base=int(rope["rope_theta"]), rotary_pct=rope["partial_rotary_factor"])
    edit(folder, change)
    masks(folder, "gpt_neox.layers.{}.attention.", 3, rotary=True)


def bare_gpt2(folder: Path) -> None:
    file = folder / "model.safetensors"
    save_file({name.removeprefix("transformer."): t for name, t in load_file(file).items()}, file,
              metadata={"format": "pt"})
    masks(folder, "h.{}.attn.", 3, rotary=False)


def masks(folder: Path, prefix: str, layers: int, rotary: bool) -> None:
    """Buffers that older versions saved with the weights."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for layer in range(layers):
        at = prefix.format(layer)
        tensors[at + "bias"] = torch.ones(1, 1, 8, 8).tril().bool()
        tensors[at + "masked_bias"] = torch.tensor(-1e9)
        if rotary:
            tensors[at + "rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, file, metadata={"format": "pt"})
