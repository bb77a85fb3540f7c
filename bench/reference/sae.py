"""Sparse autoencoders in SAELens layout (cfg.json, sae_weights.safetensors), with dense latents.

    pre = (x - b_dec) W_enc + b_enc      without "- b_dec" unless apply_b_dec_to_input
    topk      f = relu of the k largest pre of a row, 0 elsewhere
    jumprelu  f = relu(pre) 1[pre > threshold]
    standard  f = relu(pre)
    y = f W_dec + b_dec
With normalize_activations, x is normalised before, each row by itself, and y brought back to its scale.
"""
import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class JumpRelu(torch.autograd.Function):
    """f = pre 1[pre > theta] with the straight-through gradient of theta (Rajamanoharan et al., arXiv 2407.14435):
    df/dtheta = -(theta / eps) K((pre - theta) / eps), K = 1 on (-1/2, 1/2); df/dpre = 1[pre > theta]."""

    @staticmethod
    def forward(ctx, pre: Tensor, theta: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(pre, theta)
        ctx.eps = eps
        return pre.relu() * (pre > theta)

    @staticmethod
    def backward(ctx, grad: Tensor):
        pre, theta = ctx.saved_tensors
        window = (pre - theta).abs() < ctx.eps / 2
        return grad * (pre > theta), -(grad * window * theta / ctx.eps).sum(0), None


class Step(torch.autograd.Function):
    """H(pre - theta) with dH/dtheta = -(1 / eps) K((pre - theta) / eps) and dH/dpre = 0 (the same paper)."""

    @staticmethod
    def forward(ctx, pre: Tensor, theta: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(pre, theta)
        ctx.eps = eps
        return (pre > theta).to(pre.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):
        pre, theta = ctx.saved_tensors
        window = (pre - theta).abs() < ctx.eps / 2
        return None, -(grad * window / ctx.eps).sum(0), None


class Sae(nn.Module):
    """W_enc [d, m], b_enc [m], W_dec [m, d], b_dec [d], and for jumprelu threshold [m]; frozen unless told otherwise.
    bandwidth is the eps of a threshold's straight-through gradient. site: what a hook's name has behind the block's number.
    normalize: none, constant_norm_rescale or layer_norm."""

    def __init__(self, architecture: str, tensors: dict[str, Tensor], k: int | None = None,
                 apply_b_dec_to_input: bool = True, site: str = "hook_resid_post", normalize: str = "none"):
        super().__init__()
        self.bandwidth = None
        self.site, self.normalize = site, normalize
        self.architecture, self.k, self.apply_b_dec_to_input = architecture, k, apply_b_dec_to_input
        for name, value in tensors.items():
            self.register_parameter(name, nn.Parameter(value.contiguous(), requires_grad=False))

    @staticmethod
    def load(folder: str | Path) -> "Sae":
        cfg = json.loads((Path(folder) / "cfg.json").read_text())
        tensors = load_file(Path(folder) / "sae_weights.safetensors")
        return Sae(cfg["architecture"], {n: t.float() for n, t in tensors.items()},
                   cfg.get("k"), cfg["apply_b_dec_to_input"],
                   re.fullmatch(r"[a-z_.]+\.\d+\.(.+)", cfg["metadata"]["hook_name"])[1], cfg["normalize_activations"])

    def save(self, folder: str | Path, layer: int, model_name: str = "random", blocks: str = "blocks") -> None:
        """blocks: what comes before the block's number, TransformerLens's name or transformers'"""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        cfg = dict(d_in=self.W_enc.shape[0], d_sae=self.W_enc.shape[1], dtype="float32",
                   device="cpu", apply_b_dec_to_input=self.apply_b_dec_to_input,
                   normalize_activations=self.normalize, reshape_activations="none",
                   metadata=dict(model_name=model_name, hook_name=f"{blocks}.{layer}.{self.site}"))
        if self.architecture == "topk":
            cfg.update(k=self.k, rescale_acts_by_decoder_norm=False)
        (folder / "cfg.json").write_text(json.dumps(cfg | dict(architecture=self.architecture)))
        save_file({n: p.data.float().contiguous() for n, p in self.named_parameters()},
                  folder / "sae_weights.safetensors", metadata={"format": "pt"})

    def scale(self, x: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """x normalised, and the (spread, mean) that undo it for the output"""
        if self.normalize == "constant_norm_rescale":
            spread = x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
            return x / spread, spread, 0.0
        if self.normalize == "layer_norm":
            mean, spread = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
            return (x - mean) / (spread + 1e-5), spread, mean
        return x, 1.0, 0.0

    def pre_activations(self, x: Tensor) -> Tensor:  # [n, d] -> [n, m]
        x = self.scale(x)[0]
        return (x - self.b_dec if self.apply_b_dec_to_input else x) @ self.W_enc + self.b_enc

    def activate(self, pre: Tensor) -> Tensor:  # [n, m] -> [n, m]
        if self.architecture == "topk":
            top = pre.topk(self.k, dim=-1)
            return torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())
        if self.architecture == "jumprelu":
            if self.threshold.requires_grad:
                return JumpRelu.apply(pre, self.threshold, self.bandwidth)
            return pre.relu() * (pre > self.threshold)
        if self.architecture == "standard":
            return pre.relu()
        raise ValueError(f"unknown SAE architecture {self.architecture}")

    def encode(self, x: Tensor) -> Tensor:  # [n, d] -> [n, m]
        return self.activate(self.pre_activations(x))

    def decode(self, f: Tensor, x: Tensor) -> Tensor:  # [n, m], [n, d] -> [n, d]
        _, spread, mean = self.scale(x)
        return (f @ self.W_dec + self.b_dec) * spread + mean

    def training_loss(self, x: Tensor, sparsity: float) -> tuple[Tensor, Tensor, Tensor]:
        """(total, error, penalty), means over the tokens of x [n, d]. Error: |x - y|^2. Penalty: L0 (jumprelu, with
        straight-through thresholds), L1 (standard) or nothing (topk). Total: error + sparsity * penalty."""
        pre = self.pre_activations(x)
        f = self.activate(pre)
        error = (x - self.decode(f, x)).pow(2).sum(1).mean()
        if self.architecture == "topk":
            penalty = torch.zeros_like(error)
        elif self.architecture == "jumprelu":
            penalty = Step.apply(pre, self.threshold, self.bandwidth).sum(1).mean()
        else:
            penalty = f.sum(1).mean()
        return error + sparsity * penalty, error, penalty

    @torch.no_grad()
    def margin(self, x: Tensor) -> float:
        """Least distance of a pre-activation of x [n, d] from a decision (top-k, threshold, relu, an edge of the
        straight-through window), in standard deviations: noise below it changes no active set."""
        pre = self.pre_activations(x)
        if self.architecture == "topk":
            top = pre.topk(self.k + 1, 1).values
            least = torch.minimum((top[:, -2] - top[:, -1]).amin(), top[:, :-1].abs().amin())
        elif self.architecture == "jumprelu":
            distance = (pre - self.threshold).abs()
            least = distance.amin()
            if self.bandwidth:
                least = torch.minimum(least, (distance - self.bandwidth / 2).abs().amin())
        else:
            least = pre.abs().amin()
        return (least / pre.std()).item()

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x), x)
