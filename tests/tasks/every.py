"""A small case of every task: what is built, ragged samples of it, some of which cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import Tokenizer
from hrt_mm.tasks import TASKS, Batch, GenerationConfig, JointTaskConfig, Task, TaskConfig
from tests.tasks.conftest import Ids, RowEmbedding, Rows, hierarchy, unzero

CLASSES = ("x", "y", "z")
LENGTHS = (13, 5, 9, 30, 6, 7, 11, 8)


class Cut(Tokenizer):
    """Rows with a cut before each one whose first feature is large."""

    axes = 1
    levels = ("rows",)
    boundaries = ("thirds", "cuts")
    features = 4

    def __call__(self, values: Sequence[Tensor]) -> Tokens:
        masks = {
            "thirds": [torch.arange(len(value)) % 3 == 0 for value in values],
            "cuts": [value[:, 0] > 0.7 for value in values],
        }
        return Tokens.pack(values, boundaries=masks)

    def embedding(self, dim: int) -> nn.Module:
        return RowEmbedding(dim)


class Writable(Ids):
    """Ids that can be written, the last of which is the separator."""

    separator = 10

    def prompts(self, values: Sequence[Any]) -> Tokens:
        return self([torch.tensor([self.separator, *value]) for value in values])

    def writer(self) -> Callable[[int], str]:
        return lambda token: "" if token == self.separator else "abcdefghij"[token]


class Pixels(Cut):
    """Rows whose features are pixels with a label each."""

    labels_per_token = 4

    def label_tokens(self, masks: Sequence[Tensor], missing: int) -> Tensor:
        return torch.cat([*masks])

    def label_maps(self, tokens: Tokens, labels_TP: Tensor) -> list[Tensor]:
        return [*tokens.spans.split(labels_TP)]

    def labels_of(self, value: Any, label_map: Tensor, missing: int) -> Tensor:
        return label_map


@dataclass(frozen=True)
class Case:
    """A task with samples.

    Args:
        options: of the task.
        label: of a sample's rows and place.
        value: of the same.
        model: the hierarchy's options.
        tokenizer: of the samples.
    """

    options: dict[str, Any]
    label: Callable[[Tensor, int], Any] = lambda rows, place: None
    value: Callable[[Tensor, int], Any] = lambda rows, place: rows
    model: Callable[[], HierarchyConfig] = lambda: hierarchy(2)
    tokenizer: Callable[[], Tokenizer] = Cut

    @property
    def config(self) -> TaskConfig:
        return TASKS[self.options["type"]].model_validate(self.options)

    @property
    def joint(self) -> bool:
        return isinstance(self.config, JointTaskConfig)

    def models(self) -> dict[str, HierarchyConfig]:
        if isinstance(self.config, GenerationConfig):
            return {"rows": hierarchy(2, cross_scale={"up": True}), "ids": _causal()}
        if isinstance(self.config, JointTaskConfig):
            return {"rows": hierarchy(2), "ids": hierarchy(2)}
        return {"": self.model()}

    def tokenizers(self) -> dict[str, Tokenizer]:
        return {"rows": Rows(), "ids": Writable()} if self.joint else {"": self.tokenizer()}

    def build(self, *, awake: bool = True) -> Task:
        torch.manual_seed(0)
        task = self.config.build_towers(self.models(), self.tokenizers(), CLASSES)
        if awake:
            unzero(task)
        return task

    def batch(self, places: Sequence[int]) -> Batch:
        samples = []
        for place in places:
            generator = torch.Generator().manual_seed(place)
            rows = torch.randn(LENGTHS[place], 4, generator=generator)
            samples.append(Sample(self.value(rows, place), self.label(rows, place), f"s{place}"))
        result = self.config.collator(self.models(), self.tokenizers(), CLASSES)(samples)
        if self.options["type"] in ("classification", "matching", "fused_classification"):
            assert result.target is not None
            # Samples without a label come from data that has none of some; a target says so.
            result.target[[at for at, place in enumerate(places) if place == 3]] = -1
        return result


def _class(rows: Tensor, place: int) -> str:
    return CLASSES[place % 3]


def _tags(rows: Tensor, place: int) -> list[str | None]:
    return [None if place == 1 or at % 4 == 3 else CLASSES[(at + place) % 3] for at in range(len(rows))]


def _symbols(rows: Tensor, place: int) -> list[str]:
    # One sample has a symbol that training has not; others of few and of many symbols.
    return ["x", "?"] if place == 3 else [CLASSES[(at + place) % 3] for at in range(1 + place % 4)]


def _segments(rows: Tensor, place: int) -> list[str | None]:
    count = 1 + int((rows[1:, 0] > 0.7).sum())
    return [None if (at + place) % 3 == 0 else CLASSES[at % 3] for at in range(count)]


def _both(rows: Tensor, place: int) -> dict[str, Any]:
    return {"rows": None if place == 2 else rows, "ids": None if place == 5 else torch.tensor([place, 5, place % 3])}


def _causal() -> HierarchyConfig:
    return hierarchy(2, causal=True, top_down=True)


def _down() -> HierarchyConfig:
    return hierarchy(2, top_down=True)


def _up() -> HierarchyConfig:
    return hierarchy(2, cross_scale={"up": True})


CASES = {
    "classification": Case({"type": "classification", "label_smoothing": 0.1}, _class),
    "weighted classification": Case(
        {"type": "classification", "class_weights": {"x": 3.0, "y": 0.5, "z": 1.0}}, _class
    ),
    "balanced classification": Case({"type": "classification", "balance": 1.0}, _class),
    "tagging": Case({"type": "tagging", "level": "a"}, _tags, model=_down),
    "regression": Case(
        {"type": "regression", "loss": "huber", "outputs": ["sum", "length"], "mean": [0.5, 9.0], "std": [2.0, 7.0]},
        lambda rows, place: [float(rows.sum()), float(len(rows))],
    ),
    "multilabel": Case(
        {"type": "multilabel", "pos_weight": {"x": 2.0, "y": 1.0, "z": 0.5}, "thresholds": "val"},
        lambda rows, place: [name for at, name in enumerate(CLASSES) if (place + at) % (at + 2) == 0],
    ),
    "semantic segmentation": Case(
        {"type": "semantic_segmentation", "class_weights": {"x": 1.0, "y": 0.5, "z": 3.0}},
        lambda rows, place: torch.where(rows > 1.5, 255, (rows * 9).long() % 3),
        model=_down,
        tokenizer=Pixels,
    ),
    "matching": Case({"type": "matching"}, _class, lambda rows, place: (rows[:3], rows[2:])),
    "boundary": Case({"type": "boundary", "unit": "cuts"}, model=_down),
    "language": Case(
        {"type": "language"},
        value=lambda rows, place: (rows[:, 0].abs() * 5).long().clamp(max=10),
        model=_causal,
        tokenizer=Ids,
    ),
    "masked": Case({"type": "masked", "normalize": False}, model=_down),
    "masked ids": Case(
        {"type": "masked"},
        value=lambda rows, place: (rows[:, 0].abs() * 5).long().clamp(max=10),
        model=_down,
        tokenizer=Ids,
    ),
    "ctc": Case({"type": "ctc", "level": "b"}, _symbols),
    "ctc with a prior": Case({"type": "ctc", "level": "b", "prior": 0.3}, _symbols),
    "ctc with silence and spellings": Case(
        {
            "type": "ctc",
            "level": "b",
            "silence": True,
            "prior": 0.3,
            "finer": {"level": "a", "spellings": {"x": "p q", "y": "r", "z": "q p"}, "weight": 0.5},
        },
        lambda rows, place: _symbols(rows, place)[:1] if len(rows) < 9 else _symbols(rows, place),
        model=_up,
    ),
    "segmentation": Case(
        {"type": "segmentation", "borders": {"cuts": {}}, "level": ["a", "b"], "label_weight": 0.7}, _segments
    ),
    "segmentation without labels": Case(
        {"type": "segmentation", "borders": {"cuts": {}}, "level": ["a", "b"], "labels": False, "unit": "thirds"}
    ),
    "fused": Case({"type": "fused_classification", "drop_modality": 0}, _class, _both),
    "fused, each alone": Case({"type": "fused_classification", "drop_modality": 0, "alone": 0.6}, _class, _both),
    "contrastive": Case({"type": "contrastive"}, value=_both),
    "generation": Case(
        {"type": "generation", "target": "ids", "read": {"a": "b", "b": ["a", "b"]}, "decode_share": 0},
        value=lambda rows, place: {"rows": rows, "ids": torch.tensor([place, 5, place % 3][: place % 4])},
    ),
}
