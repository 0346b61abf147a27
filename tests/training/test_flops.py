"""Operations per sample: PyTorch's counter, and the formulas beside it."""

import pytest
import torch
import torchvision
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from training.flops import (
    count_flops,
    flops_per_gpt2_token,
    flops_per_target_token,
    recomputed_flops_per_gpt2_token,
)
from training.gpt2.model import GPT2, count_parameters
from training.translation.model import Translator


@pytest.mark.parametrize(("size", "gflop"), [(64, 1.985), (224, 24.289)])
def test_resnet50_is_counted_forward_and_backward(size, gflop):
    model = torchvision.models.resnet50(num_classes=200)
    assert count_flops(model, (3, size, size)) / 1e9 == pytest.approx(gflop, abs=0.0005)
    assert next(model.parameters()).device.type == "cpu"  # a copy of it was counted


def count(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run().backward()
    return counter.get_total_flops()


def test_gpt2s_formula_is_the_counters():
    sizes = {"layers": 2, "heads": 4, "width": 128, "vocab_size": 2048}
    model = GPT2(**sizes)
    tokens = torch.randint(0, 2048, (2, 64))
    counted = count(lambda: cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()))
    formula = flops_per_gpt2_token(count_parameters(model), 2, 128, 64)
    # The formula counts the embedding of positions, which is looked up, as a product; the counter
    # counts the scores twice in the backward pass, where attention computes them again.
    assert formula - 6 * 1024 * 128 == pytest.approx(counted / tokens.numel(), rel=0.02)


def test_what_checkpointing_computes_again_is_the_counters():
    model, tokens = GPT2(layers=2, heads=4, width=128, vocab_size=64), torch.ones(2, 64).long()
    counted = []
    for on in (False, True):
        model.checkpoint_activations(on)
        counted.append(count(lambda: model(tokens).sum()))
    formula = recomputed_flops_per_gpt2_token(2, 128, 64)
    assert formula == pytest.approx((counted[1] - counted[0]) / tokens.numel(), rel=0.02)


def test_gpt2_small_per_token():
    by_hand = 6 * 124_439_808 + 12 * 12 * 768 * 512
    assert flops_per_gpt2_token(124_439_808, 12, 768, 512) == by_hand == 803_261_952


def test_translations_formula_is_the_counters():
    model = Translator(1000, 0, width=64, layers=2, heads=4, dropout=0.0)
    source, target = torch.randint(1, 1000, (4, 24)), torch.randint(1, 1000, (4, 16))
    counted = count(lambda: model(source, target).sum())
    formula = flops_per_target_token(2, 64, 1000, source=24, target=16)
    assert formula == pytest.approx(counted / target.numel(), rel=0.02)
