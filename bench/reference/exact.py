"""A Llama that computes in float64 throughout: transformers' own goes through float32 in RMSNorm, rotary angles and
the softmax of eager attention, whatever its weights are."""
import math
from types import MethodType

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from spliced import load_model


def rms_norm(self: LlamaRMSNorm, x: Tensor) -> Tensor:
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


class Rope(nn.Module):
    """Rotary angles of transformers' "default" and "llama3" kinds; the latter divides low frequencies by `factor` and
    interpolates between (Llama 3.1)."""

    def __init__(self, config):
        super().__init__()
        rope, dim = config.rope_parameters, config.head_dim
        frequency = rope["rope_theta"] ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        if rope["rope_type"] == "llama3":
            turns = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            keep = ((turns - low) / (high - low)).clamp(0, 1)
            frequency = keep * frequency + (1 - keep) * frequency / rope["factor"]
        elif rope["rope_type"] != "default":
            raise ValueError(f"rope type {rope['rope_type']}")
        self.frequency = frequency  # [head_dim / 2]

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids[..., None].double() * self.frequency
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()


def load_exact(folder):
    model = load_model(folder, dtype=torch.float64, attention="sdpa")
    for module in model.modules():
        if isinstance(module, LlamaRMSNorm):
            module.forward = MethodType(rms_norm, module)
    exact = Rope(model.config)
    theirs = model.model.rotary_emb.inv_freq
    torch.testing.assert_close(exact.frequency, theirs.double(), rtol=1e-6, atol=0)
    model.model.rotary_emb = exact
    return model
