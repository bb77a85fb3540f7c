#!/usr/bin/env python3
"""A training step in PyTorch on a model's shape with random weights: the other side of `espalier bench` and of
bench/'s StepBenchmark.

    gpu_step.py --config CONFIG.json [--variant paper,tuned,compiled,compiled-graphs] [--train adapters|sae]
                [--context 1024 --batch 1 --sae-width 16384 --l0 70 --sae-layer L --rank 64 --layers after|all --steps 8
                --threads N --device cuda|cpu --dtype f32|bf16]

adapters: the adapt step, around a frozen SAE. sae: the end-to-end step, in which the SAE alone learns from the KL behind
it, and from a pull towards its number of active latents with straight-through thresholds (float32).

paper and tuned: as tuning.py has them, with PEFT and the SAE in a forward hook.
compiled: tuned, with the forward pass through torch.compile, which takes minutes.
compiled-graphs: the same in mode reduce-overhead, whose forward and backward passes are replayed CUDA graphs.
Adapters in bf16 on a GPU and float32 on a CPU, where --dtype says nothing else. Prints one JSON object a variant, with the
fields of `espalier bench --json`; a variant that fails (for want of memory, say) prints its error instead of figures, and
the exit code is 3.
"""
import argparse
import contextlib
import json
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from peft import LoraConfig, get_peft_model

import tuning
from sae import JumpRelu, Step as StraightThroughStep

