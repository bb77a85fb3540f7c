"""Every metric of `espalier evaluate --metrics all`, computed on whole arrays in float64 from a transformers model.

Formulas: SAEBench's core evaluation, with SAELens's corrections (explained variance of 6.45.1, squared error of 6.45.2);
loss differences of tokens and distances of activations as in Chen, Engels and Tegmark 2025. A position that is BOS or EOS
counts in none but the model's own CE and KL.
"""
import math
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor

from sae import Sae
from spliced import blocks, special_tokens

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class Measured:
    """A model that can be run with SAEs or zeros in place of any blocks' outputs."""

    def __init__(self, model, saes: dict[int, Sae], adapter=None):
        self.layers, self.saes, self.special = blocks(model), saes, special_tokens(model.config)
        self.net = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False) if adapter else model
        self.net.to(model.dtype)
        self.margin = math.inf

    @contextmanager
    def hooks(self, use: Tensor, replace: dict[int, str], outputs: list, seen: dict):
        def hook(layer: int):
            def run(_module, _inputs, out):
                x = out[0] if isinstance(out, tuple) else out
                y = x
                if replace.get(layer) == "zero":
                    y = torch.where(use[..., None], 0.0, x)
                elif replace.get(layer) == "sae":
                    sae = self.saes[layer]
                    self.margin = min(self.margin, sae.margin(x[use]))
                    f = sae.encode(x[use])
                    seen[layer] = (x[use].double(), sae.decode(f, x[use]).double(), f.double())
                    y = x.clone()
                    y[use] = sae.decode(f, x[use])
                outputs.append(y.double())
                return (y, *out[1:]) if isinstance(out, tuple) else y
            return run
        handles = [block.register_forward_hook(hook(i)) for i, block in enumerate(self.layers)]
        yield
        for handle in handles:
            handle.remove()

    @torch.no_grad()
    def run(self, ids: Tensor, replace: dict[int, str] | None = None, adapted: bool = False):
        """Per position log-probabilities [rows, tokens, vocab], cross-entropies [rows, tokens - 1], blocks' outputs, and
        (x, y, f) of each SAE at the positions it is applied to."""
        outputs, seen = [], {}
        with self.hooks(~torch.isin(ids, self.special), replace or {}, outputs, seen):
            if isinstance(self.net, PeftModel) and not adapted:
                with self.net.disable_adapter():
                    logits = self.net(ids, use_cache=False).logits
            else:
                logits = self.net(ids, use_cache=False).logits
        log_p = logits.double().log_softmax(-1)
        ce = -log_p[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
        return log_p, ce, outputs, seen


def kl(base: Tensor, new: Tensor) -> Tensor:
    return F.kl_div(new, base, log_target=True, reduction="none").sum(-1)


def scores(base, sae, ablated, kl_at: Tensor, ce_at: Tensor) -> dict[str, float]:
    out = dict(ce_base=base[1][ce_at].mean(), ce_sae=sae[1][ce_at].mean(), ce_abl=ablated[1][ce_at].mean(),
               kl_sae=kl(base[0], sae[0])[kl_at].mean(), kl_abl=kl(base[0], ablated[0])[kl_at].mean())
    out["ce_loss_score"] = (out["ce_abl"] - out["ce_sae"]) / (out["ce_abl"] - out["ce_base"])
    out["kl_div_score"] = (out["kl_abl"] - out["kl_sae"]) / out["kl_abl"]
    return {key: value.item() for key, value in out.items()}


def reconstruction(x: Tensor, y: Tensor, f: Tensor) -> dict[str, float]:
    """x, y [n, d] and f [n, m], float64."""
    mse = (x - y).pow(2).sum(1).mean()
    explained = 1 - mse / (x.pow(2).sum(1).mean() - x.mean(0).pow(2).sum())
    norm_in, norm_out = x.norm(dim=1), y.norm(dim=1)
    density = (f > 0).double().mean(0)
    out = dict(explained_variance=explained, fvu=1 - explained, mse=mse,
               cosine=F.cosine_similarity(x, y, dim=1).mean(),
               l2_norm_in=norm_in.mean(), l2_norm_out=norm_out.mean(),
               l2_ratio=torch.where(norm_in < 1e-4, 1.0, norm_out / norm_in).mean(),
               relative_reconstruction_bias=y.pow(2).sum(1).mean() / (x * y).sum(1).mean(),
               l0=(f > 0).double().sum(1).mean(), l1=f.sum(1).mean(),
               frac_alive=(density > 0).double().mean(), dead=(density == 0).double().mean())
    for percent in (1, 10):
        often = density > percent / 100
        out[f"freq_over_{percent}_percent"] = often.double().mean()
        out[f"normalized_freq_over_{percent}_percent"] = density[often].sum() / density.sum()
    return {key: value.item() for key, value in out.items()}


def token_differences(base: Tensor, new: Tensor, ce_at: Tensor) -> dict:
    """Of cross-entropies [rows, tokens - 1]; the first position of a row is left out. `sizes` are all |D|."""
    at = ce_at.clone()
    at[:, 0] = False
    difference = (new - base)[at].numpy()
    sizes = np.abs(difference)
    return dict(tokens=len(sizes), mean=difference.mean(), mean_absolute=sizes.mean(), sizes=sizes,
                quantiles={str(q): np.quantile(sizes, q) for q in QUANTILES})


def activation_distance(base: list[Tensor], new: list[Tensor], use: Tensor) -> list[dict]:
    """A dict a block: means over the rows of each row's means, and 90 % confidence intervals."""
    lines = []
    for x, y in zip(base, new):
        line = {}
        for name, value in (("l2", (x - y).norm(dim=-1)), ("cosine", F.cosine_similarity(x, y, dim=-1))):
            means = torch.stack([value[r][use[r]].mean() for r in range(len(use)) if use[r].any()])
            line[name] = means.mean().item()
            line[f"{name}_ci90"] = (1.645 * means.std() / math.sqrt(len(means))).item()
        lines.append(line)
    return lines


def evaluate(net: Measured, rows: np.ndarray) -> dict:
    ids = torch.from_numpy(rows.astype(np.int64))
    use = ~torch.isin(ids, net.special)
    everywhere, ce_use = torch.ones_like(use), use[:, :-1]
    base = net.run(ids)
    sae = net.run(ids, dict.fromkeys(net.saes, "sae"))
    ablated = net.run(ids, dict.fromkeys(net.saes, "zero"))
    out = scores(base, sae, ablated, everywhere, everywhere[:, :-1])
    variants = dict(sae=sae)
    if isinstance(net.net, PeftModel):
        variants["adapted"] = net.run(ids, dict.fromkeys(net.saes, "sae"), adapted=True)
        out["ce_adapted"] = variants["adapted"][1].mean().item()
        out["kl_adapted"] = kl(base[0], variants["adapted"][0]).mean().item()
        out["gap_closed"] = (out["ce_sae"] - out["ce_adapted"]) / (out["ce_sae"] - out["ce_base"])
    out["saes"] = {}
    for layer in net.saes:
        alone = scores(base, net.run(ids, {layer: "sae"}), net.run(ids, {layer: "zero"}), use, ce_use)
        out["saes"][layer] = reconstruction(*sae[3][layer]) | alone
    out["tokens"] = {name: token_differences(base[1], run[1], ce_use) for name, run in variants.items()}
    out["activations"] = {name: activation_distance(base[2], run[2], use) for name, run in variants.items()}
    return out
