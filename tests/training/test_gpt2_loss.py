"""GPT-2's loss by chunks of rows against PyTorch's own cross-entropy."""

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from training.gpt2 import loss as gpt2_loss
from training.gpt2.loss import mean_loss


def make_layer(seed: int = 0, width: int = 8, vocabulary: int = 50, spread: float = 1.0):
    generator = torch.Generator().manual_seed(seed)
    hidden = spread * torch.randn(3, 70, width, generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator)
    targets = torch.randint(vocabulary, (3, 70), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def differentiate(loss, hidden, weight):
    return loss, *torch.autograd.grad(3 * loss, (hidden, weight))


def reference(hidden, weight, targets):
    return cross_entropy(linear(hidden, weight).flatten(0, 1).float(), targets.flatten())


@pytest.mark.parametrize("rows", [1, 64, 210, 1000])
def test_loss_and_gradients_are_those_of_cross_entropy(monkeypatch, rows):
    monkeypatch.setattr(gpt2_loss, "LEAST_ROWS", 1)
    monkeypatch.setattr(gpt2_loss, "CPU_LOGITS", rows * 50)
    hidden, weight, targets = make_layer()
    ours = differentiate(mean_loss(hidden, weight, targets), hidden, weight)
    theirs = differentiate(reference(hidden, weight, targets), hidden, weight)
    for mine, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-6)


def test_a_token_that_is_all_but_impossible_has_its_loss():
    """Logits 0 and -200: the probability of the second is no fp32 number any more."""
    hidden, weight = torch.tensor([[[1.0]]]), torch.tensor([[0.0], [-200.0]])
    assert mean_loss(hidden, weight, torch.tensor([[1]])).item() == pytest.approx(200)


def test_equal_logits_cost_the_logarithm_of_their_number():
    hidden, weight = torch.zeros(2, 5, 4), torch.ones(7, 4)
    loss = mean_loss(hidden, weight, torch.zeros(2, 5, dtype=torch.int64))
    assert loss.item() == pytest.approx(1.9459101)  # log 7


def test_large_logits_do_not_overflow():
    hidden, weight, targets = make_layer(spread=1000.0)
    torch.testing.assert_close(
        mean_loss(hidden, weight, targets), reference(hidden, weight, targets)
    )


def test_under_autocast_products_run_in_16_bits_and_sums_do_not():
    hidden, weight, targets = make_layer()
    with torch.autocast("cpu", torch.bfloat16):
        ours = differentiate(mean_loss(hidden, weight, targets), hidden, weight)
        theirs = differentiate(reference(hidden, weight, targets), hidden, weight)
    exact = differentiate(reference(hidden, weight, targets), hidden, weight)
    for mine, wanted, right in zip(ours, theirs, exact, strict=True):
        assert mine.dtype == torch.float32
        assert not torch.equal(mine, right)  # so it was 16 bits
        error, peers_error = ((each - right).abs().max() for each in (mine, wanted))
        assert error < 2 * peers_error
