"""The README of the golden fixtures: every tensor, its shape and meaning, and what float32 costs."""
from pathlib import Path

from torch import Tensor

TEXT = """# Golden fixtures

Written by `bench/reference/make_fixtures.py`: run it again rather than edit. Inputs are in the layouts of their own
libraries. Expected values were computed in float64 throughout; `*.safetensors` store them as float32, `*.json` in full.
{versions}.

| input | what it is |
|---|---|
| `llama/` | LlamaForCausalLM, float32, tied head: hidden 42, 4 layers, 6 heads and 2 KV heads of 8, ffn 46, vocab 67, llama3 rope (original length 64, factor 8). As transformers 5 writes it |
| `llama-untied/` | the same family, bfloat16, own `lm_head`: hidden 40, 2 layers, 5 heads and 1 KV head, ffn 50; config with transformers 4's keys (`rope_theta`, `rope_scaling`, `torch_dtype`, no `head_dim`) |
| `sae-topk/`, `sae-jumprelu/`, `sae-standard/` | SAELens layout, width 64, for block 1 of `llama`. topk: k 9, and in some rows fewer latents are positive; jumprelu does not subtract `b_dec` from its input |
| `adapter/` | PEFT LoRA of `llama`: all seven projections of layers 2 and 3, r 4, alpha 8, B not zero |
| `adapter-all/` | the same for layers 0 to 3, r 3, alpha 6: its gradients pass through the SAE |
| `tokens.npy` | int32 [3, 24]: each row has BOS (1) first and one EOS (2) inside. At these positions the SAE is not applied |

`n` = {n} is the number of positions that are neither BOS nor EOS; they are in row order. No decision (top-k, threshold,
straight-through window) is nearer than {margin:.0e} standard deviations of the pre-activations to a tie, with and without `adapter-all`.

## forward.safetensors

| tensor | shape | meaning |
|---|---|---|
| `hidden` | [3, 24, 42] | output of block 1 of `llama`, as every SAE receives it |
| `latents_KIND` | [3, 24, 64] | dense latents of `hidden`, at BOS and EOS too |
| `spliced_KIND` | [3, 24, 42] | what block 2 receives: the decoded latents; at BOS and EOS `hidden` |
| `logits_base`, `logits_untied` | [3, 24, 67] | logits of `llama` and `llama-untied` |
| `logits_sae_KIND` | [3, 24, 67] | logits of `llama` with the SAE |
| `logits_adapted_topk` | [3, 24, 67] | logits of `llama` with the TopK SAE and `adapter` |

## adapt.safetensors

Loss: KL(base || with SAE and adapter), summed over positions, averaged over the 3 rows. Names end as in `adapter_model.safetensors`.

| tensor | meaning |
|---|---|
| `adapter/topk/grad/NAME`, `adapter-all/KIND/grad/NAME` | gradient of the loss, before clipping |
| `adapter/topk/final/NAME` | the matrix after the AdamW steps of `scalars.json`, `adapt.adam` (each step on all 3 rows) |

## pretrain.safetensors

Loss: mean next-token CE over all 3 x 23 positions. `llama/NAME` is the gradient of every weight (that of the tied embedding comes from
both its uses), `llama-untied/NAME` those of `model.embed_tokens.weight` and `lm_head.weight`.

## train-sae.safetensors

| tensor | meaning |
|---|---|
| `x` | [n, 42]: `hidden` without BOS and EOS |
| `KIND/mse/NAME` | gradient of mean over n of (sum over d of (x - y)^2 + sparsity * penalty); penalty: L0 with straight-through thresholds (jumprelu), L1 of the latents (standard), none (topk) |
| `KIND/e2e/NAME` | gradient of the KL of `adapt.safetensors`, without an adapter, through blocks 2 and 3 into the SAE |

NAME: `W_enc` [42, 64], `b_enc` [64], `W_dec` [64, 42], `b_dec` [42], `threshold` [64] (jumprelu). Straight-through gradients, with
the window K = 1 where |pre - threshold| < bandwidth / 2, else 0: d f / d threshold = -(threshold / bandwidth) K; d L0 / d threshold =
-(1 / bandwidth) K; L0 has no gradient with respect to pre.

## scalars.json

- `KIND`: what `espalier evaluate` reports with `adapter` (in `sae` its `l0`, `fvu`, ... over the n positions), and `training_loss`.
- `ce_untied`: the cross-entropy of `llama-untied`.
- `adapt`: the settings in `adam`; in `first` the loss and gradient norm of each adapter around each SAE; `loss` before each step and after
  the last; `grad_norm` before clipping; the norms of AdamW's moments after the last step.
- `pretrain`, `train_sae`: losses and settings.

## metrics.json

What `espalier evaluate --metrics all` measures on `llama` with two SAEs, topk at block 1 and jumprelu at block 2, and with `adapter`.
`bench/reference/metrics.py` computed it.

- `saes`: each SAE's reconstruction in the model with both SAEs, and its scores when it is spliced in alone.
- `tokens`: `counts` of |D|, the differences of single tokens' losses, in bins of a tenth of a decade from 1e-5 to 10; and NumPy's quantiles.
- `activations`: an entry for each block.

## What float32 costs

PyTorch's float32 was compared with these values. The error is the largest absolute error divided by the largest absolute value; each
line names the worst tensor of its group.

| group | error | tensor |
|---|---|---|
"""


def group_of(file: str, name: str) -> str:
    if file == "forward":
        return f"forward {name.split('_')[0]}"
    return f"{file} " + "/".join(part for part in name.split("/")[:-1])


def write_readme(folder: Path, ids: Tensor, margin: float, exact: dict, single: dict, versions: dict) -> None:
    worst: dict[str, tuple[float, str]] = {}
    for file, tensors in exact.items():
        for name, want in tensors.items():
            error = ((single[file][name].double() - want).abs().max() / want.abs().max()).item()
            group = group_of(file, name).strip()
            worst[group] = max(worst.get(group, (0.0, "")), (error, name.split("/")[-1]))
    text = TEXT.format(
        versions=", ".join(f"{k} {v}" for k, v in versions.items()),
        n=int((ids > 2).sum()), margin=margin)
    rows = [f"| {group} | {error:.0e} | `{name}` |" for group, (error, name) in worst.items()]
    (folder / "README.md").write_text(text + "\n".join(rows) + "\n")
