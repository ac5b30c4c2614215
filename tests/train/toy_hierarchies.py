"""Runs of small hierarchies over rows of numbers and ids, with all that a hierarchy has, for tests of several ranks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.data.dataset import Dataset, DatasetConfig
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import SINGLE, Tokenizer, TokenizerConfig
from hrt_mm.tasks import ClassificationConfig, ContrastiveConfig
from hrt_mm.train.config import OptimConfig, RunFolder, TrainConfig
from hrt_mm.train.run_config import RunConfig, TowerConfig
from tests.tasks.conftest import Ids, Rows, hierarchy

CLASSES = ("x", "y", "z")


class SizedRows(Rows):
    def size(self, shape: Sequence[int]) -> int:
        return shape[0]


class RowsConfig(TokenizerConfig):
    type: Literal["rows"] = "rows"

    def build(self, model: HierarchyConfig | None = None) -> Tokenizer:
        return SizedRows()


class IdsConfig(TokenizerConfig):
    type: Literal["ids"] = "ids"

    def build(self, model: HierarchyConfig | None = None) -> Tokenizer:
        return Ids()


class RowsData(Dataset):
    """Ragged rows around the mean of a class; with both modalities, ids of the class beside them, where not missing."""

    classes = CLASSES

    def __init__(self, config: RowsDataConfig, split: str) -> None:
        self.both, self.first = config.both, 0 if split == "train" else 1000

    def __len__(self) -> int:
        return 30 if not self.first else 11

    def shape(self, index: int) -> Sequence[int]:
        return (3 + index % 7,)

    def __getitem__(self, index: int) -> Sample:
        kind = index % 3
        generator = torch.Generator().manual_seed(self.first + index)
        rows = torch.randn(self.shape(index)[0], 4, generator=generator) + kind
        if not self.both:
            return Sample(rows, CLASSES[kind], f"s{index}")
        ids = torch.tensor([kind, index % 11, 3])
        values = {"rows": None if index % 5 == 4 else rows, "ids": None if index % 5 == 2 else ids}
        return Sample(values, f"g{index}", f"s{index}")


class RowsDataConfig(DatasetConfig):
    type: Literal["rows"] = "rows"
    both: bool = False

    def towers(self) -> tuple[str, ...]:
        return ("rows", "ids") if self.both else (SINGLE,)

    def build(self, split: str) -> Dataset:
        return RowsData(self, split)


LEARNED = [
    {"type": "learned", "target": 3, "max": 5, "smooth": True},
    {"type": "fixed", "stride": 2},
]


def rows_config(
    folder: Path,
    *,
    contrastive: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    optim: dict[str, Any] | None = None,
    **train: Any,
) -> RunConfig:
    """A run of a few steps; keywords go to ``train``.

    Args:
        folder: of the run.
        contrastive: options of a contrastive task over rows and ids, in place of classification of rows.
        model: options of the hierarchies.
        optim: options of the optimizer.
        train: options of the loop.
    """
    defaults: dict[str, Any] = {
        "steps": 4, "tensorboard": False, "precision": "fp32", "eval_every": 4, "log_every": 1, "test": False,
        "save_every": None,
    }  # fmt: skip
    if not {"batch_size", "batch_tokens"} & train.keys():
        defaults["batch_size"] = 7
    built = hierarchy(3 if contrastive is None else 2, **(model or {}))
    rows, ids = TowerConfig(modality=RowsConfig(), model=built), TowerConfig(modality=IdsConfig(), model=built)
    return RunConfig(
        towers={SINGLE: rows} if contrastive is None else {"rows": rows, "ids": ids},
        task=ClassificationConfig(type="classification", balance=1.0)
        if contrastive is None
        else ContrastiveConfig.model_validate({"type": "contrastive", "dim": 8, **contrastive}),
        data=RowsDataConfig(both=contrastive is not None),
        optim=OptimConfig.model_validate({"lr": 0.02, "warmup_steps": 1, **(optim or {})}),
        train=TrainConfig.model_validate(defaults | train),
        run=RunFolder(dir=folder),
    )
