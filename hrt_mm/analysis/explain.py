"""Attribution of predicted classes to the tokens of each level, by gradient or by attention.

Shapes: B samples, T tokens of a level, D its width, K classes, A axes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..core.errors import ConfigError, UserError
from ..core.hierarchy import Stage
from ..core.pyramid import Pyramid
from ..core.spans import Spans
from ..data.sample import Sample
from ..data.tokenizer import SINGLE
from ..inference.locating import located, locations_of
from ..inference.predictions import Attribution
from ..inference.trained import TrainedRun
from ..tasks.batch import Batch
from ..tasks.classification import Classification
from ..tasks.encoder import Encoder
from ..tasks.fused import Fused
from .report.attention import Layer, recorded

Method = Literal["gradient", "attention"]
METHODS: tuple[str, ...] = get_args(Method)
COUNT = 3
"""Tokens of a level that are named."""


@dataclass(eq=False)
class _Record:
    """The forward pass of an encoder.

    Attributes:
        pyramid: its output.
        layers: attention of its blocks.
        states: by level, (T, D) tokens: as the head reads them, or after the encoder blocks, from which the next level
            is pooled.
    """

    pyramid: Pyramid | None = None
    layers: Sequence[Layer] = ()
    states: dict[int, Tensor] | None = None


class Explainer:
    """Attributes the predicted classes of a batch to tokens.

    ``gradient`` weighs a token by the product of its features and the gradient of the predicted class (gradient times
    input, arXiv 1605.01713), where that is positive. At the level that the head reads, features are those of the
    output, so that weights are exact shares of the class's score; at others, those after the encoder blocks.

    ``attention`` starts from equal weights at the level that the head reads, and follows them down through the blocks:
    half of a token's weight stays with it, the other half goes to the tokens that it attends to (attention rollout,
    arXiv 2005.00928); the weight of a group is shared evenly by its tokens. Paths from coarse to fine levels are not
    followed, and the result is the same for all classes.

    Args:
        run: a run of task ``classification`` or ``fused_classification``, on the device that computes.
        method: ``gradient`` or ``attention``.
        count: tokens of a level that are named.

    Raises:
        ConfigError: the run is of another task.
        UserError: the method is unknown.
    """

    def __init__(self, run: TrainedRun, method: str = "gradient", count: int = COUNT) -> None:
        if method not in METHODS:
            raise UserError(f"the method {method!r} is unknown; it is one of {', '.join(METHODS)}")
        if not isinstance(run.task, Classification | Fused):
            raise ConfigError(
                f"{run.folder} was trained on task {run.config.task.type}; attribution is for tasks "
                "classification and fused_classification"
            )
        self.task, self.readers, self.method, self.count = run.task, run.readers, method, count

    def __call__(self, batch: Batch, samples: Sequence[Sample]) -> list[list[Attribution]]:
        """The tokens that weigh most, for each sample of a batch; by tower, coarse to fine, the heaviest first.

        Args:
            batch: on the task's device.
            samples: of the batch, with their values.
        """
        with torch.enable_grad() if self.method == "gradient" else torch.no_grad(), self._watched(batch) as records:
            logits_BK = self.task.logits(batch).float()
        attributions: list[list[Attribution]] = [[] for _ in samples]
        weights = self._gradients(logits_BK, records) if self.method == "gradient" else self._rollouts(records)
        for tower, by_level in weights.items():
            pyramid = records[tower].pyramid
            assert pyramid is not None
            owners = batch.towers[tower].samples.tolist()
            for level in sorted(by_level, reverse=True):
                for owner, parts in zip(owners, self._located(tower, pyramid, level, by_level[level]), strict=True):
                    sample = samples[owner]
                    value = sample.value if tower == SINGLE else sample.value[tower]
                    attributions[owner] += self._named(tower, pyramid.names[level], value, *parts)
        return attributions

    @contextmanager
    def _watched(self, batch: Batch) -> Iterator[dict[str, _Record]]:
        """Records the forward passes of the encoders inside of the block."""
        records = {tower: _Record() for tower in batch.towers if tower not in getattr(self.task, "without", ())}
        with _Hooks() as hooks:
            for tower in records:
                encoder = self.task.encoder_of(tower)
                if self.method == "attention":
                    records[tower].layers = hooks.enter(recorded(encoder.hierarchy))
                hooks.watch(encoder, records[tower], self._reads(tower))
            yield records

    def _gradients(self, logits_BK: Tensor, records: Mapping[str, _Record]) -> dict[str, dict[int, Tensor]]:
        """By tower and level, (T,) weights of the tokens."""
        levels = [(tower, level) for tower, one in records.items() for level in one.states or ()]
        states = [(records[tower].states or {})[level] for tower, level in levels]
        # Samples do not depend on each other, so one backward pass serves all of them.
        gradients = torch.autograd.grad(logits_BK.amax(-1).sum(), states, allow_unused=True)
        weights: dict[str, dict[int, Tensor]] = {tower: {} for tower in records}
        for (tower, level), x_TD, gradient_TD in zip(levels, states, gradients, strict=True):
            if gradient_TD is not None:
                weights[tower][level] = (x_TD * gradient_TD).float().sum(-1).clamp(min=0).detach().cpu()
        return weights

    def _rollouts(self, records: Mapping[str, _Record]) -> dict[str, dict[int, Tensor]]:
        weights: dict[str, dict[int, Tensor]] = {}
        for tower, one in records.items():
            assert one.pyramid is not None
            weights[tower] = rollout(one.pyramid, one.layers, self._reads(tower))
        return weights

    def _reads(self, tower: str) -> Sequence[int]:
        """The levels that the head reads."""
        return [self.task.levels[tower]] if isinstance(self.task, Fused) else self.task.levels

    def _located(self, tower: str, pyramid: Pyramid, level: int, weights_T: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(N,) weights, which sum to 1, and (N, 2, A) edges in level-0 coordinates of the tokens of each sequence."""
        name = pyramid.names[level]
        tokens = replace(pyramid[name], x=weights_T[:, None].to(pyramid[name].x.device))
        config = self.task.encoder_of(tower).hierarchy.config
        parts = located(replace(pyramid, tokens={**pyramid.tokens, name: tokens}), config, level)
        # A moment of a video is the mean of its tokens, so the weights of moments are normalized again.
        return [
            (weights_N1[:, 0].cpu() / weights_N1.sum().cpu().clamp(min=1e-30), edges_N2A)
            for weights_N1, edges_N2A in parts
        ]

    def _named(self, tower: str, level: str, value: Any, weights_N: Tensor, edges_N2A: Tensor) -> list[Attribution]:
        reader = self.readers[tower]
        heaviest = weights_N.topk(min(self.count, len(weights_N))).indices
        heaviest = heaviest[weights_N[heaviest] > 0]
        named = []
        for index, location in zip(heaviest.tolist(), locations_of(reader, value, edges_N2A[heaviest]), strict=True):
            attributions = Attribution(level, float(weights_N[index]), tower)
            if len(location) == 4:
                left, top, right, bottom = location
                named.append(replace(attributions, box=(left, top, right, bottom)))
                continue
            start, end = location
            text = reader.text(value, (start, end)).get("text", "")
            named.append(replace(attributions, start=start, end=end, text=text))
        return named


