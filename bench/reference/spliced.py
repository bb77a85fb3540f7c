"""A transformers model whose activations pass through SAEs by hooks, and what is measured on it.

BOS and EOS positions keep their true activations. CE and KL follow the command-line contract: nats per token,
CE over next-token positions, KL over all positions; the training loss is the KL summed over a sequence and
averaged over the batch.
"""
import numpy as np
import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from sae import Sae


def load_model(folder, dtype: torch.dtype = torch.float32, attention: str = "eager") -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    return model.requires_grad_(False)


def blocks(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The decoder blocks, whatever the family calls them."""
    base = model.base_model
    return base.h if hasattr(base, "h") else base.layers


def blocks_path(model: PreTrainedModel) -> str:
    """Their name in transformers, such as model.layers."""
    return f"{model.base_model_prefix}.{'h' if hasattr(model.base_model, 'h') else 'layers'}"


def attention_name(model: PreTrainedModel) -> str:
    return next(n for n in ("self_attn", "attn", "attention") if hasattr(blocks(model)[0], n))


def place(model: PreTrainedModel, layer: int, site: str) -> tuple[torch.nn.Module, bool]:
    """The module that computes an activation, and whether it is its input that is meant; site as TransformerLens calls
    it, whose hooks of what attention and MLP give are behind Gemma's second norms, or the name of a module in the block,
    which gives what it gives."""
    block = blocks(model)[layer]
    attention = getattr(block, attention_name(model))
    gemma = hasattr(block, "post_feedforward_layernorm")
    if site in dict(block.named_children()):
        return getattr(block, site), False
    if site == "hook_resid_post":
        return block, False
    if site == "attn.hook_z":
        return next(getattr(attention, n) for n in ("o_proj", "c_proj", "dense") if hasattr(attention, n)), True
    if site == "hook_attn_out":
        return (block.post_attention_layernorm if gemma else attention), False
    if site == "hook_mlp_out":
        return (block.post_feedforward_layernorm if gemma else block.mlp), False
    raise ValueError(f"unknown site {site}")


def special_tokens(config) -> Tensor:
    """BOS and EOS ids of a model's config; EOS may be a list."""
    ids = []
    for value in (config.bos_token_id, config.eos_token_id):
        ids += value if isinstance(value, list) else [] if value is None else [value]
    return torch.tensor(sorted(set(ids)))


class Spliced:
    """`logits(ids, spliced, adapted)` runs the model with or without its SAEs and its adapter."""

    def __init__(self, model: PreTrainedModel, saes: dict[int, Sae], adapter=None,
                 trainable: bool = False):
        self.model, self.net, self.saes = model, model, saes
        self.special = special_tokens(model.config)
        self.on = False
        self.margin = None  # a number: lowered to the least margin of an SAE's decisions (Sae.margin)
        self.observe = None  # called as observe(sae's layer, x, y, f) on the positions it is applied to
        if adapter:
            self.net = PeftModel.from_pretrained(model, adapter, is_trainable=trainable,
                                                 autocast_adapter_dtype=False)
            self.net.to(model.dtype)
        # after PEFT has put its layers in place: theirs are the inputs that count
        for layer, sae in saes.items():
            module, is_input = place(model, layer, sae.site)
            hook = self._hook(layer, sae)
            if is_input:
                module.register_forward_pre_hook(lambda m, args, hook=hook: hook(m, None, args))
            else:
                module.register_forward_hook(hook)

    def _hook(self, layer: int, sae: Sae):
        def run(_module, _inputs, out):
            if not self.on:
                return out
            x = out[0] if isinstance(out, tuple) else out  # [batch, tokens, hidden]
            f = sae.encode(x.flatten(0, 1))
            y = sae.decode(f, x.flatten(0, 1)).view_as(x)
            use = self.apply.flatten()
            if self.margin is not None:
                self.margin = min(self.margin, sae.margin(x.flatten(0, 1)[use]))
            if self.observe:
                self.observe(layer, x.flatten(0, 1)[use], y.flatten(0, 1)[use], f[use])
            y = torch.where(self.apply[..., None], y, x)
            return (y, *out[1:]) if isinstance(out, tuple) else y
        return run

    def logits(self, ids: Tensor, spliced: bool, adapted: bool) -> Tensor:
        """ids [batch, tokens] -> [batch, tokens, vocab]"""
        self.on, self.apply = spliced, ~torch.isin(ids, self.special)
        if isinstance(self.net, PeftModel) and not adapted:
            with self.net.disable_adapter():
                return self.net(ids, use_cache=False).logits
        return self.net(ids, use_cache=False).logits

    def adapter_weights(self) -> dict[str, torch.nn.Parameter]:
        """The LoRA matrices by the names they have in adapter_model.safetensors."""
        return {n.replace(".default.", "."): p for n, p in self.net.named_parameters() if "lora_" in n}


def ce_sum(logits: Tensor, ids: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")


def kl_sum(base: Tensor, new: Tensor) -> Tensor:
    """sum over positions of KL(base || new)"""
    return F.kl_div(F.log_softmax(new, -1), F.log_softmax(base, -1), log_target=True, reduction="sum")


def training_loss(net: Spliced, ids: Tensor) -> Tensor:
    """KL(original || spliced and adapted), summed over positions, averaged over the batch."""
    with torch.no_grad():
        base = net.logits(ids, spliced=False, adapted=False)
    return kl_sum(base, net.logits(ids, spliced=True, adapted=True)) / ids.shape[0]


@torch.no_grad()
def evaluate(net: Spliced, rows: np.ndarray) -> dict:
    """What `espalier evaluate --json` prints; rows [N, T], one row one batch."""
    seen: dict[int, list] = {}
    total: dict[str, float] = {}

    def observe(layer, x, y, f):
        seen.setdefault(layer, []).append((x.double(), y.double(), (f > 0).sum(1).double()))

    def add(key, value):
        total[key] = total.get(key, 0.0) + value.item()

    for row in torch.from_numpy(rows.astype(np.int64)):
        ids = row[None]
        base = net.logits(ids, spliced=False, adapted=False)
        add("ce_base", ce_sum(base, ids))
        net.observe = observe
        sae = net.logits(ids, spliced=True, adapted=False)
        net.observe = None
        add("ce_sae", ce_sum(sae, ids))
        add("kl_sae", kl_sum(base, sae))
        if isinstance(net.net, PeftModel):
            adapted = net.logits(ids, spliced=True, adapted=True)
            add("ce_adapted", ce_sum(adapted, ids))
            add("kl_adapted", kl_sum(base, adapted))
    n, t = rows.shape
    out = {k: v / (n * (t - 1) if k.startswith("ce") else n * t) for k, v in total.items()}
    if "ce_adapted" in out:
        out["gap_closed"] = (out["ce_sae"] - out["ce_adapted"]) / (out["ce_sae"] - out["ce_base"])
    out["saes"] = {}
    for layer, parts in seen.items():
        x, y, l0 = (torch.cat(p) for p in zip(*parts))
        fvu = ((x - y).pow(2).sum() / (x - x.mean(0)).pow(2).sum()).item()
        out["saes"][layer] = dict(l0=l0.mean().item(), fvu=fvu, explained_variance=1 - fvu,
                                  cosine=F.cosine_similarity(x, y, dim=-1).mean().item())
    return out
