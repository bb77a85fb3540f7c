"""The random models of the live comparison: shapes that are odd where shapes can be, fresh weights every time."""
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import torch

import random_models

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=48, rope_theta=10000.0)
PLAIN = dict(rope_type="default", rope_theta=10000.0)


@dataclass(frozen=True)
class Adapter:
    """An initial adapter; b_std 0 is where training usually starts."""
    layers: tuple[int, ...]
    targets: tuple[str, ...] = (*ATTENTION, *MLP)
    rank: int = 4
    alpha: float = 8.0
    b_std: float = 0.05


@dataclass(frozen=True)
class Case:
    """options: of `espalier adapt`, besides those that every case has. adapter None: Espalier draws its own."""
    name: str
    config: dict
    saes: dict[int, str]
    adapter: Adapter | None
    options: dict = field(default_factory=dict)
    rows: int = 8
    length: int = 21
    steps: int = 6
    width: int = 90
    l0: int = 9
    token_type: type = np.int32
    bf16: bool = False
    shard_size: str = "5GB"


def llama(hidden: int, heads: int, kv_heads: int, head_dim: int, ffn: int, layers: int, vocab: int, tied: bool,
          rope: dict, **more) -> dict:
    return dict(hidden_size=hidden, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim,
                intermediate_size=ffn, num_hidden_layers=layers, vocab_size=vocab, tie_word_embeddings=tied,
                rope_parameters=rope, max_position_embeddings=64, **more)


def cases(random: Random) -> list[Case]:
    return [
        Case("grouped heads, tied, llama3 rope, TopK",
             llama(96, 8, 2, 16, 131, 5, 307, True, LLAMA3), {2: "topk"}, Adapter(layers=(3, 4)),
             {"--lr": 3e-3, "--weight-decay": 0.1, "--clip": 0.7}),
        Case("one KV head, untied, bf16 shards, JumpReLU, LoRA below it too",
             llama(60, 5, 1, 12, 77, 4, 203, False, PLAIN, rms_norm_eps=1e-5), {1: "jumprelu"},
             Adapter(layers=(0, 1, 2, 3), b_std=0.0),
             {"--lr": 3e-3, "--batch": 2, "--schedule": "linear", "--warmup": 2}, length=20,
             token_type=np.int64, bf16=True, shard_size="100KB"),
        Case("as many KV heads, two SAEs, attention only, accumulation",
             llama(64, 4, 4, 16, 90, 4, 151, True, LLAMA3, eos_token_id=[2, 7]), {0: "standard", 2: "topk"},
             Adapter(layers=(1, 3), targets=tuple(ATTENTION), rank=3, alpha=5.0),
             {"--lr": 3e-3, "--batch": 2, "--accumulate": 2, "--schedule": "cosine", "--weight-decay": 0},
             length=17, token_type=np.uint16),
        Case("no initial adapter, JumpReLU",
             llama(72, 6, 3, 8, 100, 3, 257, False, LLAMA3), {0: "jumprelu"}, None,
             {"--lr": 3e-3, "--rank": 3, "--alpha": 6, "--layers": "after", "--targets": "mlp", "--batch": 3},
             rows=6, length=22, steps=8),
        random_case(random),
    ]


def random_case(random: Random) -> Case:
    kv_heads = random.choice([1, 2, 3])
    heads = kv_heads * random.choice([1, 2, 3])
    layers, head_dim = random.randint(3, 6), 2 * random.randint(3, 12)
    hidden = heads * random.randint(40 // heads, 110 // heads)
    layer = random.randrange(layers - 1)
    lowest = random.choice([0, layer + 1])
    batch = random.choice([1, 2, 4])
    targets = random.sample([*ATTENTION, *MLP], random.randint(2, 7))
    config = llama(hidden, heads, kv_heads, head_dim, random.randint(50, 150), layers, random.randint(100, 400),
                   random.random() < 0.5, random.choice([PLAIN, LLAMA3]))
    kind = random.choice(["topk", "jumprelu", "standard"])
    name = (f"random: hidden {hidden}, {heads}/{kv_heads} heads of {head_dim}, ffn {config['intermediate_size']}, "
            f"{layers} layers, vocab {config['vocab_size']}, {kind} at {layer}, {len(targets)} targets, batch {batch}")
    return Case(name, config, {layer: kind},
                Adapter(tuple(range(lowest, layers)), tuple(targets), random.randint(1, 7), random.randint(1, 20)),
                {"--lr": 3e-3, "--batch": batch}, length=random.randint(12, 24), width=random.randint(60, 130))


def build(case: Case, folder: Path, seed: int) -> None:
    """Writes model, SAEs, tokens.npy and, if the case has one, adapter."""
    generator = torch.Generator().manual_seed(seed)
    model = random_models.llama(generator, **case.config)
    if case.bf16:
        model.bfloat16().save_pretrained(folder / "model", max_shard_size=case.shard_size)
        model.float()
    else:
        model.save_pretrained(folder / "model", max_shard_size=case.shard_size)
    ids = random_models.samples(generator, model, case.rows, case.length)
    for further in case.config.get("eos_token_id", [])[1:]:
        ids[::2, 5] = further
    np.save(folder / "tokens.npy", ids.numpy().astype(case.token_type))
    for layer, kind in case.saes.items():
        x = random_models.residuals(model, ids, layer)
        sae = random_models.sae(generator, kind, case.width, x, case.l0, apply_b_dec_to_input=kind != "jumprelu")
        sae.save(folder / f"sae-{layer}", layer)
    if a := case.adapter:
        random_models.adapter(generator, model, folder / "adapter", a.rank, a.alpha, list(a.layers),
                              list(a.targets), a.b_std)
