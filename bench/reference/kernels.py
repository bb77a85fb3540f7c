#!/usr/bin/env python3
"""The PyTorch side of bench/'s JMH benchmarks: the same work on the same shapes, timed alone.

    kernels.py --check
    kernels.py --cases '[{"case": "attention", "shape": [1, 512, 9, 3, 64]}]' [--threads 2 --seconds 1
               --without-compile --device cpu|cuda --dtype f32|bf16]

Prints a JSON object for each figure: case, its parameters, figure ("forward", say), variant, seconds of a call. A case's
"figures" restrict it to some. Variants:
    eager     as the libraries that people use write it: transformers' eager attention, PEFT's chain of products, dense
              latents (the CPU path of sparsify, SAELens), softmax and log_softmax of whole logits
    tuned     the best that PyTorch's own operations give by hand: SDPA, addmm, embedding_bag over lists of latents
    compiled  torch.compile of the eager one, where it works; where it does not, "error" instead of "seconds"
Forward passes alone run in inference_mode. A figure is the mean over calls that fill --seconds, after calls that are not
counted; a GPU is waited for after each, as JMH's side does.
"""
import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator

import torch
import torch._functorch.config
import torch.nn.functional as F

import tuning

Figure = tuple[str, str, Callable[[], object]]  # figure, variant, a call


class Bench:
    """Operands of the device and type that were asked for."""

    def __init__(self, a: argparse.Namespace):
        self.device = a.device
        self.dtype = torch.bfloat16 if a.dtype == "bf16" else torch.float32
        self.seconds = a.seconds

    def random(self, *shape: int, scale: float = 1.0, trained: bool = False) -> torch.Tensor:
        x = torch.empty(shape, device=self.device, dtype=self.dtype).uniform_(-1, 1) * (scale * 3 ** 0.5)
        return x.requires_grad_(trained)

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def time(self, call: Callable[[], object]) -> float:
        """Mean seconds of a call."""
        end = time.perf_counter() + self.seconds / 3
        call()  # compiles, where there is something to compile
        call()
        self.wait()
        while time.perf_counter() < end:
            call()
            self.wait()
        calls, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < self.seconds or calls < 2:
            call()
            self.wait()
            calls += 1
        return elapsed / calls


def inference(call: Callable[[], object]) -> Callable[[], object]:
    @torch.inference_mode()
    def run() -> object:
        return call()
    return run


def backward(forward: Callable[[], torch.Tensor], inputs: list[torch.Tensor],
             gradient: torch.Tensor) -> Callable[[], object]:
    """The backward pass alone, again and again through one graph, which the first call makes."""
    graph: list[torch.Tensor] = []

    def run() -> object:
        if not graph:
            graph.append(forward())
        return torch.autograd.grad(graph[0], inputs, gradient, retain_graph=True)
    return run


def product(b: Bench, edge: int) -> Iterator[Figure]:
    x, w = b.random(edge, edge), b.random(edge, edge)
    y = torch.empty_like(x)
    yield "product", "eager", inference(lambda: torch.mm(x, w.T, out=y))


def copy(b: Bench, edge: int) -> Iterator[Figure]:
    x = b.random(16 * edge, edge)
    y = torch.empty_like(x)
    yield "copy", "eager", inference(lambda: y.copy_(x))


