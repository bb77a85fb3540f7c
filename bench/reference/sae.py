"""Sparse autoencoders in SAELens layout (cfg.json, sae_weights.safetensors), with dense latents.

    pre = (x - b_dec) W_enc + b_enc      without "- b_dec" unless apply_b_dec_to_input
    topk      f = relu of the k largest pre of a row, 0 elsewhere
    jumprelu  f = relu(pre) 1[pre > threshold]
    standard  f = relu(pre)
    y = f W_dec + b_dec
"""
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class Sae(nn.Module):
    """W_enc [d, m], b_enc [m], W_dec [m, d], b_dec [d], and for jumprelu threshold [m]; frozen."""

    def __init__(self, architecture: str, tensors: dict[str, Tensor], k: int | None = None,
                 apply_b_dec_to_input: bool = True):
        super().__init__()
        self.architecture, self.k, self.apply_b_dec_to_input = architecture, k, apply_b_dec_to_input
        for name, value in tensors.items():
            self.register_parameter(name, nn.Parameter(value.contiguous(), requires_grad=False))

    @staticmethod
    def load(folder: str | Path) -> "Sae":
        cfg = json.loads((Path(folder) / "cfg.json").read_text())
        tensors = load_file(Path(folder) / "sae_weights.safetensors")
        return Sae(cfg["architecture"], {n: t.float() for n, t in tensors.items()},
                   cfg.get("k"), cfg["apply_b_dec_to_input"])

    def save(self, folder: str | Path, layer: int, model_name: str = "random") -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        cfg = dict(d_in=self.W_enc.shape[0], d_sae=self.W_enc.shape[1], dtype="float32",
                   device="cpu", apply_b_dec_to_input=self.apply_b_dec_to_input,
                   normalize_activations="none", reshape_activations="none",
                   metadata=dict(model_name=model_name, hook_name=f"blocks.{layer}.hook_resid_post"))
        if self.architecture == "topk":
            cfg.update(k=self.k, rescale_acts_by_decoder_norm=False)
        (folder / "cfg.json").write_text(json.dumps(cfg | dict(architecture=self.architecture)))
        save_file({n: p.data.float().contiguous() for n, p in self.named_parameters()},
                  folder / "sae_weights.safetensors", metadata={"format": "pt"})

    def pre_activations(self, x: Tensor) -> Tensor:  # [n, d] -> [n, m]
        return (x - self.b_dec if self.apply_b_dec_to_input else x) @ self.W_enc + self.b_enc

    def activate(self, pre: Tensor) -> Tensor:  # [n, m] -> [n, m]
        if self.architecture == "topk":
            top = pre.topk(self.k, dim=-1)
            return torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())
        if self.architecture == "jumprelu":
            return pre.relu() * (pre > self.threshold)
        if self.architecture == "standard":
            return pre.relu()
        raise ValueError(f"unknown SAE architecture {self.architecture}")

    def encode(self, x: Tensor) -> Tensor:  # [n, d] -> [n, m]
        return self.activate(self.pre_activations(x))

    def decode(self, f: Tensor) -> Tensor:  # [n, m] -> [n, d]
        return f @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))