class _Hooks:
    """Records forward passes of encoders until it is closed."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> _Hooks:
        return self

    def __exit__(self, *details: object) -> None:
        self._stack.close()

    def enter(self, context: Any) -> Any:
        """Enters a context until then."""
        return self._stack.enter_context(context)

    def watch(self, encoder: Encoder, record: _Record, reads: Sequence[int]) -> None:
        """Records the output and the states of an encoder, at some levels those of the output."""
        states: dict[int, Tensor] = {}
        record.states = states

        def keep_pyramid(module: Any, args: Any, output: Pyramid) -> None:
            record.pyramid = output
            # The norm of the output leaves nothing of the length of what is normed, and so no gradient along it.
            states.update({level: output[level].x for level in reads})

        handles = [encoder.register_forward_hook(keep_pyramid)]
        for level, stage in enumerate(encoder.hierarchy.stages):
            handles.append(stage.register_forward_hook(_keep_first(states, level)))
        for handle in handles:
            self._stack.callback(handle.remove)


def _keep_first(states: dict[int, Tensor], level: int) -> Any:
    def keep(module: Stage, args: Any, output: Tensor) -> None:
        # The encoder blocks run first, and the decoder blocks later.
        states.setdefault(level, output)

    return keep


def rollout(pyramid: Pyramid, layers: Sequence[Layer], reads: Sequence[int]) -> dict[int, Tensor]:
    """Attention rollout from the levels that a head reads down to level 0.

    Args:
        pyramid: the levels of a batch.
        layers: attention of the blocks.
        reads: indices of the levels that the head reads as means.

    Returns:
        (T,) weights of the tokens of each level, whose sum over a sample is 1.
    """
    weights: dict[int, Tensor] = {}
    coming: Tensor | None = None
    for level in range(max(reads), -1, -1):
        spans = pyramid[level].spans
        weights_T = torch.zeros(spans.total) if coming is None else coming
        if level in reads:
            weights_T = weights_T + _evenly(torch.ones(len(spans)) / len(reads), spans)
        for layer in reversed([layer for layer in layers if layer.level == level]):
            weights_T = 0.5 * weights_T + 0.5 * layer.spread(weights_T)
        weights[level] = weights_T
        if level:
            coming = _evenly(weights_T, pyramid.groups[pyramid.names[level - 1]])
    return weights


def _evenly(weights_G: Tensor, groups: Spans) -> Tensor:
    """(T,) the weights of groups, shared by their tokens."""
    ids = groups.ids.cpu()
    return (weights_G / groups.lengths.clamp(min=1).cpu())[ids]


def explain(
    run: TrainedRun,
    inputs: Sequence[Any],
    method: str = "gradient",
    *,
    count: int = COUNT,
    batch_size: int | None = None,
) -> list[list[Attribution]]:
    """Attributes the predicted class of each input to tokens; see :class:`Explainer`.

    Args:
        run: of task ``classification`` or ``fused_classification``.
        inputs: as :meth:`TrainedRun.predict` takes them.
        method: ``gradient`` or ``attention``.
        count: tokens of a level that are named.
        batch_size: samples a batch.

    Raises:
        ConfigError: the run is of another task.
        BadSample: an input cannot be read.
    """
    explainer = Explainer(run, method, count)
    with run.computing():
        return [parts for batch, samples in run.read(inputs, batch_size) for parts in explainer(batch, samples)]
