"""From a batch to predictions, for each task that makes some.

Shapes: B samples, T level-0 tokens, U units, K classes, N frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import ConfigError
from ..core.spans import Spans
from ..core.tokens import Tokens
from ..data.capabilities import DenseLabels, Textual
from ..data.sample import Sample
from ..data.tokenizer import SINGLE
from ..tasks.base import Task
from ..tasks.batch import Batch
from ..tasks.boundary import Boundary
from ..tasks.classification import Classification
from ..tasks.ctc.task import CTC
from ..tasks.fused import Fused
from ..tasks.generation import Generation
from ..tasks.labels import NO_LABEL
from ..tasks.matching import Matching
from ..tasks.multilabel import Multilabel
from ..tasks.regression import Regression
from ..tasks.segmentation import Segmentation
from ..tasks.semantic import SemanticSegmentation
from ..tasks.tagging import Tagging, units_of
from .locating import locations_of, unit_of
from .predictions import (
    MaskPrediction,
    MultilabelPrediction,
    NumberPrediction,
    Predicted,
    PredictedSpan,
    Prediction,
    SpanPrediction,
    TextPrediction,
    as_value,
    shares_of,
)
from .reading import TowerReader

ADVICE = {
    "contrastive": "hrt-mm embed and hrt-mm search apply it",
    "language": "hrt-mm generate applies it",
    "masked": "hrt-mm embed applies it",
}
SPACE = " "
NOT_FINITE = "the model's output for it is not finite"


class Interpreter:
    """Predicts the samples of batches.

    Args:
        task: with the trained weights, in evaluation mode.
        readers: of its towers.
        kind: of the task, by its name in the configuration.
        folder: of the run, for messages.

    Raises:
        ConfigError: the task makes no predictions; says which command applies it.
    """

    def __init__(self, task: Task, readers: Mapping[str, TowerReader], kind: str, folder: Path) -> None:
        self.task, self.readers = task, readers
        kinds: dict[type[Task], Callable[[Batch, Sequence[Sample]], list[Predicted | None]]] = {
            Classification: self._classes,
            Fused: self._classes,
            Matching: self._classes,
            Multilabel: self._several_classes,
            Regression: self._numbers,
            SemanticSegmentation: self._masks,
            Tagging: self._tags,
            Segmentation: self._segments,
            Boundary: self._boundaries,
            CTC: self._transcripts,
            Generation: self._texts,
        }
        matching = [read for task_type, read in kinds.items() if isinstance(task, task_type)]
        if not matching:
            advice = f"; {ADVICE[kind]}" if kind in ADVICE else ""
            raise ConfigError(f"{folder} was trained on task {kind}, which predicts no labels{advice}")
        self._read = matching[0]
        unit = getattr(task, "unit", None) if isinstance(task, Tagging) else None
        if isinstance(task, Segmentation):
            unit = task.config.unit
        if unit is not None and unit not in readers[SINGLE].tokenizer.requested_boundaries:
            raise ConfigError(
                f"{folder} labels {unit}, which come with the data and are in no bare file; eval --predictions writes "
                "the predictions of a split"
            )

    @property
    def needs_values(self) -> bool:
        """Whether raw values are needed beside the batch, to locate what is predicted."""
        return not isinstance(self.task, Classification | Fused | Matching | Multilabel | Regression)

    def truth(self, sample: Sample) -> Any:
        """The label of a sample as predictions name it: a class, a list of them, a transcript, or a text."""
        label = sample.label
        if isinstance(self.task, Generation):
            text = sample.value[self.task.target]
            return text if isinstance(text, str) else None
        if isinstance(self.task, CTC):
            return _joined(list(label), self.task.unit) if isinstance(label, list | tuple) else label
        if isinstance(self.task, Regression):
            return as_value(dict(zip(self.task.outputs, self.task.config.numbers(sample), strict=True)))
        if isinstance(self.task, SemanticSegmentation):
            return shares_of(self.task.config.mask_of(sample, self.task.classes), self.task.classes)
        classes = getattr(self.task, "classes", ())
        if isinstance(label, list | tuple):
            return [_class_name(item, classes) for item in label]
        return _class_name(label, classes)

    @torch.inference_mode()
    def __call__(self, batch: Batch, samples: Sequence[Sample]) -> list[Predicted | None]:
        """The predictions of a batch on the task's device; ``None`` where the model's output is not finite.

        Args:
            batch: without targets, or with targets, which are not read.
            samples: of the batch; their values are read if they are needed.
        """
        return self._read(batch, samples)

    def _classes(self, batch: Batch, samples: Sequence[Sample]) -> list[Predicted | None]:
        assert isinstance(self.task, Classification | Fused | Matching)
        return [
            _prediction(probabilities_K, self.task.classes, sample.name)
            for probabilities_K, sample in zip(probabilities_of(self.task.logits(batch)), samples, strict=True)
        ]

    def _several_classes(self, batch: Batch, samples: Sequence[Sample]) -> list[Predicted | None]:
        task = self.task
        assert isinstance(task, Multilabel)
        thresholds = dict(zip(task.classes, task.threshold_K.tolist(), strict=True))
        predictions: list[Predicted | None] = []
        for scores_K, sample in zip(task.logits(batch).float().sigmoid().cpu(), samples, strict=True):
            if not scores_K.isfinite().all():
                predictions.append(None)
                continue
            probabilities = _ranked(scores_K, task.classes)
            labels = [label for label, score in probabilities.items() if score >= thresholds[label]]
            predictions.append(MultilabelPrediction(tuple(labels), probabilities, name=sample.name))
        return predictions

    def _numbers(self, batch: Batch, samples: Sequence[Sample]) -> list[Predicted | None]:
        task = self.task
        assert isinstance(task, Regression)
        return [
            NumberPrediction(dict(zip(task.outputs, values_R.tolist(), strict=True)), name=sample.name)
            if values_R.isfinite().all()
            else None
            for values_R, sample in zip(task.predict(batch).float().cpu(), samples, strict=True)
        ]

    def _masks(self, batch: Batch, samples: Sequence[Sample]) -> list[Predicted | None]:
        task, tokenizer = self.task, self.readers[SINGLE].tokenizer
        assert isinstance(task, SemanticSegmentation) and isinstance(tokenizer, DenseLabels)
        logits_TPK = task.logits(batch)
        finite_T = logits_TPK.isfinite().all(-1).all(-1).cpu()
        maps = tokenizer.label_maps(batch.tokens, logits_TPK.argmax(-1))
        predictions: list[Predicted | None] = []
        for sample, label_map, finite in zip(samples, maps, batch.tokens.spans.split(finite_T), strict=True):
            if not finite.all():
                predictions.append(None)
                continue
            mask = tokenizer.labels_of(sample.value, label_map.cpu(), NO_LABEL)
            predictions.append(MaskPrediction(mask, task.classes, name=sample.name))
        return predictions

    def _tags(self, batch: Batch, samples: Sequence[Sample]) -> list[Predicted | None]:
        assert isinstance(self.task, Tagging)
        units, samples_of_units = units_of(batch.tokens, self.task.unit)
        probabilities_UK = probabilities_of(self.task.logits(batch.tokens))
        score_U, label_U = probabilities_UK.max(-1)
        edges = _unit_edges(batch.tokens, units, samples_of_units)
        predictions: list[Predicted | None] = []
        for sample, edges_U2A, scores, labels in zip(
            samples, edges, samples_of_units.split(score_U), samples_of_units.split(label_U), strict=True
        ):
            if not scores.isfinite().all():
                predictions.append(None)
                continue
            names = [self.task.classes[label] for label in labels.tolist()]
            spans = self._located(sample, edges_U2A, names, scores.tolist())
            predictions.append(SpanPrediction(spans, self._unit, name=sample.name))
        return predictions

    def _segments(self, batch: Batch, samples: Sequence[Sample]) -> list[Predicted | None]:
        assert isinstance(self.task, Segmentation)
        units, samples_of_units = units_of(batch.tokens, self.task.config.unit)
        edges = _unit_edges(batch.tokens, units, samples_of_units)
        predictions: list[Predicted | None] = []
        for sample, edges_U2A, segments in zip(samples, edges, self.task.segments(batch.tokens), strict=True):
            if any(math.isnan(segment.border_prob + segment.label_prob) for segment in segments):
                predictions.append(None)
                continue
            bounds = [(segment.first, segment.end - 1) for segment in segments]
            edges_S2A = torch.stack([torch.stack([edges_U2A[first, 0], edges_U2A[last, 1]]) for first, last in bounds])
            labels = [segment.label or "" for segment in segments]
            scores = [segment.label_prob if segment.label is not None else None for segment in segments]
            borders = [(segment.border, segment.border_prob) for segment in segments]
            spans = self._located(sample, edges_S2A, labels, scores, borders)
            predictions.append(SpanPrediction(spans, self._unit, name=sample.name))
        return predictions

    def _boundaries(self, batch: Batch, samples: Sequence[Sample]) -> list[Predicted | None]:
        assert isinstance(self.task, Boundary)
        tokens = batch.tokens
        logits_T = self.task.logits(self.task.encoder(tokens)[0].x).cpu()
        units, samples_of_units = units_of(tokens, None)
        edges = _unit_edges(tokens, units, samples_of_units)
        predictions: list[Predicted | None] = []
        positions = self.task.positions(logits_T, tokens.spans)
        for sample, edges_T2A, logits, starts in zip(
            samples, edges, tokens.spans.split(logits_T), positions, strict=True
        ):
            if not logits.isfinite().all():
                predictions.append(None)
                continue
            bounds = list(pairwise([0, *starts.tolist(), len(edges_T2A)]))
            edges_S2A = torch.stack(
                [torch.stack([edges_T2A[first, 0], edges_T2A[end - 1, 1]]) for first, end in bounds]
            )
            spans = self._located(sample, edges_S2A, [""] * len(bounds), [None] * len(bounds))
            predictions.append(SpanPrediction(spans, self._unit, name=sample.name))
        return predictions

    def _transcripts(self, batch: Batch, samples: Sequence[Sample]) -> list[Predicted | None]:
        task = self.task
        assert isinstance(task, CTC)
        head = task.decode_head
        frames = head.frames(task.encoder(batch.tokens))
        hypotheses_of = task.decode(head.with_merged_silence(frames)) if frames.x_ND.isfinite().all() else None
        predictions: list[Predicted | None] = []
        for number, (sample, (log_probs_NK, edges_N2)) in enumerate(zip(samples, frames.split(), strict=True)):
            if not log_probs_NK.isfinite().all() or hypotheses_of is None:
                predictions.append(None)
                continue
            hypothesis = hypotheses_of[number]
            aligned = head.align(log_probs_NK.cpu(), hypothesis.symbols, sample.name)
            edges_S2A = torch.tensor(
                [[[float(edges_N2[symbol.first, 0])], [float(edges_N2[symbol.last, 1])]] for symbol in aligned]
            ).reshape(-1, 2, 1)
            labels = [head.symbols[symbol.symbol] for symbol in aligned]
            scores = [math.exp(min(0.0, symbol.log_prob)) for symbol in aligned]
            spans = self._located(sample, edges_S2A, labels, scores, texts=False)
            text = SPACE.join(hypothesis.words) if hypothesis.words else _joined(labels, head.unit)
            predictions.append(SpanPrediction(spans, self._unit, text, name=sample.name))
        return predictions

    def _texts(self, batch: Batch, samples: Sequence[Sample]) -> list[Predicted | None]:
        assert isinstance(self.task, Generation)
        predictions: list[Predicted | None] = []
        for written, sample in zip(self.task.write(batch), samples, strict=True):
            if math.isnan(written.log_prob):
                predictions.append(None)
                continue
            score = math.exp(min(0.0, written.score()))
            text = self.task.text(written.ids, ended=written.ended)
            predictions.append(TextPrediction(text, score, written.ended, name=sample.name))
        return predictions

    @property
    def _unit(self) -> str:
        return unit_of(self.readers[SINGLE])

    def _located(
        self,
        sample: Sample,
        edges_N2A: Tensor,
        labels: Sequence[str],
        scores: Sequence[float | None],
        borders: Sequence[tuple[str | None, float]] | None = None,
        *,
        texts: bool = True,
    ) -> tuple[PredictedSpan, ...]:
        """Spans at edges in level-0 coordinates."""
        modality, spans = self.readers[SINGLE].modality, []
        locations = locations_of(self.readers[SINGLE], sample.value, edges_N2A)
        for number, (location, label, score) in enumerate(zip(locations, labels, scores, strict=True)):
            border, border_score = borders[number] if borders is not None else (None, None)
            border_score = border_score if border is not None else None
            if len(location) == 4:
                left, top, right, bottom = location
                spans.append(PredictedSpan(0.0, 0.0, label, score, box=(left, top, right, bottom)))
                continue
            start, end = location
            text = modality.passage(sample.value, (start, end)) if texts and issubclass(modality, Textual) else ""
            spans.append(PredictedSpan(start, end, label, score, text, border, border_score))
        return tuple(spans)


def probabilities_of(logits_PK: Tensor) -> Tensor:
    """(P, K) logits to float32 probabilities on the host."""
    return logits_PK.float().softmax(-1).cpu()


def _prediction(probabilities_K: Tensor, classes: Sequence[str], name: str) -> Prediction | None:
    if not probabilities_K.isfinite().all():
        return None
    probabilities = _ranked(probabilities_K, classes)
    return Prediction(next(iter(probabilities)), probabilities, name=name)


def _ranked(probabilities_K: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """The probabilities of all classes by name, most likely first."""
    values, order = probabilities_K.sort(descending=True, stable=True)
    return {classes[index]: value for index, value in zip(order.tolist(), values.tolist(), strict=True)}


def _unit_edges(tokens: Tokens, units: Spans, samples: Spans) -> list[Tensor]:
    """(U, 2, A) the edges of the units of each sample, in level-0 coordinates along each axis."""
    coords_TC = tokens.coords_TC.double().cpu()
    edges: list[Tensor] = []
    starts = units.host.tolist()
    for first, end in pairwise(samples.host.tolist()):
        if tokens.axes == 1:
            begin = int(tokens.spans.host[len(edges)])
            positions_U = torch.tensor([starts[unit] - begin for unit in range(first, end + 1)], dtype=torch.float64)
            edges.append(torch.stack([positions_U[:-1], positions_U[1:]], 1)[..., None])
            continue
        cells = [coords_TC[starts[unit] : starts[unit + 1]] for unit in range(first, end)]
        edges.append(torch.stack([torch.stack([cell.amin(0), cell.amax(0) + 1]) for cell in cells]))
    return edges


def _joined(symbols: Sequence[str], unit: str) -> str:
    return ("" if unit == "characters" else SPACE).join(symbols)


def _class_name(label: Any, classes: Sequence[str]) -> Any:
    is_index = isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(classes)
    return classes[label] if is_index else None if label == NO_LABEL else label
