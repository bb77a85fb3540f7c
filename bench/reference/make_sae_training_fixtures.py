#!/usr/bin/env python3
"""Writes the golden fixtures of SAE training: losses and every gradient of each architecture, in float64 by autograd
from dense definitions, and of the objectives that go through a language model (the golden llama).

    make_sae_training_fixtures.py [FOLDER]        default: engine/src/test/resources/sae-training

architectures.safetensors: ARCH/NAME a parameter, ARCH/grad/NAME its gradient, x [T, d], silent [m]. Encoders are stored
with a latent a row, [m, d]. objectives.safetensors: OBJECTIVE/KIND/NAME the gradient of a golden SAE's parameter.
expected.json: sizes, coefficients and losses.
"""
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

import fixture_folder
from exact import load_exact
from sae import JumpRelu, Sae, Step
from spliced import special_tokens

T, D, M, K, AUX_K = 24, 12, 40, 5, 3
PREFIXES = [7, 20, M]
KEPT = [0, 13]
BANDWIDTH, L1, STRENGTH, TARGET, ALPHA = 0.5, 0.03, 0.7, 6, 1 / 32
DEAD_AFTER = 100
MARGIN = 1e-3  # least distance of a pre-activation from a decision
ARCHITECTURES = ("standard", "gated", "jumprelu", "topk", "batchtopk", "matryoshka")


def parameters(arch: str, generator: torch.Generator) -> dict[str, Tensor]:
    def normal(*shape, std):
        return (torch.randn(*shape, generator=generator) * std).double()

    w_dec = torch.nn.functional.normalize(normal(M, D, std=1.0), dim=1)
    out = dict(W_enc=(w_dec + normal(M, D, std=0.1)).float().double(), b_enc=normal(M, std=0.1),
               W_dec=w_dec.float().double(), b_dec=normal(D, std=0.3))
    if arch in ("topk", "batchtopk", "matryoshka"):
        out["b_enc"][::3] -= 1.2  # seldom among the largest, and yet positive
    if arch == "jumprelu":
        out["threshold"] = normal(M, std=0.2).abs() + 0.2
        out["threshold"][::3] += 1.5
    if arch == "gated":
        out |= dict(r_mag=normal(M, std=0.3), b_mag=normal(M, std=0.5))
    return {n: t.requires_grad_(True) for n, t in out.items()}


def largest(values: Tensor, k: int) -> Tensor:
    """A mask of the k largest of each row; of all rows together for values of one dimension."""
    return torch.zeros_like(values).scatter(-1, values.topk(k, dim=-1).indices, 1.0)


class Case:
    """One architecture on x [n, d], the rows that are not kept."""

    def __init__(self, arch: str, p: dict[str, Tensor], x: Tensor, silent: Tensor):
        self.arch, self.p, self.x = arch, p, x
        self.z = (x - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]  # [n, m]
        self.gaps = []  # distances from decisions
        self.f = getattr(self, arch)()
        self.fired = (self.f.detach() != 0)
        self.dead = (silent + len(x) > DEAD_AFTER) & ~self.fired.any(0)

    def standard(self) -> Tensor:
        self.gaps.append(self.z)
        return self.z.relu()

    def gated(self) -> Tensor:
        p = self.z - self.p["b_enc"]
        magnitude = torch.exp(self.p["r_mag"]) * p + self.p["b_mag"]
        self.gaps += [self.z, magnitude]
        return magnitude.relu() * (self.z > 0)

    def jumprelu(self) -> Tensor:
        distance = (self.z - self.p["threshold"]).abs()
        self.gaps += [distance, distance - BANDWIDTH / 2]
        return JumpRelu.apply(self.z, self.p["threshold"], BANDWIDTH)

    def topk(self) -> Tensor:
        best = self.z.topk(K + 1, 1).values
        self.gaps += [best[:, -2] - best[:, -1], best]
        return self.z.relu() * largest(self.z, K)

    def batchtopk(self) -> Tensor:
        flat = self.z.flatten()
        best = flat.topk(K * len(self.x) + 1).values
        self.gaps += [best[-2] - best[-1]]
        self.smallest = best[-2].item()
        assert self.smallest > 0
        return (flat.relu() * largest(flat, K * len(self.x))).view_as(self.z)

    matryoshka = batchtopk

    def reconstruct(self, f: Tensor, latents: int = M) -> Tensor:
        return f[:, :latents] @ self.p["W_dec"][:latents] + self.p["b_dec"]

    def losses(self) -> dict[str, Tensor]:
        """Each a part of the whole loss."""
        per_element, per_token = 1 / (T * D), 1 / T
        prefixes = PREFIXES if self.arch == "matryoshka" else [M]
        out = dict(error=sum((self.x - self.reconstruct(self.f, n)).pow(2).sum() for n in prefixes) * per_element)
        if self.arch == "standard":
            out["l1"] = L1 * per_token * self.f.sum()
        elif self.arch == "gated":
            gates = self.z.relu()
            frozen = gates @ self.p["W_dec"].detach() + self.p["b_dec"].detach()
            out["l1"] = L1 * per_token * gates.sum()
            out["gates"] = (self.x - frozen).pow(2).sum() * per_element
        elif self.arch == "jumprelu":
            l0 = Step.apply(self.z, self.p["threshold"], BANDWIDTH).sum() / len(self.x)
            out["l0"] = STRENGTH * (l0 / TARGET - 1) ** 2
        residual = (self.x - self.reconstruct(self.f)).detach()
        candidates = torch.where(self.dead, self.z, -torch.inf)
        k = min(AUX_K, int(self.dead.sum()))
        if k:
            best = candidates.topk(k + 1 if k < self.dead.sum() else k, 1).values
            self.gaps += [best] + ([best[:, -2] - best[:, -1]] if k < self.dead.sum() else [])
            chosen = largest(candidates, k)
            revived = (torch.where(self.dead, self.z, 0.0).relu() * chosen) @ self.p["W_dec"]
            out["auxiliary"] = ALPHA * (residual - revived).pow(2).sum() * per_element
        else:
            out["auxiliary"] = ALPHA * residual.pow(2).sum() * per_element
        return out

    def margin(self) -> float:
        return min(g.detach().abs().min().item() for g in self.gaps)


