"""Causal language modelling: each token of a sample predicts the next one from itself and those before it.

Shapes: T level-0 tokens, D width of level 0, V vocabulary, P predictions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..core.errors import ConfigError
from ..core.host import on_host
from ..core.levels import HierarchyConfig, LearnedGroups
from ..core.pyramid import Pyramid
from ..core.spans import Spans
from ..core.tokens import Tokens
from ..data.capabilities import ByteCounting, Discrete
from ..data.tokenizer import SINGLE
from .base import TaskOutput
from .batch import Batch
from .encoding import EncoderTask, EncoderTaskConfig
from .labels import linear_head

if TYPE_CHECKING:
    from ..data.tokenizer import Tokenizer

_LOGITS = 1 << 25
"""Largest number of logits in memory; beyond it they are computed in chunks, and recomputed for the gradient."""
_NONE = -1
"""Target of the last token of a sample."""


class LanguageConfig(EncoderTaskConfig):
    """The next token is predicted at level 0 of a causal hierarchy."""

    type: Literal["language"]
    noise: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of input tokens that are replaced by random ones of the batch in training; targets stay as they are
    (unigram noise, arXiv 1703.02573). For small corpora that are read many times."""

    @property
    def predicted_tower(self) -> str:
        """The only one."""
        return SINGLE

    @property
    def labelled(self) -> bool:
        """Never: the tokens are their own target."""
        return False

    def build(self, model: HierarchyConfig, tokenizer: Tokenizer, classes: tuple[str, ...] | None) -> LanguageModel:
        """The task's module.

        Raises:
            ConfigError: the hierarchy is not causal, or the tokenizer gives no ids.
        """
        if not model.causal:
            raise ConfigError("task language needs model.causal: true, or each token would see the one it predicts")
        if not isinstance(tokenizer, Discrete):
            raise ConfigError(f"task language predicts ids, and {type(tokenizer).__name__} has no vocabulary")
        return LanguageModel(model, tokenizer, tokenizer.vocabulary, self.noise)


class LanguageModel(EncoderTask):
    """Encoder, linear head, and the cross-entropy of every next token.

    Metrics are the cross-entropy in nats a token, the share of tokens guessed right, and where tokens stand for
    bytes, bits per byte: all nats spent, over the bytes that the predicted tokens stand for.

    Args:
        model: the hierarchy.
        tokenizer: gives the axes, the embedding and how many bytes a token stands for.
        vocabulary: how many ids there are.
        noise: share of the tokens that training replaces.
    """

    monitor = "cross_entropy"

    def __init__(self, model: HierarchyConfig, tokenizer: Tokenizer, vocabulary: int, noise: float = 0.0) -> None:
        super().__init__(model, tokenizer, [0])
        self.tokenizer, self.noise = tokenizer, noise
        self.head = linear_head(model.levels[0].dim, vocabulary)

    def forward(self, batch: Batch) -> TaskOutput:
        """Loss and metrics; predictions are (T,) ids, at each token that of the next one."""
        tokens = batch.tokens
        read = tokens.with_x(noisy(tokens.x, self.noise)) if self.training and self.noise else tokens
        pyramid = self.encoder(read)
        target_T = next_ids(tokens)
        nats_T, guess_T = next_token_nats(self.logits, self.head.out_features, pyramid[0].x, target_T)
        self.encoder.hierarchy.learn_uncertainty(pyramid, nats_T)
        count = prediction_count(tokens)
        nats, right = nats_T.sum(), ((guess_T == target_T) & nats_T.detach().isfinite()).sum()
        parts = {"cross_entropy": nats / count.clamp(min=1)} | pyramid.losses
        loss = torch.stack(list(parts.values())).sum()
        stats = {
            "loss": (loss.detach() * count, count),
            "cross_entropy": (nats.detach(), count),
            "accuracy": (right, count),
        }
        stats |= bits_per_byte(self.tokenizer, tokens, nats)
        return TaskOutput(
            loss,
            {name: p.detach() for name, p in parts.items()},
            stats | learned_group_sizes(self.encoder.hierarchy.config, pyramid),
            guess_T,
        )

    def logits(self, x_TD: Tensor) -> Tensor:
        """(..., D) tokens of level 0 to (..., V) logits of the next tokens, in float32."""
        # The cross-entropy of a large vocabulary needs more digits than half precision has.
        logits: Tensor = self.head(x_TD).float()
        return logits


