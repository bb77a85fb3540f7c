#!/usr/bin/env python3
"""Writes the golden fixtures of the Java tests: a small Llama, SAEs, adapters and tokens in their libraries' own
layouts, and what PyTorch computes from them in float64. Deterministic; README.md in the folder lists every tensor.

    make_fixtures.py [FOLDER]        default: engine/src/test/resources/golden
"""
import json
import shutil
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

import fixture_folder
import metrics
import random_models
from adapt_step import PROJECTIONS
from exact import load_exact
from fixture_readme import write_readme
from sae import Sae
from spliced import Spliced, ce_sum, evaluate, kl_sum, load_model, special_tokens, training_loss

LAYER, WIDTH, L0 = 1, 64, 9
KINDS = ("topk", "jumprelu", "standard")
ADAM = dict(lr=1e-2, weight_decay=0.1, beta1=0.9, beta2=0.999, eps=1e-8, clip=1.0, steps=10)
BANDWIDTH = 0.4
SPARSITY = dict(topk=0.0, jumprelu=0.3, standard=0.2)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
TIED = dict(vocab_size=67, hidden_size=42, intermediate_size=46, num_hidden_layers=4, num_attention_heads=6,
            num_key_value_heads=2, head_dim=8, max_position_embeddings=128, rms_norm_eps=1e-5,
            tie_word_embeddings=True, rope_parameters=LLAMA3 | dict(rope_theta=10000.0))
UNTIED = dict(vocab_size=67, hidden_size=40, intermediate_size=50, num_hidden_layers=2, num_attention_heads=5,
              num_key_value_heads=1, max_position_embeddings=128, rms_norm_eps=1e-6,
              tie_word_embeddings=False, rope_parameters=LLAMA3 | dict(rope_theta=500000.0, factor=32.0))
MARGIN = 5e-4  # least distance of a pre-activation from a decision, in standard deviations of the pre-activations


def write_models(folder: Path, generator: torch.Generator) -> None:
    random_models.llama(generator, **TIED).save_pretrained(folder / "llama")
    random_models.llama(generator, **UNTIED).bfloat16().save_pretrained(folder / "llama-untied")
    for name in ("llama", "llama-untied"):
        (folder / name / "generation_config.json").unlink(missing_ok=True)
    # the keys of transformers 4: rope_theta and rope_scaling apart, torch_dtype, no head_dim
    path = folder / "llama-untied/config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config |= dict(rope_theta=rope.pop("rope_theta"), rope_scaling=rope, torch_dtype=config.pop("dtype"))
    del config["head_dim"]
    path.write_text(json.dumps(config, indent=2) + "\n")


def check_interesting(sae: Sae, x: Tensor) -> None:
    """Top-k with some rows short of positive latents; most thresholds positive and with values in their window."""
    pre = sae.pre_activations(x)
    if sae.architecture == "topk":
        kept = pre.topk(sae.k, 1).values
        assert (kept <= 0).any() and (kept > 0).all(1).any()
    elif sae.architecture == "jumprelu":
        inside = (pre - sae.threshold).abs() < sae.bandwidth / 2
        assert (sae.threshold > 0).all() and inside.any(0).float().mean() > 0.5


def sae_inputs(folder: Path, ids: Tensor, adapter: str | None) -> Tensor:
    """Outputs of block LAYER where an SAE is applied, [n, hidden]; with the adapter, as the student has them."""
    net = Spliced(load_exact(folder / "llama"), {}, adapter and folder / adapter)
    kept = []
    net.model.model.layers[LAYER].register_forward_hook(lambda m, i, x: kept.append(x))
    net.logits(ids, spliced=False, adapted=True)
    return kept[0][~torch.isin(ids, special_tokens(net.model.config))]


def write_saes(folder: Path, ids: Tensor, generator: torch.Generator) -> float:
    """Draws SAEs until none of their decisions is near a tie; returns the least margin."""
    x = torch.cat([sae_inputs(folder, ids, adapter) for adapter in (None, "adapter-all")])
    margins = []
    for kind in KINDS:
        for _ in range(100):
            made = random_models.sae(generator, kind, WIDTH, x, L0, apply_b_dec_to_input=kind != "jumprelu",
                                     bandwidth=BANDWIDTH)
            made.save(folder / f"sae-{kind}", LAYER, "llama")
            loaded = load_sae(folder, kind)
            if loaded.margin(x) > MARGIN:
                break
        else:
            raise SystemExit(f"no {kind} SAE with a margin of {MARGIN}")
        check_interesting(loaded, x)
        margins.append(loaded.margin(x))
    return min(margins)