def top_k(pre: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of relu(pre), as sparsify and dictionary_learning choose them."""
    return pre.relu().topk(k, dim=-1, sorted=False)


def spread(values: torch.Tensor, indices: torch.Tensor, latents: int) -> torch.Tensor:
    return values.new_zeros(values.shape[0], latents).scatter_(-1, indices, values)


def bag(indices: torch.Tensor, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """sum_j values[t, j] weights[indices[t, j]]"""
    return F.embedding_bag(indices, weights, per_sample_weights=values, mode="sum")


def sae(b: Bench, tokens: int, d: int, latents: int, k: int, kind: str = "TOPK") -> Iterator[Figure]:
    """A frozen SAE: encode, decode, and the gradient of x from that of the output. Latents [tokens, latents] are dense
    but in "tuned", which keeps the lists of a TopK SAE."""
    x = b.random(tokens, d, trained=True)
    w_enc, b_enc = b.random(latents, d, scale=d ** -0.5), torch.zeros(latents, device=b.device, dtype=b.dtype)
    w_dec, b_dec = b.random(latents, d, scale=d ** -0.5), torch.zeros(d, device=b.device, dtype=b.dtype)
    d_out = b.random(tokens, d)
    threshold = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(1 - k / latents)).to(b.device, b.dtype)

    def encode() -> torch.Tensor:
        pre = F.linear(x, w_enc, b_enc)
        if kind == "JUMPRELU":
            return pre.relu() * (pre > threshold)
        return spread(*top_k(pre, k), latents)

    def decode(f: torch.Tensor) -> torch.Tensor:
        return torch.addmm(b_dec, f, w_dec)

    with torch.inference_mode():
        f = encode().clone()
        values, indices = top_k(F.linear(x, w_enc, b_enc), k)
    yield "encode", "eager", inference(encode)
    yield "encode", "compiled", inference(torch.compile(encode))
    yield "decode", "eager", inference(lambda: decode(f))
    yield "backward", "eager", backward(lambda: decode(encode()), [x], d_out)
    if kind == "TOPK":
        yield "encode", "tuned", inference(lambda: top_k(F.linear(x, w_enc, b_enc), k))
        yield "decode", "tuned", inference(lambda: bag(indices, w_dec, values) + b_dec)

        def gradient() -> torch.Tensor:
            d_values = torch.bmm(w_dec[indices], d_out.unsqueeze(2)).squeeze(2)
            return bag(indices, w_enc, d_values)
        yield "backward", "tuned", inference(gradient)


class SparseEncoder(torch.autograd.Function):
    """(values, indices) of the k largest of relu(x W^T + b); backward over those alone."""

    @staticmethod
    def forward(ctx, x, w, bias, k):
        values, indices = top_k(F.linear(x, w, bias), k)
        ctx.save_for_backward(x, w, bias, indices, values)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    def backward(ctx, d_values, _):
        x, w, bias, indices, values = ctx.saved_tensors
        d_values = d_values * (values > 0)
        d_w, d_bias = torch.zeros_like(w), torch.zeros_like(bias)
        rows = d_values.unsqueeze(2) * x.unsqueeze(1)
        d_w.index_add_(0, indices.flatten(), rows.flatten(0, 1))
        d_bias.index_add_(0, indices.flatten(), d_values.flatten())
        return bag(indices, w, d_values), d_w, d_bias, None


def sae_training(b: Bench, tokens: int, d: int, latents: int, k: int) -> Iterator[Figure]:
    """A step of training a TopK SAE on given activations: mean squared error, the decoder's parallel gradient removed,
    AdamW, rows of the decoder of norm 1. eager: dense latents, as sparsify has it on a CPU."""
    x, start = b.random(tokens, d), b.random(latents, d)

    def step(reconstruct: Callable[..., torch.Tensor], tuned: bool) -> Callable[[], object]:
        w_dec = F.normalize(start, dim=1)
        w_enc = w_dec.clone().requires_grad_()
        w_dec.requires_grad_()
        b_enc = torch.zeros(latents, device=b.device, requires_grad=True)
        b_dec = torch.zeros(d, device=b.device, requires_grad=True)
        optimizer = tuning.adamw([w_enc, b_enc, w_dec, b_dec], tuned, lr=1e-4, weight_decay=0.0)

        def run() -> torch.Tensor:
            optimizer.zero_grad()
            loss = F.mse_loss(reconstruct(x - b_dec, w_enc, b_enc, w_dec) + b_dec, x)
            loss.backward()
            with torch.no_grad():
                w_dec.grad.sub_(w_dec * (w_dec.grad * w_dec).sum(1, keepdim=True))
                optimizer.step()
                w_dec.div_(w_dec.norm(dim=1, keepdim=True))
            return loss.detach()
        return run

    def dense(z, w_enc, b_enc, w_dec):
        return spread(*top_k(F.linear(z, w_enc, b_enc), k), latents) @ w_dec

    def sparse(z, w_enc, b_enc, w_dec):
        values, indices = SparseEncoder.apply(z, w_enc, b_enc, k)
        return bag(indices, w_dec, values)

    yield "step", "eager", step(dense, False)
    yield "step", "tuned", step(sparse, True)


def lora(b: Bench, tokens: int, inputs: int, outputs: int, rank: int) -> Iterator[Figure]:
    """A frozen linear layer with an adapter, as PEFT computes it."""
    x = b.random(tokens, inputs, trained=True)
    w = b.random(outputs, inputs, scale=inputs ** -0.5)
    down, up = b.random(rank, inputs, trained=True), b.random(outputs, rank, trained=True)
    d_y = b.random(tokens, outputs)

    def chain() -> torch.Tensor:
        return F.linear(x, w) + F.linear(F.linear(x, down), up) * 2.0

    def added() -> torch.Tensor:
        return torch.addmm(F.linear(x, w), F.linear(x, down), up.T, alpha=2.0)

    for variant, layer in (("eager", chain), ("tuned", added), ("compiled", torch.compile(chain))):
        yield "forward", variant, inference(layer)
        yield "backward", variant, backward(layer, [x, down, up], d_y)


def attention(b: Bench, shape: list[int], softcap: float = 0, window: int = 0) -> Iterator[Figure]:
    """eager: transformers' eager attention. tuned: SDPA, which knows neither caps nor windows but as masks."""
    batch, length, heads, kv_heads, head_dim = shape
    q = b.random(batch, heads, length, head_dim, trained=True)
    k = b.random(batch, kv_heads, length, head_dim, trained=True)
    v = b.random(batch, kv_heads, length, head_dim, trained=True)
    d_out = b.random(batch, heads, length, head_dim)
    position = torch.arange(length, device=b.device)
    distance = position.unsqueeze(1) - position
    seen = (distance >= 0) & (distance < window) if window else distance >= 0
    mask = torch.zeros(length, length, device=b.device, dtype=b.dtype).masked_fill(~seen, torch.finfo(b.dtype).min)
    group = heads // kv_heads

    def eager() -> torch.Tensor:
        scores = q @ k.repeat_interleave(group, 1).transpose(2, 3) * head_dim ** -0.5
        if softcap:
            scores = torch.tanh(scores / softcap) * softcap
        p = F.softmax(scores + mask, dim=-1, dtype=torch.float32).to(b.dtype)
        return p @ v.repeat_interleave(group, 1)

    def sdpa() -> torch.Tensor:
        if window:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    variants = [("eager", eager), ("compiled", torch.compile(eager))]
    if not softcap:
        variants.append(("tuned", sdpa))
    for variant, layer in variants:
        yield "forward", variant, inference(layer)
        yield "backward", variant, backward(layer, [q, k, v], d_out)


def head(b: Bench, tokens: int, d: int, vocab: int, softcap: float = 0) -> Iterator[Figure]:
    """KL(teacher || student) through the head, and the student's gradient. The teacher's logits need none."""
    student, teacher = b.random(tokens, d, trained=True), b.random(tokens, d)
    w = b.random(vocab, d, scale=d ** -0.5)

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        z = F.linear(hidden, w)
        return torch.tanh(z / softcap) * softcap if softcap else z

    def kl(target: torch.Tensor, log_target: bool) -> torch.Tensor:
        loss = F.kl_div(F.log_softmax(logits(student).float(), -1), target, reduction="sum", log_target=log_target)
        return torch.autograd.grad(loss, student)[0]

    def eager() -> torch.Tensor:
        with torch.no_grad():
            base = F.softmax(logits(teacher).float(), -1)
        return kl(base, False)

    def by_hand() -> torch.Tensor:
        """No graph: the gradient is (p_student - p_teacher) W."""
        base, new = F.log_softmax(logits(teacher).float(), -1), F.log_softmax(logits(student).float(), -1)
        p = base.exp()
        torch.sum(p * (base - new), -1)
        return (new.exp_() - p).to(b.dtype) @ w

    yield "kl", "eager", eager
    if not softcap:
        yield "kl", "tuned", inference(by_hand)
        yield "kl", "compiled", inference(torch.compile(by_hand))


CASES = dict(product=product, copy=copy, sae=sae, sae_training=sae_training, lora=lora, attention=attention, head=head)


SMALL = [dict(case="sae", tokens=40, d=32, latents=200, k=8), dict(case="sae", tokens=40, d=32, latents=200, k=8, kind="JUMPRELU"),
         dict(case="sae_training", tokens=40, d=32, latents=200, k=8), dict(case="lora", tokens=40, inputs=32, outputs=50, rank=4),
         dict(case="attention", shape=[2, 40, 4, 2, 16]), dict(case="attention", shape=[1, 40, 4, 2, 16], softcap=5, window=9),
         dict(case="head", tokens=40, d=32, vocab=300), dict(case="head", tokens=40, d=32, vocab=300, softcap=5)]


def dense(result: object, latents: int) -> torch.Tensor:
    """One vector of whatever a call gives: a tensor, gradients, or (values, indices) of latents."""
    if isinstance(result, tuple) and result[-1].dtype == torch.int64:
        result = spread(*result, latents)
    return torch.cat([part.detach().flatten() for part in (result if isinstance(result, tuple) else (result,))])


def check(b: Bench, compile_too: bool) -> int:
    """That all variants compute the same, on small shapes; the number of those that do not."""
    wrong = 0
    for case in SMALL:
        eager: dict[str, torch.Tensor] = {}
        for figure, variant, call in CASES[case["case"]](b, **{k: v for k, v in case.items() if k != "case"}):
            if variant == "compiled" and not compile_too:
                continue
            for _ in range(3):  # the third step of training depends on the gradients of two
                got = dense(call(), case.get("latents", 0)).double()
            expected = eager.setdefault(figure, got)
            difference = ((got - expected).norm() / expected.norm()).item()
            agrees = difference < (1e-5 if b.dtype == torch.float32 else 2e-2)
            wrong += not agrees
            if variant != "eager":
                print(f"{'agrees' if agrees else 'DIFFERS'} {difference:.1e} {case} {figure} {variant}", file=sys.stderr)
    return wrong


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cases", default=[], type=json.loads)
    p.add_argument("--check", action="store_true", help="that all variants compute the same, on small shapes")
    p.add_argument("--without-compile", action="store_true")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--seconds", type=float, default=1.0)
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    torch._functorch.config.donated_buffer = False  # compiled backward passes run again and again, too
    b = Bench(a)
    if a.check and check(b, not a.without_compile):
        return 1
    for case in a.cases:
        parameters = {name: value for name, value in case.items() if name not in ("case", "figures")}
        for figure, variant, call in CASES[case["case"]](b, **parameters):
            if figure not in case.get("figures", [figure]) or (a.without_compile and variant == "compiled"):
                continue
            line = case | dict(figure=figure, variant=variant, torch=torch.__version__)
            try:
                line["seconds"] = b.time(call)
            except Exception as e:  # torch.compile has no narrower one
                line["error"] = f"{type(e).__name__}: {str(e).splitlines()[0][:200]}"
            print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
