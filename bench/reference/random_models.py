"""Random Llamas, SAEs and adapters whose numbers are worth comparing: logits spread over several nats, norms and
biases that are not 0 or 1, latents that fire at a chosen rate, LoRA B matrices that are not zero."""
import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from sae import Sae

BOS, EOS = 1, 2


@torch.no_grad()
def llama(generator: torch.Generator, **config) -> LlamaForCausalLM:
    """A LlamaForCausalLM; every linear's rows have a norm near 1, so activations keep their size."""
    settings = dict(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=None)
    model = LlamaForCausalLM(LlamaConfig(**settings | config))
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if name.endswith("norm.weight"):
            p.copy_(1 + 0.2 * noise)
        elif "embed_tokens" in name or "lm_head" in name:
            p.copy_(2.5 * noise * p.shape[1] ** -0.5 + 0.05)  # logits of spread 2.5
        else:
            p.copy_(noise * p.shape[1] ** -0.5 + 0.3 / p.shape[1])  # means are not 0
    return model.requires_grad_(False).eval()


def tokens(generator: torch.Generator, rows: int, length: int, vocab: int) -> Tensor:
    """[rows, length] ids without any model: BOS first, one EOS inside, small ids more frequent than large ones."""
    u = torch.rand(rows, length, generator=generator)
    ids = (EOS + 1 + (vocab - EOS - 1) * u * u).long()
    ids[:, 0] = BOS
    at = torch.randint(length // 3, length - 1, (rows,), generator=generator)
    ids[torch.arange(rows), at] = EOS
    return ids


@torch.no_grad()
def samples(generator: torch.Generator, model: LlamaForCausalLM, rows: int, length: int) -> Tensor:
    """[rows, length] ids drawn from the model, so that its CE is lowest undisturbed; BOS first, one EOS inside."""
    ids = torch.full((rows, 1), BOS)
    for _ in range(length - 1):
        p = model(ids, use_cache=False).logits[:, -1].float().softmax(-1)
        p[:, [BOS, EOS]] = 0
        ids = torch.cat((ids, p.multinomial(1, generator=generator)), 1)
    at = torch.randint(length // 3, length - 1, (rows,), generator=generator)
    ids[torch.arange(rows), at] = EOS
    return ids


@torch.no_grad()
def residuals(model: LlamaForCausalLM, ids: Tensor, layer: int) -> Tensor:
    """Outputs of block `layer` at the positions an SAE is applied to, [n, hidden]."""
    kept = []
    handle = model.model.layers[layer].register_forward_hook(lambda m, i, x: kept.append(x))
    for row in ids:
        model.model(row[None], use_cache=False)
    handle.remove()
    return torch.cat(kept)[(ids != BOS) & (ids != EOS)]


def level_in_gap(pre: Tensor, rate: float, offsets: tuple[float, ...]) -> Tensor:
    """For each latent a level that about `rate` of its pre-activations pre [n, m] exceed, in the middle of a wide gap
    between values (plus each of the offsets), so that no decision hangs on rounding; [m]."""
    barriers = torch.cat([pre + o for o in offsets]).sort(0).values
    ordered = pre.sort(0).values
    low, high = (ordered[int((1 - share * rate) * len(pre))] for share in (1.3, 0.7))
    middle = (barriers[1:] + barriers[:-1]) / 2
    gap = torch.where((middle >= low) & (middle <= high), barriers.diff(dim=0), -1)
    return middle.gather(0, gap.argmax(0)[None])[0]


@torch.no_grad()
def sae(generator: torch.Generator, architecture: str, width: int, x: Tensor, l0: float,
        apply_b_dec_to_input: bool = True, bandwidth: float | None = None) -> Sae:
    """An SAE whose decoder points along data x [n, d] and whose latents fire about l0 a token (topk: l0 = k)."""
    n, d = x.shape
    x, mean, scale = x.float(), x.mean(0).float(), x.std().float()
    rows = (x - mean)[torch.randint(n, (width,), generator=generator)]
    rows = rows / scale + 0.7 * torch.randn(width, d, generator=generator)
    w_dec = rows / rows.norm(dim=1, keepdim=True)
    w_dec = w_dec * (0.8 + 0.4 * torch.rand(width, 1, generator=generator))
    w_enc = 0.5 * w_dec.T + 0.05 * torch.randn(d, width, generator=generator) * d ** -0.5
    b_dec = mean + 0.1 * scale * torch.randn(d, generator=generator)
    b_enc = 0.2 * scale * torch.randn(width, generator=generator)
    made = Sae(architecture, dict(W_enc=w_enc, b_enc=b_enc, W_dec=w_dec, b_dec=b_dec),
               k=round(l0), apply_b_dec_to_input=apply_b_dec_to_input)
    made.bandwidth = bandwidth
    pre = made.pre_activations(x)
    if architecture == "topk":
        # so low that in a tenth of the rows fewer than k pre-activations are positive
        made.b_enc -= pre.topk(made.k, 1).values[:, -1].quantile(0.1)
    elif architecture == "standard":
        made.b_enc -= level_in_gap(pre, l0 / width, (0.0,))
    else:
        edges = (-bandwidth / 2, 0.0, bandwidth / 2) if bandwidth else (0.0,)
        threshold = pre.std() * (0.3 + 0.6 * torch.rand(width, generator=generator))
        made.b_enc += threshold - level_in_gap(pre, l0 / width, edges)
        made.register_parameter("threshold", torch.nn.Parameter(threshold, requires_grad=False))
    return fit_decoder(made, x)


@torch.no_grad()
def fit_decoder(made: Sae, x: Tensor) -> Sae:
    """Scales the decoder so that the reconstruction of x has the least error."""
    x = x - made.b_dec
    y = made(x + made.b_dec) - made.b_dec
    made.W_dec *= (x * y).sum() / (y * y).sum()
    return made


@torch.no_grad()
def adapter(generator: torch.Generator, model: LlamaForCausalLM, folder: str | Path, rank: int,
            alpha: float, layers: list[int], targets: list[str], b_std: float) -> None:
    """Saves a PEFT adapter; A as PEFT draws it but from the generator, B of spread b_std. Unwraps the model again."""
    config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none",
                        target_modules=targets, layers_to_transform=layers, layers_pattern="layers")
    wrapped = get_peft_model(model, config)
    for name, p in wrapped.named_parameters():
        if "lora_A" in name:
            p.copy_((2 * torch.rand(p.shape, generator=generator) - 1) * p.shape[1] ** -0.5)
        elif "lora_B" in name:
            p.copy_(b_std * torch.randn(p.shape, generator=generator))
    wrapped.save_pretrained(folder)
    (Path(folder) / "README.md").unlink(missing_ok=True)  # PEFT's model card template says nothing
    # PEFT writes the targets in any order, as it holds them in a set, and the model's full path
    path = Path(folder) / "adapter_config.json"
    written = json.loads(path.read_text())
    written |= dict(target_modules=sorted(targets), base_model_name_or_path=Path(model.name_or_path).name)
    path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
    wrapped.unload()
    model.requires_grad_(False)
