"""GPT-2: a stack of causal transformer blocks that predicts the next token."""

import torch
from torch import nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from training.gpt2.arguments import POSITIONS, SMALL
from training.gpt2.loss import mean_loss

SMALL_PARAMETERS = 124_439_808  # of the published model, its tied output layer counted once


class GPT2(nn.Module):
    """The decoder of Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".

    forward: tokens (B, T) int64, T at most 1,024 -> logits (B, T, vocab_size); or, with targets
    (B, T), the mean loss a token.
    """

    def __init__(self, layers: int, heads: int, width: int, vocab_size: int, dropout: float = 0.0):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding = nn.Embedding(POSITIONS, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.initialize(layers)

    def initialize(self, layers: int) -> None:
        """GPT-2's first weights: normal with deviation 0.02, less where residuals add up."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:  # LayerNorm begins as 1 and 0
                if name.endswith("bias"):
                    nn.init.zeros_(parameter)
                continue
            # Each block adds two outputs to the stream: so its variance stays at one block's.
            deviation = 0.02 / (2 * layers) ** 0.5 if name.endswith("out.weight") else 0.02
            nn.init.normal_(parameter, std=deviation)

    def checkpoint_activations(self, on: bool) -> None:
        """Keep of each block its input alone, and compute the rest again in the backward pass."""
        for block in self.blocks:
            block.recompute = on

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
        positions = self.position_embedding.weight[: tokens.shape[1]]
        hidden = self.dropout(self.token_embedding(tokens) + positions)
        for block in self.blocks:
            hidden = block(hidden)
        # Weight tying: the matrix that reads tokens in also writes them out.
        hidden, weight = self.norm(hidden), self.token_embedding.weight
        return linear(hidden, weight) if targets is None else mean_loss(hidden, weight, targets)


class Block(nn.Module):
    """Attention looks back at earlier tokens, the MLP works on each token; both add to it."""

    recompute = False

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads, dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width, dropout)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.recompute and self.training:
            return checkpoint(self.compute, hidden, use_reentrant=False)
        return self.compute(hidden)

    def compute(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden))
        return hidden + self.mlp(self.mlp_norm(hidden))


class CausalAttention(nn.Module):
    """Each token attends to itself and to those before it, in several heads."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.head_width, self.dropout = width // heads, dropout
        self.qkv = nn.Linear(width, 3 * width)  # one product instead of three
        self.out = nn.Linear(width, width)
        self.out_dropout = nn.Dropout(dropout)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        batch, length, _ = hidden.shape
        # -1: the heads, all of them or, under tensor parallelism, this rank's
        qkv = self.qkv(hidden).view(batch, length, 3, -1, self.head_width)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, width per head)
        mixed = scaled_dot_product_attention(  # never holds the T x T weights in memory
            queries, keys, values, is_causal=True, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out_dropout(self.out(mixed.transpose(1, 2).reshape(batch, length, -1)))


class MLP(nn.Module):
    """Four times as wide inside, with GPT-2's GELU (the approximation by tanh)."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.inner = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.out(gelu(self.inner(hidden), approximate="tanh")))


def count_parameters(model: nn.Module) -> int:
    """Count the numbers that are learnt."""
    return sum(parameter.numel() for parameter in model.parameters())


def check_size(sizes, parameters: int) -> int:
    """Return `parameters`; AssertionError when GPT-2 small has not as many as the published one.

    sizes: has the attributes layers, heads, width and vocab_size.
    """
    if all(getattr(sizes, name) == size for name, size in SMALL.items()):
        assert parameters == SMALL_PARAMETERS, f"GPT-2 small with {parameters} parameters"
    return parameters


def split_decayed(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups for AdamW: matrices, which decay towards 0, and biases and norms, which do not."""
    matrices = [each for each in model.parameters() if each.dim() >= 2]
    vectors = [each for each in model.parameters() if each.dim() < 2]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
