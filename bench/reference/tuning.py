"""What the paper's code path and the best tuned one do differently in a step of PyTorch's.

paper: eager attention, the teacher without gradients, KL of probabilities (arXiv 2501.19406, section 3).
tuned: SDPA where the model allows it (not where scores are capped: PyTorch's has no cap), the teacher in inference_mode,
       KL of log-probabilities, AdamW in one fused call.
"""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(config, tuned: bool) -> str:
    """The implementation that transformers is to take."""
    return "sdpa" if tuned and not getattr(config, "attn_logit_softcapping", None) else "eager"


def teacher(logits: Callable[[], Tensor], tuned: bool) -> Tensor:
    """The original's probabilities, or their logarithms where tuned; [batch, tokens, vocab]."""
    if not tuned:
        with torch.no_grad():
            return F.softmax(logits(), dim=-1)
    with torch.inference_mode():
        base = F.log_softmax(logits(), dim=-1)
    return base.clone()  # an inference tensor cannot be saved for backward


def divergence(base: Tensor, logits: Tensor, tuned: bool) -> Tensor:
    """KL(teacher || student), summed over a sequence and averaged over the batch."""
    return F.kl_div(F.log_softmax(logits, dim=-1), base, reduction="batchmean", log_target=tuned)


def adamw(weights: list[Tensor], tuned: bool, **options) -> torch.optim.AdamW:
    # fused=False would switch off the loop over all tensors at once, too, which PyTorch takes by itself on a GPU.
    return torch.optim.AdamW(weights, fused=True if tuned else None, **options)
