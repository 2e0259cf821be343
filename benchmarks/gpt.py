"""A small GPT: pre-norm blocks, learned positions, the output layer tied to the token embedding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["GPT", "GPTConfig"]


@dataclass(frozen=True, slots=True)
class GPTConfig:
    """Sizes of a GPT.

    Args:
        vocab: number of token ids.
        context: longest sequence, in tokens.
        width: features per token; a multiple of ``heads``.
        layers: number of blocks.
        heads: attention heads per block.
        dropout: share of the embedding's features dropped in training; above 0 a run depends on torch's random state.
    """

    vocab: int = 4096
    context: int = 128
    width: int = 256
    layers: int = 6
    heads: int = 8
    dropout: float = 0.05


class Block(nn.Module):
    """Attention and a feed-forward layer, each added to its input."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm_1 = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.attn_out = nn.Linear(config.width, config.width)
        self.norm_2 = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, 4 * config.width)
        self.down = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Map features of shape (batch, tokens, width) to the same shape."""
        batch, tokens, width = x.shape
        heads = self.qkv(self.norm_1(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attn_out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        hidden: Tensor = F.gelu(self.up(self.norm_2(x)), approximate="tanh")
        added: Tensor = self.down(hidden)
        return x + added


class GPT(nn.Module):
    """Next-token model. ``wte.weight`` and ``lm_head.weight`` of its state dict are one tensor."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab, config.width)
        self.wpe = nn.Embedding(config.context, config.width)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.lm_head = nn.Linear(config.width, config.vocab, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("attn_out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.layers) if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (batch, tokens, vocab) for int64 ids of shape (batch, tokens)."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.drop(self.wte(tokens) + self.wpe(positions))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.lm_head(self.norm(x))
        return logits
