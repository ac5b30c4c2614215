"""Contrastive learning: matching samples of two or more modalities get similar vectors.

Each tower is pooled at a level, mapped to a common width and normed. The batch is that of all ranks: every rank scores
its own rows against the rows of all, and gradients flow back to where they came from, so that two ranks train as one.

Shapes: B samples, n those with a modality, D the common width, N rows of this rank, M of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Literal

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..core.errors import ConfigError
from ..core.levels import HierarchyConfig
from ..core.per_step import training_step
from ..core.ranks import gathered, summed, world_size
from ..data.sample import Sample
from ..data.tokenizer import Tokenizer
from ..metrics.retrieval import DEPTH, distinct, rank, wrong_modality
from .base import TaskOutput
from .batch import Batch, TowerTokens
from .contrastive_losses import ContrastiveLoss, InfoNCEConfig, Loss
from .contrastive_views import LevelPair, LevelView, Vectors, ViewHeads, prefix
from .encoding import check_reads
from .joint import JointCollator, JointTask, JointTaskConfig
from .pieces import Pieces

IGNORED = -1e4
"""In place of the similarity of a pair that is neither positive nor negative: its share of the loss vanishes."""


class ContrastiveConfig(JointTaskConfig):
    """Contrastive learning between every pair of modalities, with the other samples of the batch as negatives."""

    type: Literal["contrastive"]
    dim: PositiveInt = 128
    """Dimension of the joint embedding space."""
    matryoshka: tuple[PositiveInt, ...] = ()
    """Widths of prefixes of the vectors that are trained to be vectors themselves: the loss of whole samples is the sum
    over these and ``dim`` (Matryoshka representations, arXiv 2205.13147). ``hrt-mm embed --dim`` then cuts vectors to
    one of them."""
    level: dict[str, str] = {}
    """Level whose pooled vector represents the sample, by tower; the coarsest by default."""
    pairs: tuple[tuple[str, str], ...] | None = None
    """Pairs of towers to compare; all when absent."""
    also: tuple[LevelPair, ...] = ()
    """Further levels to compare, besides whole samples."""
    loss: Loss = InfoNCEConfig()
    """The loss over similarities."""
    chunk: PositiveInt | None = None
    """Samples per chunk, for batches that do not fit into memory: activations are recomputed in the backward pass
    (gradient caching, arXiv 2101.06983), and the gradient is that of the whole batch."""
    chunk_tokens: PositiveInt | None = None
    """Level-0 tokens per chunk, in place of ``chunk``: it bounds memory where samples differ in length. A longer sample
    is a chunk of its own."""
    negatives: Path | None = None
    """Table of hard negatives (``hrt-mm mine``): each training sample brings some of its negatives into the batch."""
    negatives_per_sample: PositiveInt = 1
    """How many of them, drawn anew each epoch; the batch grows by as many."""

    @model_validator(mode="after")
    def _widths(self) -> ContrastiveConfig:
        if wrong := [width for width in self.matryoshka if width >= self.dim]:
            raise ValueError(f"matryoshka has {wrong[0]}; its widths are below dim, which is {self.dim}")
        if len(set(self.matryoshka)) < len(self.matryoshka):
            raise ValueError(f"matryoshka has a width twice: {', '.join(map(str, self.matryoshka))}; drop one")
        return self

    @model_validator(mode="after")
    def _one_chunk(self) -> ContrastiveConfig:
        if self.chunk is not None and self.chunk_tokens is not None:
            raise ValueError("chunk and chunk_tokens are both given; drop one")
        if self.negatives is None and "negatives_per_sample" in self.model_fields_set:
            raise ValueError("negatives_per_sample has no effect without negatives; drop it, or name a table")
        return self

    @property
    def labelled(self) -> bool:
        """Never: samples are compared with each other."""
        return False

    def collator(
        self,
        models: Mapping[str, HierarchyConfig],
        tokenizers: Mapping[str, Tokenizer],
        classes: tuple[str, ...] | None,
    ) -> ContrastiveCollator:
        """Makes batches of samples, with the pieces that are compared."""
        return ContrastiveCollator(self, tokenizers, classes)

    def build_towers(
        self,
        models: Mapping[str, HierarchyConfig],
        tokenizers: Mapping[str, Tokenizer],
        classes: tuple[str, ...] | None,
    ) -> Contrastive:
        """The task's module.

        Raises:
            ConfigError: a tower or level is unknown, or a part of a model is never read.
        """
        for key, names in (("level", [*self.level]), ("pairs", [name for pair in self.pairs or () for name in pair])):
            for name in names:
                if name not in models:
                    raise ConfigError(f"task.{key} names a tower {name!r}; the towers are {', '.join(models)}")
        pairs = self.pairs if self.pairs is not None else tuple(combinations(models, 2))
        if not pairs or any(len(set(pair)) < 2 for pair in pairs):
            raise ConfigError("task.pairs needs at least one pair, each of two different towers")
        names = [pair.name for pair in self.also]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"task.also has {twice[0]} twice; drop one, or raise its weight")
        if unused := [name for name in models if all(name not in pair for pair in pairs)]:
            raise ConfigError(f"tower {unused[0]!r} is in none of task.pairs; add it or drop the tower")
        return Contrastive(self, models, tokenizers, pairs)


class ContrastiveCollator(JointCollator):
    """Collation with the pieces that are compared."""

    config: ContrastiveConfig

    def towers(self, samples: Sequence[Sample]) -> dict[str, TowerTokens]:
        """The tokens and pieces of each tower.

        Raises:
            BadSample: a sample cannot be packed, or does not carry pieces that are compared.
        """
        towers = super().towers(samples)
        for name, tower in towers.items():
            members = [samples[index] for index in tower.samples.tolist()]
            tiers = {pair.pieces for pair in self.config.also if pair.pieces and name in pair.levels}
            pieces = {tier: Pieces.of(members, name, tier, self.tokenizers[name]) for tier in sorted(tiers)}
            towers[name] = replace(tower, pieces=pieces)
        return towers


class Contrastive(JointTask):
    """Encoders, heads, and the loss over pairs of towers.

    Args:
        config: the task.
        models: the hierarchies by tower.
        tokenizers: by tower; they give the axes and the embeddings.
        pairs: towers that are compared.
    """

    monitor = "R@1"
    monitor_mode = "max"

    def __init__(
        self,
        config: ContrastiveConfig,
        models: Mapping[str, HierarchyConfig],
        tokenizers: Mapping[str, Tokenizer],
        pairs: tuple[tuple[str, str], ...],
    ) -> None:
        views = [LevelView.whole(models, config.level), *(LevelView.of(pair, models) for pair in config.also)]
        for tower, model in models.items():
            reads = [view.levels[tower] for view in views if tower in view.levels]
            try:
                check_reads(model, reads)
            except ConfigError as error:
                raise ConfigError(f"towers.{tower}: {error}") from error
        super().__init__(models, tokenizers, config.shared)
        self.pairs, self.views, self.dim = pairs, views, config.dim
        self.chunk, self.chunk_tokens = config.chunk, config.chunk_tokens
        self.widths = (*sorted(config.matryoshka), config.dim)
        self.heads = nn.ModuleList(ViewHeads(view, models, config.dim, config.shared) for view in views)
        self.losses = nn.ModuleList(ContrastiveLoss(config.loss) for _ in views)

    def width_of(self, view: int) -> int:
        """Width of the vectors of a view."""
        heads = self.heads[view]
        assert isinstance(heads, ViewHeads)
        return heads.width

    @property
    def width(self) -> int:
        """Width of the vectors of whole samples."""
        return self.width_of(0)

    def narrow(self, width: int) -> None:
        """Cuts vectors of whole samples to a width that was trained.

        Raises:
            ConfigError: it was not; names those that were.
        """
        if width not in self.widths:
            trained = ", ".join(map(str, self.widths))
            raise ConfigError(
                f"vectors of {width} numbers were not trained, those of {trained} were; see task.matryoshka"
            )
        heads = self.heads[0]
        assert isinstance(heads, ViewHeads)
        heads.width = width

    def vectors(self, tower: str, part: TowerTokens) -> Tensor:
        """(n, D) normalized embeddings of the samples of a tower."""
        pyramid = self.encoder_of(tower)(part.tokens)
        vectors: Tensor = self.heads[0](tower, pyramid, part.pieces).x
        return vectors

    def temperature(self) -> Tensor:
        """Temperature of whole samples."""
        loss = self.losses[0]
        assert isinstance(loss, ContrastiveLoss)
        return loss.temperature().detach()

    def forward(self, batch: Batch) -> TaskOutput:
        """Loss and in-batch accuracies; in evaluation the vectors, for the metrics of the split."""
        # Towers that share an encoder, and chunks, are of one batch.
        with training_step(self):
            vectors, losses = self.encode(batch)
        # Ranks evaluate different numbers of batches, and must not wait for each other there.
        together = self.training and world_size() > 1
        parts: dict[str, Tensor] = {}
        stats: dict[str, tuple[Tensor, Tensor]] = {}
        for index, view in enumerate(self.views):
            pairs = self.pairs if index == 0 else view.pairs
            for first, second in pairs:
                both = f"{first}_{second}"
                name = both if not view.name else view.name if len(pairs) == 1 else f"{view.name}/{both}"
                sides = vectors[index][first], vectors[index][second]
                twins = (_contents(batch, first, second), _contents(batch, second, first)) if not view.pieces else None
                loss, counts = self._compare(index, *sides, twins, together=together)
                parts[name] = view.weight * loss / len(pairs)
                for width in self.widths[:-1] if index == 0 else ():
                    narrow = sides[0].prefix(width), sides[1].prefix(width)
                    narrow_loss, _ = self._compare(index, *narrow, twins, together=together)
                    parts[f"{name}@{width}"] = narrow_loss / len(pairs)
                for direction, count in zip((f"{first}_to_{second}", f"{second}_to_{first}"), counts, strict=True):
                    prefix_of_view = f"{view.name}/" if view.name else ""
                    stats[f"{prefix_of_view}{direction}/accuracy"] = count.hits, count.queries
                    if index == 0:
                        stats[f"{direction}/duplicates"] = count.duplicates, count.rows
        parts |= losses
        loss = torch.stack(list(parts.values())).sum()
        # As the loss is that of the global batch already, all ranks weigh the same.
        samples = torch.tensor(float(len(batch)), device=loss.device)
        weight = summed(samples) / world_size() if together else samples
        stats["loss"] = (loss.detach() * weight, weight)
        stats["temperature"] = (self.temperature() * weight, weight)
        rows = {} if self.training else self._rows(batch, vectors)
        return TaskOutput(loss, {name: part.detach() for name, part in parts.items()}, stats, rows=rows)

    def encode(self, batch: Batch) -> tuple[list[dict[str, Vectors]], dict[str, Tensor]]:
        """By view (whole samples, then ``also``) and tower, the batch's vectors; and the encoders' weighted losses."""
        vectors: list[dict[str, Vectors]] = [{} for _ in self.views]
        losses: dict[str, Tensor] = {}
        for tower in self.towers:
            part = batch.towers.get(tower)
            if part is None:
                for view, heads, view_vectors in zip(self.views, self.heads, vectors, strict=True):
                    if tower in view.levels:
                        assert isinstance(heads, ViewHeads)
                        view_vectors[tower] = heads.nothing(tower)
                continue
            pieces, aside = self._pieces(tower, part)
            assert batch.groups is not None
            sample_groups = batch.groups[part.samples]
            for view, view_vectors, column in zip(self.views, vectors, zip(*pieces, strict=True), strict=True):
                if all(piece is not None for piece in column):
                    groups = part.pieces[view.pieces].keys_P if view.pieces else sample_groups
                    view_vectors[tower] = Vectors.joined([piece for piece in column if piece is not None], groups)
            losses |= {f"{tower}/{name}": value for name, value in aside.items()}
        return vectors, losses

    def _pieces(self, tower: str, part: TowerTokens) -> tuple[list[list[Vectors | None]], dict[str, Tensor]]:
        """Each chunk's vectors, one for each view that the tower is in, and the mean auxiliary losses."""
        edges = self._chunks(part)
        if len(edges) == 2:
            vectors, losses = self._look(tower, part)
            return [vectors], losses
        pieces, weighted = [], []
        for first, last in pairwise(edges):
            some = part.some(first, last)
            if self.training:
                vectors, losses = checkpoint(self._look, tower, some, use_reentrant=False)
            else:
                vectors, losses = self._look(tower, some)
            pieces.append(vectors)
            weighted.append({name: value * len(some.samples) for name, value in losses.items()})
        total = len(part.samples)
        return pieces, {name: torch.stack([losses[name] for losses in weighted]).sum() / total for name in weighted[0]}

    def _chunks(self, part: TowerTokens) -> list[int]:
        """The first sample of each chunk, then the number of samples."""
        count = len(part.samples)
        if self.chunk_tokens is None:
            return [*range(0, count, self.chunk or count), count]
        edges, ends = [0], part.tokens.spans.host.tolist()
        for sample in range(1, count):
            if ends[sample + 1] - ends[edges[-1]] > self.chunk_tokens:
                edges.append(sample)
        return [*edges, count]

    def _look(self, tower: str, part: TowerTokens) -> tuple[list[Vectors | None], dict[str, Tensor]]:
        pyramid = self.encoder_of(tower)(part.tokens)
        return [
            heads(tower, pyramid, part.pieces) if tower in view.levels else None
            for view, heads in zip(self.views, self.heads, strict=True)
        ], pyramid.losses

    def _compare(
        self,
        view_index: int,
        first: Vectors,
        second: Vectors,
        contents: tuple[Tensor, Tensor] | None,
        *,
        together: bool,
    ) -> tuple[Tensor, list[_Counts]]:
        """The loss of one pair of towers over the global batch, so that its mean over ranks is the loss.

        Answers with the content of a positive are no negatives, nor are positives of a query with the same content:
        only their names or labels differ.

        Args:
            view_index: of the view.
            first: the vectors of one tower.
            second: those of the other.
            contents: of both, :func:`_contents`; ``None`` for pieces.
            together: over all ranks.

        Returns:
            The loss, and the counts of both directions.
        """
        loss_of, soft = self.losses[view_index], self.views[view_index].soft
        assert isinstance(loss_of, ContrastiveLoss)
        alls = (first.everywhere(), second.everywhere()) if together else (first, second)
        twins: Sequence[Tensor | None] = (None, None)
        if contents is not None:
            device = first.x.device
            gathered_contents = [gathered(c.to(device)).cpu() for c in contents] if together else contents
            twins = [
                (contents_N[:, None] == others.flip(1)[None]).any(2)
                for contents_N, others in ((contents[0], gathered_contents[1]), (contents[1], gathered_contents[0]))
            ]
        ways = ((first, alls[1], twins[0]), (second, alls[0], twins[1]))
        terms, counted = [], []
        for queries, others, twin_NM in ways:
            similarity_NM = queries.similarity(others, soft=soft)
            positive_NM = (queries.groups[:, None] == others.groups[None]).to(similarity_NM.device)
            duplicates = similarity_NM.new_zeros(())
            if twin_NM is not None:
                ignored_NM = twin_NM.to(similarity_NM.device) & ~positive_NM
                similarity_NM = similarity_NM.masked_fill(ignored_NM, IGNORED)
                duplicates = ignored_NM.sum()
            if not positive_NM.shape[1]:
                similarity_NM, positive_NM = (
                    similarity_NM.new_zeros(len(queries.groups), 1),
                    positive_NM.new_zeros(len(queries.groups), 1),
                )
            loss_N, counts_N = loss_of(similarity_NM, positive_NM)
            count = counts_N.sum()
            total = summed(count) if together else count
            terms.append((loss_N * counts_N).sum() / total.clamp(min=1))
            best_N = similarity_NM.detach().argmax(1, keepdim=True)
            hit_N = positive_NM.gather(1, best_N)[:, 0] & positive_NM.any(1) & similarity_NM.detach().isfinite().all(1)
            rows = torch.tensor(len(queries.groups), device=duplicates.device)
            counted.append(_Counts(hit_N.sum(), positive_NM.any(1).sum(), duplicates, rows))
        loss = torch.stack(terms).mean() if loss_of.both_ways else terms[0]
        return loss * (world_size() if together else 1), counted

    def _rows(self, batch: Batch, vectors: Sequence[Mapping[str, Vectors]]) -> dict[str, Tensor]:
        """Vectors and groups for the metrics of a split, of whole samples and pieces."""
        rows = {}
        for tower, part in batch.towers.items():
            for view, view_vectors in zip(self.views, vectors, strict=True):
                if tower in view.levels and (view.pieces or not view.name):
                    rows[_row(view.name, tower, "vectors")] = view_vectors[tower].x.float()
                    rows[_row(view.name, tower, "groups")] = view_vectors[tower].groups
            rows[_row("", tower, "contents")] = part.contents
        return rows

    def summarize(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """Retrieval over the whole split: each direction of each pair, over all towers, of pieces, and mean R@1."""
        towers = {
            tower: distinct(*(rows[_row("", tower, what)] for what in ("vectors", "groups", "contents")))
            for tower in self.towers
            if _row("", tower, "vectors") in rows
        }
        metrics = _both_ways(self.pairs, towers) | _over_all(self.pairs, towers)
        firsts = [value for name, value in metrics.items() if name.endswith("/R@1")]
        for width in self.widths[:-1]:
            narrow = {tower: (prefix(vectors_ND, width), groups) for tower, (vectors_ND, groups) in towers.items()}
            metrics |= {f"dim{width}/{name}": value for name, value in _both_ways(self.pairs, narrow).items()}
        for view in self.views:
            if view.pieces:
                sides = {
                    tower: (rows[_row(view.name, tower, "vectors")], rows[_row(view.name, tower, "groups")])
                    for tower in view.levels
                    if _row(view.name, tower, "vectors") in rows
                }
                metrics |= {f"{view.name}/{name}": value for name, value in _both_ways(view.pairs, sides).items()}
        return metrics | ({"R@1": sum(firsts) / len(firsts)} if firsts else {})


@dataclass(frozen=True)
class _Counts:
    """What one direction of a comparison counts, of the rows of this rank.

    Args:
        hits: rows whose best answer is a positive.
        queries: rows with a positive.
        duplicates: answers that are no negatives of a row, as they have the content of a positive.
        rows: all rows.
    """

    hits: Tensor
    queries: Tensor
    duplicates: Tensor
    rows: Tensor


def _contents(batch: Batch, tower: str, other: str) -> Tensor:
    """(n, 2) fingerprints of each sample in a tower: of what the tower reads, and of what the other one does.

    Where the other one has nothing to read, the second is a number that no content has.
    """
    part, other_part = batch.towers.get(tower), batch.towers.get(other)
    if part is None:
        return torch.zeros(0, 2, dtype=torch.int64)
    pair_B = -1 - torch.arange(len(batch))
    if other_part is not None:
        pair_B[other_part.samples] = other_part.contents
    return torch.stack([part.contents, pair_B[part.samples]], 1)


def _row(view: str, tower: str, what: str) -> str:
    return f"{view}/{tower}/{what}"


def _both_ways(pairs: Sequence[tuple[str, str]], sides: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Metrics of both directions of the pairs, of vectors and groups by tower."""
    metrics: dict[str, float] = {}
    for one, other in [way for pair in pairs for way in (pair, pair[::-1])]:
        if one in sides and other in sides:
            ranking = rank(*sides[one], *sides[other])
            if len(ranking.rank_Q):
                metrics |= {f"{one}_to_{other}/{name}": value for name, value in ranking.metrics().items()}
    return metrics


def _over_all(pairs: Sequence[tuple[str, str]], sides: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
    """The share of answers of a query's own modality, of a search over its tower and all that it is compared with."""
    metrics: dict[str, float] = {}
    for tower, (vectors_QD, groups_Q) in sides.items():
        others = [name for pair in pairs if tower in pair for name in pair if name != tower and name in sides]
        if others and len(vectors_QD):
            answers_ND = torch.cat([sides[name][0] for name in others])
            metrics[f"{tower}_to_all/wrong_modality@{DEPTH}"] = wrong_modality(
                vectors_QD, groups_Q, answers_ND, vectors_QD, groups_Q
            )
    return metrics
