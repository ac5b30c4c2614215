"""A modality and a task that train in milliseconds: sums of noisy numbers, classified by a small network."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hrt_mm.core.errors import BadSample
from hrt_mm.core.levels import FixedGroups, HierarchyConfig, Level
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.dataset import Dataset, DatasetConfig
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import SINGLE, Tokenizer, TokenizerConfig
from hrt_mm.tasks.base import Task, TaskOutput
from hrt_mm.tasks.batch import Batch
from hrt_mm.tasks.encoding import EncoderTaskConfig
from hrt_mm.train.config import OptimConfig, RunFolder, TrainConfig
from hrt_mm.train.run_config import RunConfig, TowerConfig

CLASSES = ("low", "high")


class ToyTokenizer(Tokenizer):
    axes = 1
    levels = ("numbers", "sums")

    def __call__(self, values: Sequence[Any]) -> Tokens:
        for value in values:
            if len(value) == 0:
                raise BadSample("a value", "it is empty")
        return Tokens.pack(list(values))

    def embedding(self, dim: int) -> nn.Module:
        raise NotImplementedError

    def size(self, shape: Sequence[int]) -> int:
        return shape[0]


class ToyTokenizerConfig(TokenizerConfig):
    type: Literal["toy"] = "toy"

    def build(self, model: HierarchyConfig | None = None) -> Tokenizer:
        return ToyTokenizer()


class ToyDataset(Dataset):
    """Ragged runs of noise around a class's mean, made anew at every reading, as augmentation does."""

    def __init__(self, config: ToyData, split: str) -> None:
        self.classes = (*CLASSES, "odd") if split in config.odd_class else CLASSES
        self.config = config
        self.split = split

    def __len__(self) -> int:
        return self.config.samples if self.split == "train" else self.config.held_out

    def __getitem__(self, index: int) -> Sample:
        name = f"{self.split}/{index}"
        if self.config.delay:
            time.sleep(self.config.delay)
        if self.split == "train" and index in self.config.unreadable:
            raise BadSample(name, "it is cut short")
        if self.split == "train" and index in self.config.empty:
            return Sample(torch.zeros(0, 4), "low", name)
        label = "strange" if self.split == "train" and index in self.config.mislabelled else CLASSES[index % 2]
        noise = torch.randn(self.shape(index)[0], 4) + random.random() + float(np.random.random())  # noqa: NPY002
        value = noise + (1.0 if index % 2 else -1.0)
        if self.split == "train" and index in self.config.not_a_number:
            value[0, 0] = float("nan")
        return Sample(value, label, name)

    def shape(self, index: int) -> Sequence[int]:
        return (2 + index % 5,)


class ToyData(DatasetConfig):
    type: Literal["toy"] = "toy"
    samples: int = 64
    held_out: int = 10
    delay: float = 0.0
    unreadable: tuple[int, ...] = ()
    empty: tuple[int, ...] = ()
    mislabelled: tuple[int, ...] = ()
    not_a_number: tuple[int, ...] = ()
    odd_class: tuple[str, ...] = ()

    def build(self, split: str) -> Dataset:
        return ToyDataset(self, split)


class ToyTask(Task):
    monitor = "accuracy"
    monitor_mode = "max"

    def __init__(self, config: ToyTaskConfig, model: HierarchyConfig) -> None:
        super().__init__()
        fine, coarse = (level.dim for level in model.levels)
        self.scales = [level.lr_scale for level in model.levels]
        self.encoder = nn.ModuleDict({"embedding": nn.Linear(4, fine), "norm": nn.LayerNorm(fine)})
        self.encoder["numbers"] = nn.Linear(fine, coarse)
        self.head = nn.Linear(coarse, len(CLASSES))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.calls: Tensor
        self.dropout = config.dropout
        self.explode = config.explode

    def forward(self, batch: Batch) -> TaskOutput:
        assert batch.target is not None
        if self.training:
            self.calls += 1
            wait_at_gate(int(self.calls))
        x_TD = self.encoder["norm"](self.encoder["embedding"](batch.tokens.x)).relu()
        x_TD = F.dropout(self.encoder["numbers"](x_TD), self.dropout, self.training)
        ids_T = batch.tokens.spans.ids[:, None].expand_as(x_TD)
        pooled_BD = torch.zeros(len(batch), x_TD.shape[1]).scatter_reduce(
            0, ids_T, x_TD.float(), "mean", include_self=False
        )
        logits_BK = self.head(pooled_BD).float()
        loss = F.cross_entropy(logits_BK, batch.target)
        if self.explode and self.training:
            # Zero in value; the gradient of the root is infinite there.
            loss = loss + (self.head.weight * 0).abs().sum().sqrt()
        hits = (logits_BK.argmax(-1) == batch.target).sum()
        stats = {"accuracy": (hits, torch.tensor(len(batch)))}
        return TaskOutput(loss, {"cross_entropy": loss.detach()}, stats, logits_BK.detach().argmax(-1))

    def parameter_levels(self) -> dict[str, int | None]:
        positions = {"encoder.numbers": 0, "head": 1}
        return {name: positions.get(name.rpartition(".")[0]) for name, _ in self.named_parameters()}

    def lr_scales(self) -> Sequence[float]:
        return self.scales

    def nonfinite_source(self, batch: Batch) -> str:
        return "the loss" if batch.tokens.x.isfinite().all() else "the input"


def wait_at_gate(call: int) -> None:
    """Halts a run at a forward pass until a file is there, so that it cannot end before a test has stopped it.

    ``TOY_GATE`` is ``CALL:FILE``; without it nothing waits.
    """
    number, _, file = os.environ.get("TOY_GATE", "").partition(":")
    while file and call >= int(number) and not Path(file).exists():
        time.sleep(0.005)


class ToyTaskConfig(EncoderTaskConfig):
    type: Literal["toy"] = "toy"
    dropout: float = 0.1
    explode: bool = False

    def build(self, model: HierarchyConfig, tokenizer: Tokenizer, classes: tuple[str, ...] | None) -> Task:
        assert classes == CLASSES
        return ToyTask(self, model)

    def targets(self, samples: Sequence[Sample], tokens: Tokens, classes: tuple[str, ...] | None) -> Tensor:
        assert classes is not None
        for sample in samples:
            if sample.label not in classes:
                raise BadSample(sample.name, f"label {sample.label!r} is unknown")
        return torch.tensor([classes.index(sample.label) for sample in samples])


def toy_config(
    folder: Path,
    *,
    data: dict[str, Any] | None = None,
    task: dict[str, Any] | None = None,
    optim: dict[str, Any] | None = None,
    dim: int = 8,
    **train: Any,
) -> RunConfig:
    """A run of a few steps; keywords go to ``train``."""
    batch = {} if {"batch_size", "batch_tokens"} & train.keys() else {"batch_size": 8}
    defaults: dict[str, Any] = {"steps": 6, "tensorboard": False, "precision": "fp32", "eval_every": 4, "log_every": 2}
    levels = (
        Level(name="numbers", dim=dim, heads=1, group=FixedGroups(stride=2)),
        Level(name="sums", dim=6, heads=1, lr_scale=0.5),
    )
    return RunConfig(
        towers={SINGLE: TowerConfig(modality=ToyTokenizerConfig(), model=HierarchyConfig(levels=levels))},
        task=ToyTaskConfig(**(task or {})),
        data=ToyData(**(data or {})),
        optim=OptimConfig(**({"lr": 0.02, "warmup_steps": 2} | (optim or {}))),
        train=TrainConfig(**(defaults | batch | train)),
        run=RunFolder(dir=folder),
    )
