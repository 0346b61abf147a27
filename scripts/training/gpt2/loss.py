"""The loss of GPT-2's output layer without its logits, the largest tensor of all."""

import torch
from torch.nn.functional import softmax

# Logits worked on at once: what stays in a CPU's cache, and what fills a GPU.
CPU_LOGITS, GPU_LOGITS = 2**18, 2**26
LEAST_ROWS = 64


def mean_loss(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of the logits `hidden @ weight.t()`, mean over all tokens.

    hidden: (B, T, width); weight: (vocabulary, width); targets: (B, T) int64, 0 or more each.
    The same number as cross_entropy() gives, and the same gradients, but for rounding.
    """
    return OutputLoss.apply(hidden.flatten(0, 1), weight, targets.flatten())


class OutputLoss(torch.autograd.Function):
    """Computes the gradients together with the loss, so that backward only has to scale them.

    The logits of 4 x 512 tokens and GPT-2's vocabulary are 400 MB in fp32, and cross_entropy()
    makes two more tensors of that size, the log-probabilities and the gradient. Here they exist
    for a few rows at a time, and on a CPU never leave its cache.
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets):
        device = hidden.device.type
        mixed = torch.is_autocast_enabled(device)
        kind = torch.get_autocast_dtype(device) if mixed else hidden.dtype
        with torch.autocast(device, enabled=False):
            loss_sum, *gradients = sum_loss(hidden.to(kind), weight.to(kind), targets)
        ctx.save_for_backward(*gradients)
        ctx.kinds = hidden.dtype, weight.dtype
        return loss_sum / len(targets)

    @staticmethod
    def backward(ctx, gradient):
        hidden_grad, weight_grad = ctx.saved_tensors
        scale = gradient / len(hidden_grad)
        return (hidden_grad * scale).to(ctx.kinds[0]), (weight_grad * scale).to(ctx.kinds[1]), None


def sum_loss(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the sum of the tokens' losses, and its gradients by hidden and by weight, in fp32.

    hidden: (N, width); weight: (vocabulary, width), of the type that products are to run in.
    """
    loss_sum = torch.zeros((), device=hidden.device)
    hidden_grad = torch.zeros_like(hidden, dtype=torch.float32)
    weight_grad = torch.zeros_like(weight, dtype=torch.float32)
    at_once = CPU_LOGITS if hidden.device.type == "cpu" else GPU_LOGITS
    rows = max(LEAST_ROWS, at_once // len(weight))
    for part, into, wanted in zip(
        hidden.split(rows), hidden_grad.split(rows), targets.split(rows), strict=True
    ):
        logits = (part @ weight.t()).float()
        wanted = wanted[:, None]
        probabilities = softmax(logits, dim=1)
        # The logarithm of the sum of exponentials, by the largest of each row: none is too small.
        log_sums = logits.amax(1) - probabilities.amax(1).log()
        loss_sum += (log_sums - logits.gather(1, wanted)[:, 0]).sum()
        # A logit's gradient is its probability, less 1 at the target.
        ones = torch.ones_like(wanted, dtype=torch.float32)
        gradient = probabilities.scatter_add_(1, wanted, -ones).to(weight.dtype)
        add_product(into, gradient, weight)
        add_product(weight_grad, gradient.t(), part)
    return loss_sum, hidden_grad, weight_grad


def add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add `left @ right` to `total` (fp32), in place where all are fp32: one tensor less."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
