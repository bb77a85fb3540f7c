#!/usr/bin/env python3
"""The adapt step in PyTorch, for benchmarks: transformers + PEFT + a forward hook, AdamW, clipping.

The variants are tuning.py's; the tuned one is compiled where torch.compile works.

    adapt_step.py make DIR --shape llama-256|gemma-512 [--sae topk|jumprelu]
    adapt_step.py make DIR --shape smollm2 --model HF_DIR [--sae-layer L --sae-path DIR] [--tokens F.npy]
                           [--init-adapter DIR]
    adapt_step.py run DIR --steps N [--threads 2 --variant paper|tuned --out ADAPTER_DIR]

`make` writes model, SAE, token rows, initial adapter and job.json, so that Espalier runs on the very same files (for
smollm2, what is not given is made at random). `run` prints one JSON object: step_ms, kl per token and grad_norm of
each step, tokens_per_second of the median step, peak_rss_bytes of the process, versions, and what torch.compile said
where it failed: the step then runs without.
"""
import argparse
import json
import platform
import resource
import time
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

import family_models
import random_models
import tuning
from sae import Sae
from spliced import Spliced, load_model

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LLAMA_256 = dict(vocab_size=4096, hidden_size=256, intermediate_size=768, num_hidden_layers=6,
                 num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=1024,
                 tie_word_embeddings=True)
# Gemma 2's shape at a size that a CPU trains: `gemma-like` of `espalier bench`.
GEMMA_512 = Path(__file__).resolve().parents[2] / "engine/src/main/resources/espalier/shapes/gemma-like.json"


def make(a: argparse.Namespace) -> None:
    folder = Path(a.dir)
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(a.seed)
    job = dict(shape=a.shape, rank=16, alpha=32, lr=2e-4, weight_decay=0.0, clip=1.0, seed=a.seed)
    if a.shape == "llama-256":
        job |= dict(batch=4, context=256, layer=2, width=4096, rows=32)
        model = random_models.llama(generator, **LLAMA_256)
        model.save_pretrained(folder / "model")
        job["model"] = "model"
    elif a.shape == "gemma-512":
        job |= dict(batch=1, context=512, layer=3, width=8192, rows=8)
        config = json.loads(GEMMA_512.read_text())
        model = family_models.build(family_models.Family(a.shape, config.pop("model_type"), config), folder / "model", a.seed)
        job["model"] = "model"
    else:
        if not a.model:
            raise SystemExit("--shape smollm2 needs --model")
        model = load_model(a.model)
        job |= dict(batch=1, context=512, layer=a.sae_layer, rows=8, width=8 * model.config.hidden_size,
                    model=str(Path(a.model).resolve()))
    job["tokens"] = a.tokens and str(Path(a.tokens).resolve())
    if not a.tokens:
        rows = random_models.tokens(generator, job["rows"], job["context"], model.config.vocab_size)
        np.save(folder / "tokens.npy", rows.numpy().astype(np.int32))
        job["tokens"] = "tokens.npy"
    job["sae"] = a.sae_path and str(Path(a.sae_path).resolve())
    if not a.sae_path:
        ids = torch.from_numpy(np.load(folder / job["tokens"])[: job["rows"]].astype(np.int64))
        x = random_models.residuals(model, ids, job["layer"])
        made = random_models.sae(generator, a.sae, job["width"], x, l0=32)
        made.save(folder / "sae", job["layer"])
        job["sae"] = "sae"
        print(f"SAE {a.sae}: L0 {(made.encode(x) > 0).sum(1).double().mean():.1f}")
    job["adapter"] = a.init_adapter and str(Path(a.init_adapter).resolve())
    if not a.init_adapter:
        after = list(range(job["layer"] + 1, model.config.num_hidden_layers))
        random_models.adapter(generator, model, folder / "adapter", job["rank"], job["alpha"], after,
                              PROJECTIONS, b_std=0.0)
        job["adapter"] = "adapter"
    (folder / "job.json").write_text(json.dumps(job, indent=2) + "\n")


