"""What a trained run predicts of a sample: a class, labelled spans, a transcript, or a text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from torch import Tensor

from ..data.time_span import TimeSpan

PredictionRow = dict[str, Any]
"""A prediction by column; values are JSON."""
Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""


@dataclass(frozen=True)
class Predicted(ABC):
    """What is predicted of a sample.

    Args:
        name: of the sample: its file, its id, or its number among the inputs.
    """

    name: str = field(default="", compare=False, kw_only=True)

    @abstractmethod
    def row(self, top: int | None = None) -> PredictionRow:
        """The prediction as JSON, by column.

        Args:
            top: number of classes to score; all if ``None``.
        """

    def __str__(self) -> str:
        return "\n".join(text_lines({"sample": self.name} | self.row(5)))


@dataclass(frozen=True)
class Prediction(Predicted):
    """The predicted class of a sample.

    Args:
        label: the most likely class.
        probabilities: of all classes by name, most likely first.
    """

    label: str
    probabilities: Mapping[str, float] = field(repr=False)

    @property
    def probability(self) -> float:
        """Of ``label``."""
        return self.probabilities[self.label]

    def top(self, count: int) -> dict[str, float]:
        """The most likely classes with their probabilities."""
        return dict(islice(self.probabilities.items(), count))

    def row(self, top: int | None = None) -> dict[str, Any]:
        """``predicted``, its ``score``, and the ``scores`` of the most likely classes."""
        scores = dict(self.probabilities) if top is None else self.top(top)
        return {"predicted": self.label, "score": self.probability, "scores": scores}


@dataclass(frozen=True)
class MultilabelPrediction(Predicted):
    """The predicted classes of a sample, of which there may be none.

    Args:
        labels: classes whose probability reaches their threshold, most likely first.
        probabilities: of all classes by name, most likely first; each is on its own.
    """

    labels: tuple[str, ...]
    probabilities: Mapping[str, float] = field(repr=False)

    def row(self, top: int | None = None) -> dict[str, Any]:
        """``predicted``, a list of classes, and the ``scores`` of those and of the most likely others."""
        count = None if top is None else max(top, len(self.labels))
        return {"predicted": list(self.labels), "scores": dict(islice(self.probabilities.items(), count))}


@dataclass(frozen=True)
class NumberPrediction(Predicted):
    """The predicted numbers of a sample.

    Args:
        values: by name.
    """

    values: Mapping[str, float]

    @property
    def value(self) -> float:
        """The only number."""
        (value,) = self.values.values()
        return value

    def row(self, top: int | None = None) -> dict[str, Any]:
        """``predicted``: the number, or the numbers by name where there are several."""
        return {"predicted": as_value(self.values)}


@dataclass(frozen=True, eq=False)
class MaskPrediction(Predicted):
    """The predicted classes of the pixels of an image.

    Args:
        mask: (H, W) int64 index of the class of each pixel of the image as it was given; -1 where it was cropped.
        classes: names of the classes.
    """

    mask: Tensor = field(repr=False)
    classes: tuple[str, ...]

    def row(self, top: int | None = None) -> dict[str, Any]:
        """``predicted``: the share of the pixels of each class that is there, largest first."""
        return {"predicted": shares_of(self.mask, self.classes)}


def shares_of(mask: Tensor, classes: tuple[str, ...]) -> dict[str, float]:
    """The shares of the classes in a mask, largest first, of the pixels that have one."""
    counts = mask[mask >= 0].bincount(minlength=len(classes))
    shares = (counts / counts.sum().clamp(min=1)).tolist()
    present = [(name, share) for name, share in zip(classes, shares, strict=True) if share]
    return dict(sorted(present, key=lambda pair: -pair[1]))


def as_value(values: Mapping[str, float]) -> float | dict[str, float]:
    """Numbers by name, or the only one alone."""
    return next(iter(values.values())) if len(values) == 1 else dict(values)


@dataclass(frozen=True)
class PredictedSpan(TimeSpan):
    """A labelled part of a sample.

    Args:
        text: what it says, in samples of text.
        border: kind of the border that it starts at, of segments.
        border_score: probability of that border.
        box: of a part of a picture, which then is not on an axis of time.
    """

    text: str = ""
    border: str | None = None
    border_score: float | None = None
    box: Box | None = None

    def plain(self) -> dict[str, Any]:
        """The values that are present, as JSON."""
        where: dict[str, Any] = {"start": self.start, "end": self.end} if self.box is None else {"box": list(self.box)}
        rest = {"label": self.label, "score": self.score, "text": self.text}
        rest |= {"border": self.border, "border_score": self.border_score}
        return where | {name: value for name, value in rest.items() if value not in (None, "")}


@dataclass(frozen=True)
class Attribution:
    """A part of a sample that weighed in a prediction.

    Args:
        level: whose token it is.
        weight: its share of the weights of the level.
        tower: that read it, if there are several.
        start: in seconds, bytes of a text, or tokens; of a part that has no ``box``.
        end: the same.
        box: of a part of a picture.
        text: what it says, in samples of text.
    """

    level: str
    weight: float
    tower: str = ""
    start: float | None = None
    end: float | None = None
    box: Box | None = None
    text: str = ""

    def plain(self) -> dict[str, Any]:
        """The values that are present, as JSON."""
        values = {
            "tower": self.tower,
            "level": self.level,
            "weight": self.weight,
            "start": self.start,
            "end": self.end,
            "box": None if self.box is None else list(self.box),
            "text": self.text,
        }
        return {name: value for name, value in values.items() if value not in (None, "")}


@dataclass(frozen=True)
class SpanPrediction(Predicted):
    """The predicted spans of a sample: tags, segments, or recognized symbols with their times.

    Args:
        spans: in order.
        unit: of their starts and ends: ``seconds``, ``bytes`` of a text, ``pixels``, or ``tokens``.
        text: the transcript, for tasks that write one.
    """

    spans: tuple[PredictedSpan, ...]
    unit: str
    text: str | None = None

    @property
    def labels(self) -> list[str]:
        """The labels of the spans."""
        return [span.label for span in self.spans]

    def row(self, top: int | None = None) -> dict[str, Any]:
        """``predicted``, which is the transcript or the list of labels, and ``spans``."""
        predicted = self.labels if self.text is None else self.text
        return {"predicted": predicted, "unit": self.unit, "spans": [span.plain() for span in self.spans]}


@dataclass(frozen=True)
class TextPrediction(Predicted):
    """The text that was written from a sample.

    Args:
        text: the text.
        score: probability of its tokens, as their geometric mean.
        ended: whether the model ended it, rather than the limit of its length.
    """

    text: str
    score: float
    ended: bool

    def row(self, top: int | None = None) -> dict[str, Any]:
        """``predicted``, which is the text, and its ``score``."""
        return {"predicted": self.text, "score": self.score}


def text_lines(row: PredictionRow) -> list[str]:
    """A row as lines for people."""
    lead = f"{row['sample']}: " if row["sample"] else ""
    true = f"  (true: {_short(row['true'])})" if row.get("true") is not None else ""
    if isinstance(row["predicted"], float | dict):
        lines = [f"{lead}{_short(row['predicted'])}{true}"]
    elif "scores" in row and isinstance(row["predicted"], list):
        scores = row["scores"]
        chosen = "  ".join(f"{label} {scores[label]:.1%}" for label in row["predicted"]) or "no class"
        lines = [f"{lead}{chosen}{true}"]
    elif "scores" in row:
        scores = "  ".join(f"{label} {score:.1%}" for label, score in row["scores"].items())
        lines = [f"{lead}{scores}{true}"]
    else:
        spans = row.get("spans", ())
        predicted = row["predicted"] if isinstance(row["predicted"], str) else f"{len(spans)} spans"
        lines = [f"{lead}{predicted}{true}", *(_span_line(span, row["unit"]) for span in spans)]
    return lines + [_attribution_line(part) for part in row.get("attributions") or ()]


def _span_line(span: Mapping[str, Any], unit: str) -> str:
    digits = 2 if unit == "seconds" else 0
    where = str(span["box"]) if "box" in span else f"{span['start']:10.{digits}f} {span['end']:10.{digits}f}"
    label = span.get("label", "") + (f" {span['score']:.1%}" if "score" in span else "")
    border = f"  ({span['border']} {span['border_score']:.1%})" if "border" in span else ""
    return f"  {where}  {label}{border}{'  ' + span['text'] if 'text' in span else ''}"


def _attribution_line(part: Mapping[str, Any]) -> str:
    where = f"box {part['box']}" if "box" in part else f"{part['start']:g} to {part['end']:g}"
    tower = f"{part['tower']}, " if part.get("tower") else ""
    text = f"  {part['text']}" if part.get("text") else ""
    return f"    {tower}{part['level']}: {part['weight']:.1%} by {where}{text}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return "  ".join(f"{name} {number:.6g}" for name, number in value.items())
    return value if isinstance(value, str) else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