def architectures(expected: dict) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(20261127)
    x = (torch.randn(T, D, generator=generator) + 0.3).double()
    silent = torch.where(torch.arange(M) % 3 == 0, 90.0, 20.0).double()
    use = torch.ones(T, dtype=torch.bool)
    use[KEPT] = False
    out = {"x": x, "silent": silent}
    for arch in ARCHITECTURES:
        while True:
            p = {n: t.detach().float().double().requires_grad_(True) for n, t in parameters(arch, generator).items()}
            case = Case(arch, p, x[use], silent)
            losses = case.losses()
            revives = arch in ("standard", "gated") or (case.dead.sum() > AUX_K and (case.z[:, case.dead] > 0).any(1).float().mean() > 0.3)
            if case.margin() > MARGIN and revives:
                break
        sum(losses.values()).backward()
        expected[arch] = {n: v.item() for n, v in losses.items()} | dict(
            active=int(case.fired.sum()), dead=int(case.dead.sum()), threshold=getattr(case, "smallest", None))
        out |= {f"{arch}/{n}": t for n, t in p.items()} | {f"{arch}/grad/{n}": t.grad for n, t in p.items()}
    return out


OBJECTIVES = {"e2e+ds": ("topk",), "kl-finetune": ("topk", "jumprelu")}
LAYER, KL_WEIGHT, DOWNSTREAM = 1, 0.5, 2.5


def through_model(expected: dict) -> dict[str, Tensor]:
    """The golden llama with a golden SAE at block LAYER: means over all positions, BOS and EOS keep their true
    activations."""
    import numpy as np

    folder, out = fixture_folder.RESOURCES / "golden", {}
    ids = torch.from_numpy(np.load(folder / "tokens.npy").astype(np.int64))
    for objective, kinds in OBJECTIVES.items():
        for kind in kinds:
            model = load_exact(folder / "llama")
            sae = Sae.load(folder / f"sae-{kind}").double().requires_grad_(True)
            sae.bandwidth = BANDWIDTH
            use = ~torch.isin(ids, special_tokens(model.config))
            streams: dict[bool, dict[int, Tensor]] = {False: {}, True: {}}
            spliced = False
            error = None

            def hook(layer):
                def run(_module, _inputs, output):
                    nonlocal error
                    y = output
                    if layer == LAYER and spliced:
                        x = output.flatten(0, 1)
                        y = sae(x).view_as(output)
                        error = (y - output)[use].pow(2).sum() / output.numel()
                        y = torch.where(use[..., None], y, output)
                    streams[spliced][layer] = y
                    return y
                return run

            for layer, block in enumerate(model.model.layers):
                block.register_forward_hook(hook(layer))
            with torch.no_grad():
                base = model(ids, use_cache=False).logits.log_softmax(-1)
            spliced = True
            new = model(ids, use_cache=False).logits.log_softmax(-1)
            kl = (base.exp() * (base - new)).sum() / ids.numel()
            losses = dict(kl=kl, error=error)
            if objective == "e2e+ds":
                later = range(LAYER + 1, model.config.num_hidden_layers - 1)
                losses["downstream"] = sum(
                    (streams[True][i] - streams[False][i]).pow(2).mean() for i in later) / len(later)
                total = KL_WEIGHT * kl + DOWNSTREAM * losses["downstream"]
            else:
                total = 0.5 * (kl * (error / kl).detach() + error)
            total.backward()
            expected[f"{objective}/{kind}"] = {n: v.item() for n, v in losses.items()}
            for name, p in sae.named_parameters():
                gradient = p.grad.T if name == "W_enc" else p.grad
                out[f"{objective}/{kind}/{name}"] = gradient.contiguous()
    return out


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    expected: dict = dict(
        sizes=dict(tokens=T, d=D, m=M, k=K, aux_k=AUX_K, prefixes=PREFIXES, kept=KEPT, dead_after=DEAD_AFTER),
        coefficients=dict(bandwidth=BANDWIDTH, l1=L1, strength=STRENGTH, target=TARGET, alpha=ALPHA))
    for name, tensors in (("architectures", architectures(expected)), ("objectives", through_model(expected))):
        save_file({n: t.detach().float().contiguous() for n, t in tensors.items()}, folder / f"{name}.safetensors")
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(fixture_folder.asked_for(__doc__, "sae-training"))