GRAPHS = "compiled-graphs"
VARIANTS = ["paper", "tuned", "compiled", GRAPHS]
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class JumpReluSae(torch.nn.Module):
    """x -> (z > threshold) relu(z) W_dec with z = x W_enc, dense as SAELens computes it; special positions keep x."""

    def __init__(self, width: int, latents: int, device: str, dtype: torch.dtype):
        super().__init__()
        bound = (3 / width) ** 0.5  # rows of length about 1
        def uniform(*shape: int) -> torch.Tensor:
            return torch.empty(shape, device=device, dtype=dtype).uniform_(-bound, bound)
        self.register_buffer("w_enc", uniform(width, latents))
        self.register_buffer("w_dec", uniform(latents, width))
        self.register_buffer("b_enc", torch.zeros(latents, device=device, dtype=dtype))
        self.register_buffer("b_dec", torch.zeros(width, device=device, dtype=dtype))
        self.register_buffer("threshold", torch.zeros((), device=device, dtype=dtype))

    @torch.no_grad()
    def fit(self, x: torch.Tensor, l0: int) -> None:
        """Sets the threshold above which l0 latents lie on average, on a few tokens x [tokens, width]."""
        z = (x @ self.w_enc).float().flatten()
        above = min(x.shape[0] * l0, z.numel() // 4)
        self.threshold.copy_(z.sort(descending=True).values[above])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = x @ self.w_enc + self.b_enc
        return (F.relu(z) * (z > self.threshold)) @ self.w_dec + self.b_dec


class TrainedJumpReluSae(JumpReluSae):
    """The same with everything trained; active is the mean number of active latents of the last tokens."""

    BANDWIDTH = 0.2

    def learn(self) -> None:
        for name, value in list(self.named_buffers()):
            delattr(self, name)
            value = value.expand(self.w_enc.shape[1]).clone() if name == "threshold" else value
            self.register_parameter(name, torch.nn.Parameter(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = x @ self.w_enc + self.b_enc
        self.active = StraightThroughStep.apply(z, self.threshold, self.BANDWIDTH).sum(-1).mean()
        return JumpRelu.apply(z, self.threshold, self.BANDWIDTH) @ self.w_dec + self.b_dec


class Step:
    """Model, SAE, what is trained, and optimizer of one variant."""

    def __init__(self, a: argparse.Namespace, variant: str):
        self.tuned = tuned = variant != "paper"
        self.graphs = variant == GRAPHS
        self.l0 = a.l0
        self.trains_sae = a.train == "sae"
        torch.manual_seed(1)
        dtype = torch.bfloat16 if a.dtype == "bf16" else torch.float32
        config = transformers.AutoConfig.for_model(**json.loads(a.config.read_text()))
        self.attention = tuning.attention(config, tuned)
        config._attn_implementation = self.attention
        config.use_cache = False
        previous = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        with torch.device(a.device):
            model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=self.attention)
        torch.set_default_dtype(previous)
        self.layer = (config.num_hidden_layers - 1) // 2 if a.sae_layer is None else a.sae_layer
        kind = TrainedJumpReluSae if self.trains_sae else JumpReluSae
        self.sae = kind(config.hidden_size, a.sae_width, a.device, dtype)
        self.ids = torch.randint(config.vocab_size, (a.batch, a.context), device=a.device)
        special = torch.tensor([i for i in (config.bos_token_id, config.eos_token_id) if i is not None], device=a.device)
        self.keep = torch.isin(self.ids, special).unsqueeze(-1)
        self.spliced = False
        block = model.model.layers[self.layer]
        self.fit(model, block, a.l0)
        block.register_forward_hook(self.splice)
        if self.trains_sae:
            self.net = model.requires_grad_(False)
            self.original = contextlib.nullcontext
            self.sae.learn()
            self.weights = list(self.sae.parameters())
        else:
            first = 0 if a.layers == "all" else self.layer + 1
            lora = LoraConfig(r=a.rank, lora_alpha=2 * a.rank, lora_dropout=0.0, target_modules=PROJECTIONS,
                              layers_to_transform=list(range(first, config.num_hidden_layers)))
            self.net = get_peft_model(model, lora, autocast_adapter_dtype=False)
            self.original = self.net.disable_adapter
            self.weights = [p for p in self.net.parameters() if p.requires_grad]
        self.optimizer = tuning.adamw(self.weights, tuned, lr=1e-4, weight_decay=0.0)
        self.forward = self.net.forward
        if variant.startswith("compiled"):
            self.forward = torch.compile(self.net, dynamic=False, mode="reduce-overhead" if self.graphs else None)
        if self.graphs:  # what else stays where it is and need not be copied for a replay; the model's weights are known to
            for tensor in (self.ids, self.keep, *self.sae.parameters(), *self.sae.buffers()):
                torch._dynamo.mark_static_address(tensor)

    def fit(self, model: torch.nn.Module, block: torch.nn.Module, l0: int) -> None:
        kept = []
        handle = block.register_forward_hook(lambda m, i, out: kept.append(out[0] if isinstance(out, tuple) else out))
        with torch.no_grad():
            model.model(self.ids[:1])
        handle.remove()
        x = kept[0].reshape(-1, kept[0].shape[-1])
        self.sae.fit(x[:: max(1, len(x) // 16)], l0)

    def splice(self, _module, _inputs, out):
        if not self.spliced:
            return out
        x = out[0] if isinstance(out, tuple) else out
        y = torch.where(self.keep, x, self.sae(x))
        return (y, *out[1:]) if isinstance(out, tuple) else y

    def logits(self, spliced: bool) -> torch.Tensor:
        self.spliced = spliced
        if self.graphs:  # a replay writes over the results of those before; nothing of them is needed any more
            torch.compiler.cudagraph_mark_step_begin()
        return self.forward(self.ids).logits

    def run(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        with self.original():
            base = tuning.teacher(lambda: self.logits(False), self.tuned)
        loss = tuning.divergence(base, self.logits(True), self.tuned)
        pull = (self.sae.active / self.l0 - 1) ** 2 if self.trains_sae else 0
        (loss + pull).backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        return loss.detach()


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure(a: argparse.Namespace, variant: str) -> dict:
    step = Step(a, variant)
    for _ in range(a.warm):
        step.run()
    synchronize(a.device)
    if a.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(a.steps):
        start = time.perf_counter()
        loss = step.run()
        synchronize(a.device)
        times.append((time.perf_counter() - start) * 1e3)
    median = statistics.median(times)
    tokens = a.batch * a.context
    result = dict(attention=step.attention, step_ms=median, fastest_ms=min(times),
                  slowest_ms=max(times), tokens_per_second=tokens / median * 1e3, sae_layer=step.layer,
                  last_kl=loss.item() / a.context)
    if a.device == "cuda":
        result["peak_bytes"] = torch.cuda.max_memory_allocated()
    return result


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", type=Path, required=True)
    p.add_argument("--variant", type=lambda names: names.split(","), default=VARIANTS[:2])
    p.add_argument("--train", choices=["adapters", "sae"], default="adapters")
    p.add_argument("--threads", type=int, help="of a CPU")
    p.add_argument("--context", type=int, default=1024)
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--sae-width", type=int, default=16384)
    p.add_argument("--sae-layer", type=int)
    p.add_argument("--l0", type=int, default=70)
    p.add_argument("--rank", type=int, default=64)
    p.add_argument("--layers", choices=["after", "all"], default="after")
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--warm", type=int, default=3, help="steps before those that are counted")
    p.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--dtype", choices=["f32", "bf16"])
    a = p.parse_args()
    a.dtype = a.dtype or ("bf16" if a.device == "cuda" and a.train == "adapters" else "f32")
    if a.train == "sae" and a.dtype != "f32":
        p.exit(2, "--dtype bf16: SAEs are trained in f32\n")
    if GRAPHS in a.variant and a.device != "cuda":
        p.exit(2, f"--variant {GRAPHS}: CUDA graphs need --device cuda\n")
    if set(a.variant) - set(VARIANTS):
        p.error(f"--variant {','.join(a.variant)}: some of {','.join(VARIANTS)}")
    transformers.utils.logging.set_verbosity_error()
    if a.threads:
        torch.set_num_threads(a.threads)
    failed = False
    for variant in a.variant:
        line = dict(measured="adapt step" if a.train == "adapters" else "e2e step", side="pytorch", variant=variant, shape=a.config.stem,
                    device=torch.cuda.get_device_name() if a.device == "cuda" else "cpu",
                    dtype=a.dtype, context=a.context, batch=a.batch,
                    sae_width=a.sae_width, l0=a.l0, rank=a.rank, layers=a.layers, steps=a.steps,
                    torch=torch.__version__, transformers=transformers.__version__)
        try:
            line |= measure(a, variant)
        except Exception as e:  # out of memory, or whatever torch.compile throws
            line["error"] = f"{type(e).__name__}: {str(e).splitlines()[0][:300]}"
            failed = True
        print(json.dumps(line), flush=True)
        if a.device == "cuda":
            torch.cuda.empty_cache()
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