def load_sae(folder: Path, kind: str, trainable: bool = False) -> Sae:
    sae = Sae.load(folder / f"sae-{kind}").double()
    sae.bandwidth = BANDWIDTH
    return sae.requires_grad_(trainable)


def gradients(named: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: p.grad.clone() for name, p in named.items()}


def forward(folder: Path, ids: Tensor, scalars: dict, load=load_exact) -> dict[str, Tensor]:
    """Hidden states, latents, logits; CE, KL and SAE statistics."""
    out, rows = {}, ids.numpy()
    out["logits_untied"] = load(folder / "llama-untied")(ids, use_cache=False).logits
    scalars["ce_untied"] = ce_sum(out["logits_untied"], ids).item() / (ids.shape[0] * (ids.shape[1] - 1))
    for kind in KINDS:
        sae = load_sae(folder, kind).to(out["logits_untied"].dtype)
        net = Spliced(load(folder / "llama"), {LAYER: sae}, folder / "adapter")
        seen = {}
        # PyTorch runs hooks in the order they were registered: this one sees what the SAE's hook returned
        net.model.model.layers[LAYER].register_forward_hook(lambda m, i, x: seen.update(block=x))
        out["logits_base"] = net.logits(ids, spliced=False, adapted=False)
        x = out["hidden"] = seen["block"]
        out[f"latents_{kind}"] = sae.encode(x)
        out[f"logits_sae_{kind}"] = net.logits(ids, spliced=True, adapted=False)
        out[f"spliced_{kind}"] = seen["block"]
        if kind == "topk":
            out["logits_adapted_topk"] = net.logits(ids, spliced=True, adapted=True)
        scalars[kind] = evaluate(net, rows)
        scalars[kind]["sae"] = scalars[kind].pop("saes")[LAYER]
        scalars[kind]["training_loss"] = training_loss(net, ids).item()
    return out


def adapt(folder: Path, ids: Tensor, scalars: dict, load=load_exact) -> dict[str, Tensor]:
    """Gradients of both adapters around each SAE; ten AdamW steps of `adapter` around the TopK SAE."""
    out, result = {}, dict(adam=ADAM, first={})
    for adapter in ("adapter", "adapter-all"):
        for kind in KINDS:
            model = load(folder / "llama")
            sae = load_sae(folder, kind).to(model.dtype)
            net = Spliced(model, {LAYER: sae}, folder / adapter, trainable=True)
            weights = net.adapter_weights()
            loss = training_loss(net, ids)
            loss.backward()
            norm = torch.nn.utils.get_total_norm([p.grad for p in weights.values()])
            result["first"][f"{adapter}/{kind}"] = dict(loss=loss.item(), grad_norm=norm.item())
            if adapter == "adapter-all" or kind == "topk":
                out |= gradients(weights, f"{adapter}/{kind}/grad/")
            if (adapter, kind) != ("adapter", "topk"):
                continue
            optimizer = torch.optim.AdamW(list(weights.values()), lr=ADAM["lr"], eps=ADAM["eps"],
                                          betas=(ADAM["beta1"], ADAM["beta2"]), weight_decay=ADAM["weight_decay"])
            losses, norms = [], []
            for _ in range(ADAM["steps"]):
                optimizer.zero_grad()
                loss = training_loss(net, ids)
                loss.backward()
                norms.append(torch.nn.utils.clip_grad_norm_(weights.values(), ADAM["clip"]).item())
                losses.append(loss.item())
                optimizer.step()
            losses.append(training_loss(net, ids).item())
            out |= {f"{adapter}/{kind}/final/{name}": p.data.clone() for name, p in weights.items()}
            state = {name: optimizer.state[p] for name, p in weights.items()}
            result |= dict(loss=losses, grad_norm=norms,
                           exp_avg_norm={n: s["exp_avg"].norm().item() for n, s in state.items()},
                           exp_avg_sq_norm={n: s["exp_avg_sq"].norm().item() for n, s in state.items()})
    scalars["adapt"] = result
    return out


