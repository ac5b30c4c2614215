"""The framework's own recipe on scikit-learn's handwritten digits, with the learning rate as its one knob.

Shapes: B and N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hrt_mm import CrossScale, FixedGroups, HierarchyConfig, Level
from hrt_mm.analysis.control import flat_control
from hrt_mm.tasks.batch import Batch
from hrt_mm.tasks.classification import Classification, ClassificationConfig
from hrt_mm.train.config import OptimConfig
from hrt_mm.train.optim import build_optimizer, clip_gradients, set_learning_rate
from hrt_mm.train.schedule import learning_rate
from hrt_modalities.vision.memory import DigitsConfig
from hrt_modalities.vision.tokenizer import VisionConfig, VisionTokenizer

CLASSES = tuple("0123456789")
VISION = VisionConfig(type="vision", channels=1, patch=1, mean=0.3, std=0.38)


def model_config(contender: str) -> HierarchyConfig:
    """The levels of ``configs/vision/digits.yaml`` with cross-scale attention, narrower; or their flat control."""
    group = FixedGroups(stride=2)
    config = HierarchyConfig(
        levels=(
            Level(name="pixels", dim=32, depth=1, heads=1, window=4, group=group, pool="conv"),
            Level(name="strokes", dim=64, depth=1, heads=2, group=group, pool="conv"),
            Level(name="digit", dim=96, depth=2, heads=3),
        ),
        cross_scale=CrossScale(up=True, down=True),
    )
    return config if contender == "hierarchy" else flat_control(config, axes=2)


def build(contender: str, device: str, *, backend: str = "auto") -> tuple[Classification, VisionTokenizer]:
    """A contender's task, and the tokenizer that its batches come from."""
    config = model_config(contender).model_copy(update={"backend": backend})
    tokenizer = VISION.build_grid(config)
    return ClassificationConfig(type="classification").build(config, tokenizer, CLASSES).to(device), tokenizer


class Trainer:
    """A contender that is being trained.

    Args:
        contender: which.
        lr: full learning rate.
        seed: of the weights.
        settings: ``steps``, ``warmup_steps`` and ``device``.
    """

    def __init__(self, contender: str, lr: float, seed: int, settings: Mapping[str, Any]) -> None:
        torch.manual_seed(seed)
        self.device = settings["device"]
        self.steps = settings["steps"]
        self.task, self.tokenizer = build(contender, self.device)
        self.optim = OptimConfig(lr=lr, warmup_steps=settings["warmup_steps"])
        self.optimizer = build_optimizer(self.task, self.optim)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    @property
    def diverged(self) -> bool:
        """Whether a loss was not finite; training stopped there."""
        return bool(self.losses) and not math.isfinite(self.losses[-1])

    def batch(self, images_BCHW: Tensor, labels_B: Tensor) -> Batch:
        """Images as a batch on the device."""
        return Batch.of(self.tokenizer(list(images_BCHW)), labels_B).to(self.device)

    def step(self, images_BCHW: Tensor, labels_B: Tensor) -> None:
        """One optimizer step, unless training stopped."""
        if self.diverged:
            return
        start = time.perf_counter()
        self.task.train()
        set_learning_rate(self.optimizer, learning_rate(self.optim, len(self.losses), self.steps))
        loss = self.task(self.batch(images_BCHW, labels_B)).loss
        loss.backward()
        norm = clip_gradients(list(self.task.parameters()), self.optim.clip_grad_norm)
        # Reading the loss waits for the device, so the seconds are whole.
        self.losses.append(loss.item() if bool(norm.isfinite()) else math.nan)
        if not self.diverged:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.seconds.append(time.perf_counter() - start)

    def accuracy(self, images_NCHW: Tensor, labels_N: Tensor) -> float | None:
        """Share of right answers; ``None`` where training stopped."""
        if self.diverged:
            return None
        self.task.eval()
        with torch.inference_mode():
            guess_N = self.task(self.batch(images_NCHW, labels_N)).predictions
        return float((guess_N.cpu() == labels_N).float().mean())

    @property
    def final_loss(self) -> float | None:
        """Mean training loss over the last tenth of the steps; ``None`` where training stopped."""
        return None if self.diverged else statistics.fmean(self.losses[-max(1, self.steps // 10) :])


def digits(train: bool) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 8, 8) and labels (N,)."""
    images_NCHW, labels, _ = DigitsConfig(type="digits").load(train)
    return images_NCHW, torch.as_tensor(labels)
