"""How many floating-point operations a training takes per sample or token: what TFLOP/s and MFU
(model-FLOP utilisation) are made from.

A multiplication and an addition are two operations. Only products of matrices and convolutions
count, forward and backward (twice the forward); what activation checkpointing computes again does
not. Sources of the formulas: Kaplan et al. 2020, "Scaling Laws for Neural Language Models";
Chowdhery et al. 2022, "PaLM", appendix B.
"""

import copy

import torch
import torch.distributed as dist
from torch import nn


def count_flops(model: nn.Module, shape: tuple[int, ...]) -> int | None:
    """Count the operations of one sample of this shape, forward and backward; rank 0 alone does.

    PyTorch's own counter looks at each operation on the meta device, which computes nothing.
    """
    if dist.is_initialized() and dist.get_rank() != 0:
        return None
    from torch.utils.flop_counter import FlopCounterMode  # here: it takes a second to import

    on_meta = copy.deepcopy(model).to("meta").train()
    samples = 2  # BatchNorm wants more than one
    with FlopCounterMode(display=False) as counter:
        on_meta(torch.empty(samples, *shape, device="meta")).sum().backward()
    return counter.get_total_flops() // samples


def flops_per_gpt2_token(parameters: int, layers: int, width: int, seq_length: int) -> int:
    """6 per parameter, and 12 x layers x width x length for attention to all tokens.

    The counter would miss the loss, which is computed without its logits (training.gpt2.loss).
    """
    return 6 * parameters + 12 * layers * width * seq_length


def recomputed_flops_per_gpt2_token(layers: int, width: int, seq_length: int) -> int:
    """What activation checkpointing computes again: the forward pass of each block, once.

    2 per weight, and 4 x width x length for attention. Of the 12 x width² weights the MLP's last 4
    are not used again: no gradient needs their result, so PyTorch stops before them.
    """
    return layers * (16 * width**2 + 4 * width * seq_length)


def flops_per_target_token(
    layers: int, width: int, vocab_size: int, source: float, target: float
) -> int:
    """Operations per target token of an encoder-decoder transformer, its share of encoding too.

    source, target: mean tokens of a sentence, without padding. A layer's products have 12 x width²
    numbers in the encoder (attention 4, feed-forward 8) and 16 x width² in the decoder, of which 2
    make keys and values of the source.
    """
    ratio = source / target
    products = layers * width**2 * (12 * ratio + 14 + 2 * ratio) + vocab_size * width
    attended = layers * width * (source * ratio + target + source)
    return round(6 * products + 12 * attended)