def next_token_nats(
    logits: Callable[[Tensor], Tensor], vocabulary: int, x_TD: Tensor, target_T: Tensor, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(T,) cross-entropies in nats, 0 where there is no target, and (T,) predictions.

    Args:
        logits: maps (P, D) tokens to (P, V) logits.
        vocabulary: V.
        x_TD: tokens of level 0.
        target_T: as :func:`next_ids` gives them.
        smoothing: label smoothing.
    """

    def scored(x_PD: Tensor, target_P: Tensor) -> tuple[Tensor, Tensor]:
        logits_PV = logits(x_PD)
        nats_P = F.cross_entropy(logits_PV, target_P, ignore_index=_NONE, reduction="none", label_smoothing=smoothing)
        return nats_P, logits_PV.detach().argmax(-1)

    rows = max(1, _LOGITS // vocabulary)
    if len(x_TD) <= rows:
        return scored(x_TD, target_T)
    # One large vocabulary over many tokens can be more memory than all else in the model.
    pieces = zip(x_TD.split(rows), target_T.split(rows), strict=True)
    nats, guesses = zip(*(checkpoint(scored, *piece, use_reentrant=False) for piece in pieces), strict=True)
    return torch.cat(nats), torch.cat(guesses)


def bits_per_byte(tokenizer: Tokenizer, tokens: Tokens, nats: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """The metric ``bits_per_byte``: all nats, over the bytes that the predicted tokens stand for.

    Args:
        tokenizer: without the metric if its tokens do not stand for bytes.
        tokens: raw ones.
        nats: sum over all predictions.
    """
    if not isinstance(tokenizer, ByteCounting):
        return {}
    seen = torch.where(tokens.spans.positions > 0, tokenizer.num_bytes(tokens.x), 0).sum()
    return {"bits_per_byte": (nats.detach() / math.log(2), seen)}


def learned_group_sizes(config: HierarchyConfig, pyramid: Pyramid) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean size of learned groups, beside its target."""
    stats = {}
    for level in config.levels:
        if isinstance(level.group, LearnedGroups):
            spans = pyramid.groups[level.name]
            sizes = torch.tensor((spans.total, len(spans)), dtype=torch.float32, device=spans.device)
            stats[f"tokens_per_group/{level.name}"] = (sizes[0], sizes[1])
    return stats


def prediction_count(tokens: Tokens) -> Tensor:
    """The number of tokens that have a next one, as a float on the device."""
    return torch.full((), float(_predictions(tokens.spans)), device=tokens.device)


@on_host
def _predictions(samples: Spans) -> int:
    """Tokens that have a next one."""
    return int((samples.lengths - 1).clamp(min=0).sum())


def noisy(ids_T: Tensor, share: float) -> Tensor:
    """(T,) ids of which a share is replaced by ids drawn from the same batch."""
    drawn_T = ids_T[torch.randint(len(ids_T), ids_T.shape, device=ids_T.device)]
    return torch.where(torch.rand(ids_T.shape, device=ids_T.device) < share, drawn_T, ids_T)


def next_ids(tokens: Tokens) -> Tensor:
    """(T,) the id after each token in its sample, -1 for the last."""
    ids_T, spans = tokens.x, tokens.spans
    last_T = spans.positions + 1 == spans.counts[spans.ids]
    return ids_T.roll(-1).masked_fill(last_T, _NONE)
