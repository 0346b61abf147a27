"""The model of train_translation.py: an encoder-decoder transformer that can also translate.

Source: Vaswani et al. 2017, "Attention Is All You Need"; normalised before each part instead of
after it (Xiong et al. 2020), which trains without a long warm-up.
"""

import math

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

KeysValues = tuple[torch.Tensor, torch.Tensor]  # each (B, heads, length, width / heads)


class Translator(nn.Module):
    """Tokens in, the scores of the next target token out.

    Both languages share one vocabulary, and the two embeddings and the last matrix their weights.
    The position of a token is told by sines, so no sentence is too long.
    """

    def __init__(
        self, vocab_size: int, pad_id: int, *, width: int, layers: int, heads: int, dropout: float
    ):
        super().__init__()
        self.pad_id, self.width = pad_id, width
        self.embedding = nn.Embedding(vocab_size, width)
        self.dropout = nn.Dropout(dropout)
        options = {"width": width, "heads": heads, "dropout": dropout}
        self.encoder = nn.ModuleList(EncoderLayer(**options) for _ in range(layers))
        self.decoder = nn.ModuleList(DecoderLayer(**options) for _ in range(layers))
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.apply(initialize)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """source: (B, S) and target: (B, T) tokens int64; returns scores (B, T, vocabulary).

        The scores at a position follow from the source and from the target up to there.
        """
        memory, mask = self.encode(source)
        x = self.embed(target)
        for layer in self.decoder:
            x = layer(x, layer.attend_source.project(memory), mask)
        return self.score(x)

    def encode(self, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the source says, (B, S, width), and which of it is no padding."""
        mask = (source != self.pad_id)[:, None, None, :]  # the same for all heads and queries
        x = self.embed(source)
        for layer in self.encoder:
            x = layer(x, mask)
        return self.encoder_norm(x), mask

    def embed(self, tokens: torch.Tensor, start: int = 0) -> torch.Tensor:
        """Embed tokens (B, length), the first of which stands at position `start`."""
        x = self.embedding(tokens) * math.sqrt(self.width)
        return self.dropout(x + make_sines(start, tokens.shape[1], self.width, like=x))

    def score(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder_norm(x) @ self.embedding.weight.T

    @torch.inference_mode()
    def translate(self, source: torch.Tensor, bos_id: int, eos_id: int) -> list[list[int]]:
        """Translate (B, S) source tokens greedily, each token from the model's own ones before it.

        One pass a token: the keys and values of all before it are kept. Returns the tokens of each
        sentence without beginning and end. A sentence that does not end by itself is cut at twice
        its source and 10 tokens more, whatever it shares its batch with.
        """
        memory, mask = self.encode(source)
        known = [layer.attend_source.project(memory) for layer in self.decoder]
        past: list[list] = [[] for _ in self.decoder]
        limit = 2 * mask.sum(dim=-1).flatten() + 10
        token = torch.full_like(source[:, :1], bos_id)
        written, ended = [], torch.zeros_like(limit, dtype=torch.bool)
        while not ended.all():
            x = self.embed(token, start=len(written))
            for layer, source_known, before in zip(self.decoder, known, past, strict=True):
                x = layer(x, source_known, mask, before)
            token = self.score(x).argmax(dim=-1)
            ended = ended | (token[:, 0] == eos_id)
            written.append(token.masked_fill(ended[:, None], eos_id))
            ended = ended | (len(written) >= limit)
        rows = torch.cat(written, dim=1).tolist()
        return [row[: row.index(eos_id)] if eos_id in row else row for row in rows]


class EncoderLayer(nn.Module):
    def __init__(self, *, width: int, heads: int, dropout: float):
        super().__init__()
        self.self_norm, self.attend_self = nn.LayerNorm(width), Attention(width, heads, dropout)
        self.feed_forward = make_feed_forward(width, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        normed = self.self_norm(x)
        x = x + self.dropout(self.attend_self(normed, self.attend_self.project(normed), mask))
        return x + self.feed_forward(x)


class DecoderLayer(nn.Module):
    def __init__(self, *, width: int, heads: int, dropout: float):
        super().__init__()
        self.self_norm, self.attend_self = nn.LayerNorm(width), Attention(width, heads, dropout)
        self.source_norm, self.attend_source = nn.LayerNorm(width), Attention(width, heads, dropout)
        self.feed_forward = make_feed_forward(width, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: torch.Tensor,
        source: KeysValues,
        mask: torch.Tensor,
        past: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """past: the keys and values of the tokens before x, which is then one token; grows."""
        normed = self.self_norm(x)
        own = self.attend_self.project(normed)
        if past is not None:
            past[:] = (
                [torch.cat(pair, dim=2) for pair in zip(past, own, strict=True)] if past else own
            )
            own = past
        # Padding stands at a target's end: a token never sees it, so causality is mask enough.
        x = x + self.dropout(self.attend_self(normed, own, causal=past is None))
        x = x + self.dropout(self.attend_source(self.source_norm(x), source, mask))
        return x + self.feed_forward(x)


class Attention(nn.Module):
    """Multi-head attention."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: torch.Tensor,
        keys_values: KeysValues,
        mask: torch.Tensor | None = None,
        causal: bool = False,
    ) -> torch.Tensor:
        """Let each position of x (B, T, width) look at what `mask` leaves of the keys."""
        found = scaled_dot_product_attention(
            self.split_heads(self.query(x)),
            *keys_values,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
        )
        return self.out(found.transpose(1, 2).flatten(2))

    def project(self, x: torch.Tensor) -> KeysValues:
        """The keys and values of x (B, length, width)."""
        keys, values = self.key_value(x).chunk(2, dim=-1)
        return self.split_heads(keys), self.split_heads(values)

    def split_heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def make_feed_forward(width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, 4 * width),
        nn.GELU(),
        nn.Linear(4 * width, width),
        nn.Dropout(dropout),
    )


def make_sines(start: int, length: int, width: int, *, like: torch.Tensor) -> torch.Tensor:
    """Positions start … start + length - 1 as sines and cosines, (length, width)."""
    options = {"device": like.device, "dtype": torch.get_default_dtype()}
    position = torch.arange(start, start + length, **options)[:, None]
    rates = torch.exp(torch.arange(0, width, 2, **options) * (-math.log(10_000) / width))
    return torch.cat([torch.sin(position * rates), torch.cos(position * rates)], dim=1)


def initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        # The scores are products with these weights: small, so that no token is likely at first.
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