def loss(net: Spliced, ids: torch.Tensor, tuned: bool) -> torch.Tensor:
    base = tuning.teacher(lambda: net.logits(ids, spliced=False, adapted=False), tuned)
    return tuning.divergence(base, net.logits(ids, spliced=True, adapted=True), tuned)


def compile_forward(net: Spliced, ids: torch.Tensor) -> str:
    """Compiles the forward passes of teacher and student, and with them the backward; what torch.compile said where it
    failed, and then nothing is compiled."""
    eager = net.net.forward
    net.net.forward = torch.compile(eager, dynamic=False)
    try:
        loss(net, ids, tuned=True).backward()
        return ""
    except Exception as e:  # torch.compile has no narrower one
        net.net.forward = eager
        return f"{type(e).__name__}: {str(e).splitlines()[0][:200]}"


def run(a: argparse.Namespace) -> None:
    torch.set_num_threads(a.threads)
    folder = Path(a.dir)
    job = json.loads((folder / "job.json").read_text())
    tuned = a.variant == "tuned"
    config = transformers.AutoConfig.from_pretrained(folder / job["model"])
    attention = tuning.attention(config, tuned)
    model = load_model(folder / job["model"], attention=attention)
    net = Spliced(model, {job["layer"]: Sae.load(folder / job["sae"])}, folder / job["adapter"], trainable=True)
    net.net.train()
    rows = torch.from_numpy(np.load(folder / job["tokens"]).astype(np.int64))
    batches = rows[: len(rows) // job["batch"] * job["batch"]].view(-1, job["batch"], rows.shape[1])
    weights = list(net.adapter_weights().values())
    optimizer = tuning.adamw(weights, tuned, lr=job["lr"], weight_decay=job["weight_decay"])
    compile_error = compile_forward(net, batches[0]) if tuned else ""
    step_ms, kl, norms = [], [], []
    for step in range(a.steps):
        ids = batches[step % len(batches)]
        start = time.perf_counter()
        optimizer.zero_grad()
        kl_of_step = loss(net, ids, tuned)
        kl_of_step.backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, job["clip"])
        optimizer.step()
        step_ms.append((time.perf_counter() - start) * 1e3)
        kl.append(kl_of_step.item() / ids.shape[1])
        norms.append(norm.item())
    if a.out:
        net.net.save_pretrained(a.out)
    tokens = job["batch"] * rows.shape[1]
    median = float(np.median(step_ms))
    print(json.dumps(dict(
        step_ms=step_ms, kl=kl, grad_norm=norms, tokens_per_step=tokens, tokens_per_second=tokens / median * 1e3,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, threads=a.threads,
        variant=a.variant, attention=attention, compiled=tuned and not compile_error, compile_error=compile_error,
        versions=dict(
            python=platform.python_version(), torch=torch.__version__, transformers=transformers.__version__,
            peft=peft.__version__, torch_cpu=torch.backends.cpu.get_cpu_capability()))))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = p.add_subparsers(dest="job", required=True)
    m = jobs.add_parser("make")
    m.add_argument("dir")
    m.add_argument("--shape", choices=["llama-256", "gemma-512", "smollm2"], required=True)
    m.add_argument("--sae", choices=["topk", "jumprelu"], default="topk")
    m.add_argument("--seed", type=int, default=1)
    m.add_argument("--model")
    m.add_argument("--sae-layer", type=int, default=14)
    m.add_argument("--sae-path")
    m.add_argument("--tokens")
    m.add_argument("--init-adapter")
    r = jobs.add_parser("run")
    r.add_argument("dir")
    r.add_argument("--steps", type=int, default=12)
    r.add_argument("--threads", type=int, default=2)
    r.add_argument("--variant", choices=["paper", "tuned"], default="paper")
    r.add_argument("--out")
    a = p.parse_args()
    transformers.utils.logging.disable_progress_bar()
    make(a) if a.job == "make" else run(a)


if __name__ == "__main__":
    main()