def pretrain(folder: Path, ids: Tensor, scalars: dict, load=load_exact) -> dict[str, Tensor]:
    """Gradient of the mean next-token CE with respect to every weight; of the untied model only embeddings and head."""
    out = {}
    for name, wanted in (("llama", ""), ("llama-untied", ("model.embed_tokens.weight", "lm_head.weight"))):
        model = load(folder / name).requires_grad_(True)
        loss = ce_sum(model(ids, use_cache=False).logits, ids) / (ids.shape[0] * (ids.shape[1] - 1))
        loss.backward()
        scalars.setdefault("pretrain", {})[name] = dict(loss=loss.item())
        out |= gradients({n: p for n, p in model.named_parameters() if not wanted or n in wanted}, f"{name}/")
    return out


def train_sae(folder: Path, ids: Tensor, scalars: dict, load=load_exact) -> dict[str, Tensor]:
    """Gradients of each SAE for its own loss (mse) and for the KL through the rest of the model (e2e)."""
    out, base = {}, load(folder / "llama")
    x = sae_inputs(folder, ids, None).to(base.dtype)
    out["x"] = x
    for kind in KINDS:
        sae = load_sae(folder, kind, trainable=True).to(base.dtype)
        total, error, penalty = sae.training_loss(x, SPARSITY[kind])
        total.backward()
        out |= gradients(dict(sae.named_parameters()), f"{kind}/mse/")
        sae.zero_grad()
        net = Spliced(load(folder / "llama"), {LAYER: sae})
        kl = kl_sum(net.logits(ids, False, False).detach(), net.logits(ids, True, False)) / ids.shape[0]
        kl.backward()
        out |= gradients(dict(sae.named_parameters()), f"{kind}/e2e/")
        scalars.setdefault("train_sae", {})[kind] = dict(
            loss=total.item(), error=error.item(), penalty=penalty.item(), sparsity=SPARSITY[kind],
            bandwidth=BANDWIDTH if kind == "jumprelu" else None, e2e_loss=kl.item())
    return out


def all_metrics(folder: Path, ids: Tensor) -> dict:
    """What `evaluate --metrics all` measures, of two SAEs and an adapter; the second SAE is at no layer of its own."""
    model = load_exact(folder / "llama")
    saes = {LAYER: load_sae(folder, "topk"), LAYER + 1: load_sae(folder, "jumprelu")}
    net = metrics.Measured(model, {layer: sae.to(model.dtype) for layer, sae in saes.items()}, folder / "adapter")
    out = metrics.evaluate(net, ids.numpy())
    assert net.margin > 1e-5, f"a latent's decision hangs on rounding: {net.margin}"
    for tokens in out["tokens"].values():
        sizes = tokens.pop("sizes")
        tokens["counts"] = np.histogram(np.log10(sizes), np.linspace(-5, 1, 61))[0].tolist()
    return out


def compute(folder: Path, ids: Tensor, load) -> tuple[dict[str, dict[str, Tensor]], dict]:
    scalars: dict = {}
    files = {"forward": forward(folder, ids, scalars, load), "adapt": adapt(folder, ids, scalars, load),
             "pretrain": pretrain(folder, ids, scalars, load),
             "train-sae": train_sae(folder, ids, scalars, load)}
    return {f: {n: t.detach().contiguous() for n, t in ts.items()} for f, ts in files.items()}, scalars


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(20250127)
    write_models(folder, generator)
    model = load_model(folder / "llama")
    random_models.adapter(generator, model, folder / "adapter", 4, 8, [2, 3], PROJECTIONS, b_std=0.1)
    random_models.adapter(generator, model, folder / "adapter-all", 3, 6, [0, 1, 2, 3], PROJECTIONS, b_std=0.1)
    ids = random_models.samples(generator, model, 3, 24)
    np.save(folder / "tokens.npy", ids.numpy().astype(np.int32))
    margin = write_saes(folder, ids, generator)
    exact, scalars = compute(folder, ids, load_exact)
    single, _ = compute(folder, ids, load_model)  # what float32 costs, for the README
    for name, tensors in exact.items():
        save_file({n: t.float() for n, t in tensors.items()}, folder / f"{name}.safetensors")
    (folder / "scalars.json").write_text(json.dumps(scalars, indent=1) + "\n")
    (folder / "metrics.json").write_text(json.dumps(all_metrics(folder, ids), indent=1) + "\n")
    versions = dict(torch=torch.__version__, transformers=transformers.__version__, peft=peft.__version__)
    write_readme(folder, ids, margin, exact, single, versions)


if __name__ == "__main__":
    main(fixture_folder.asked_for(__doc__, "golden"))
