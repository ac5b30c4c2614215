"""The transformer block of all levels, decoders and the flat baseline.

Shapes: T tokens, D width, H heads, K key heads, E head width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .attention import attend
from .host import on_host
from .levels import Level
from .linear import InitLinear
from .norm import rms_norm
from .rope import rotate
from .spans import Spans

if TYPE_CHECKING:
    from .causal.keys import KeyValues
    from .causal.new_tokens import NewTokens
    from .source import Read

_attend_outside_graphs = on_host(attend)


class AttentionObserver(Protocol):
    """Receives what a self-attention of the forward pass computes its weights from."""

    def __call__(self, *, q_THE: Tensor, k_TKE: Tensor, spans: Spans, window: int | None, causal: bool) -> None:
        """Called before the attention.

        Args:
            q_THE: queries, after norm and rotation.
            k_TKE: keys, after norm and rotation.
            spans: runs within which tokens attend to each other.
            window: sliding window within the runs.
            causal: whether later tokens are masked.
        """


class Attention(nn.Module):
    """Grouped-query attention within spans, with QK-norm (arXiv 2302.05442) and rotary positions."""

    def __init__(self, dim: int, heads: int, kv_heads: int, backend: str) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = heads, kv_heads, dim // heads
        self.backend = backend
        self.traced = True
        """Whether ``torch.compile`` may trace attention itself, or leaves it outside its graphs."""
        self.observer: AttentionObserver | None = None
        """Called in each forward pass, for reports."""
        self.qkv = nn.Linear(dim, (heads + 2 * kv_heads) * self.width, bias=False)
        # Normalized queries and keys give scores of at most sqrt(E); one factor per head lets it sharpen them.
        self.q_gain = nn.Parameter(torch.empty(heads, 1))
        self.out = InitLinear(dim, dim, nn.init.zeros_)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reinitializes the parameters that this module owns directly."""
        nn.init.ones_(self.q_gain)

    def forward(self, x_TD: Tensor, spans: Spans, rope: Tensor, window: int | None, causal: bool) -> Tensor:
        """Self-attention within each run, (T, D)."""
        q_THE, k_TKE, v_TKE = self.queries_keys_values(x_TD, rope)
        if self.observer is not None:
            self.observer(q_THE=q_THE, k_TKE=k_TKE, spans=spans, window=window, causal=causal)
        call = attend if self.traced else _attend_outside_graphs
        out_THE = call(q_THE, k_TKE, v_TKE, spans, window=window, causal=causal, backend=self.backend)
        mixed_TD: Tensor = self.out(out_THE.flatten(1))
        return mixed_TD

    def attend_to(self, x_ND: Tensor, rope: Tensor, memory: KeyValues, new: NewTokens) -> Tensor:
        """Causal attention of new tokens to those that a memory holds and among themselves, (N, D)."""
        out_NHE = memory.attend(*self.queries_keys_values(x_ND, rope), new, self.backend)
        mixed_ND: Tensor = self.out(out_NHE.flatten(1))
        return mixed_ND

    def queries_keys_values(self, x_TD: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalized and rotated queries (T, H, E) and keys (T, K, E), and values (T, K, E)."""
        # Query and key heads lie side by side, so that one call normalizes and rotates both.
        qkv_THE = self.qkv(x_TD).unflatten(-1, (-1, self.width))
        qk_THE, v_TKE = qkv_THE.split([self.heads + self.kv_heads, self.kv_heads], 1)
        q_THE, k_TKE = normed_rotation(qk_THE, rope).split([self.heads, self.kv_heads], 1)
        # Norm and rotation are in float32, and backends take one dtype. Keys need no gain: scores are products.
        return (q_THE * self.q_gain).to(v_TKE.dtype), k_TKE.to(v_TKE.dtype), v_TKE


def normed_rotation(x_THE: Tensor, rope: Tensor) -> Tensor:
    """Normalizes and rotates queries or keys, in float32 or wider."""
    return rotate(rms_norm(x_THE if x_THE.dtype == torch.float64 else x_THE.float()), rope)


class SwiGLU(nn.Module):
    """Gated feed-forward (arXiv 2002.05202)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = InitLinear(hidden, dim, nn.init.zeros_)

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) to (T, D)."""
        # One map for both halves, which are then split.
        gate, value = self.up(x_TD).chunk(2, -1)
        out_TD: Tensor = self.down(F.silu(gate) * value)
        return out_TD


class Block(nn.Module):
    """Pre-norm attention and feed-forward. Both residual branches are initialized to zero (arXiv 1901.09321)."""

    def __init__(
        self,
        level: Level,
        *,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        backend: str = "auto",
        checkpointed: bool = False,
    ) -> None:
        super().__init__()
        self.drop_path, self.dropout = drop_path, dropout
        self.checkpointed = checkpointed
        self.reads_source = False
        """Whether it attends to a source as well; such a block is not compiled."""
        self.attention = Attention(level.dim, level.heads, level.kv_heads or level.heads, backend)
        self.mlp = SwiGLU(level.dim, level.mlp_dim)

    def forward(
        self,
        x_TD: Tensor,
        spans: Spans,
        rope: Tensor,
        *,
        samples: Spans,
        window: int | None = None,
        causal: bool = False,
        read: Read | None = None,
    ) -> Tensor:
        """Applies the block.

        Args:
            x_TD: tokens.
            spans: runs within which tokens attend to each other.
            rope: rotations of the tokens.
            samples: the samples, for stochastic depth.
            window: sliding window within the runs.
            causal: mask later tokens.
            read: attention to a source, between self-attention and feed-forward.
        """
        # Without gradients nothing is stored for a backward pass, so there is nothing to recompute.
        if self.checkpointed and torch.is_grad_enabled():
            out_TD: Tensor = checkpoint(
                self._forward, x_TD, spans, rope, samples, window, causal, read, use_reentrant=False
            )
            return out_TD
        return self._forward(x_TD, spans, rope, samples, window, causal, read)

    def attend_to(
        self, x_ND: Tensor, rope: Tensor, memory: KeyValues, new: NewTokens, read: Read | None = None
    ) -> Tensor:
        """Applies the block to new tokens of a causal model in evaluation mode.

        Args:
            x_ND: new tokens.
            rope: their rotations.
            memory: keys and values of earlier tokens, to which those of the new ones are added.
            new: samples of the new tokens.
            read: attention to a source.
        """
        x_ND = x_ND + self.attention.attend_to(rms_norm(x_ND), rope, memory, new)
        if read is not None:
            x_ND = x_ND + read(rms_norm(x_ND))
        return x_ND + self.mlp(rms_norm(x_ND))

    def compile_around_attention(self, **options: Any) -> None:
        """Compiles the block in place, except attention, which is planned on the host for the lengths of each batch.

        A block that reads a source stays as it is.

        Args:
            options: arguments of ``torch.compile``.
        """
        # What is read is another object in each batch, for which the block would be compiled anew.
        if self.reads_source:
            return
        self.attention.traced = False
        self.compile(**options)

    def _forward(
        self,
        x_TD: Tensor,
        spans: Spans,
        rope: Tensor,
        samples: Spans,
        window: int | None,
        causal: bool,
        read: Read | None,
    ) -> Tensor:
        x_TD = x_TD + self._drop(self.attention(rms_norm(x_TD), spans, rope, window, causal), samples)
        if read is not None:
            x_TD = x_TD + self._drop(read(rms_norm(x_TD)), samples)
        return x_TD + self._drop(self.mlp(rms_norm(x_TD)), samples)

    def _drop(self, branch_TD: Tensor, samples: Spans) -> Tensor:
        """Dropout, and stochastic depth (arXiv 1603.09382), which drops the branch for whole samples."""
        if self.dropout:
            branch_TD = F.dropout(branch_TD, self.dropout, self.training)
        if not self.training or not self.drop_path:
            return branch_TD
        # The kept branches are scaled up so that the expected output is that of evaluation.
        # Drawn for samples rather than tokens, so that a sample goes through the block as a whole or not at all.
        keep_B = torch.rand(len(samples), device=branch_TD.device) >= self.drop_path
        return branch_TD * (keep_B[samples.ids] / (1 - self.drop_path)).to(branch_TD.dtype)[:, None]
