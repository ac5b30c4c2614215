"""The outline of a video of any length in constant memory: its scenes, and the labelled clips in them.

Frames are decoded and encoded in overlapping windows, so that each step has context on both sides. Only running means
of the features are stored, and the features of a border until it ends.

Shapes: U steps, D features of a step, K kinds of borders, including none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.levels import GivenGroups
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.time_span import TimeSpan
from hrt_mm.tasks import Segmentation

from ..video.readers import VideoFile
from ..video.stretches import BLOCK
from ..video.tokenizer import VideoTokenizer
from ..video.video import Video


@dataclass(frozen=True)
class Scene(TimeSpan):
    """The span between two borders, with the class as its label where the run has classes.

    Args:
        border: kind of the border that it starts at; ``None`` for the first one.
        border_prob: probability of that border.
        clips: spans within it, in order of time.
    """

    border: str | None = None
    border_prob: float = 1.0
    clips: tuple[TimeSpan, ...] = ()


@dataclass
class _Mean:
    """A running mean of steps."""

    sum_D: Tensor | None = None
    count: int = 0

    def add(self, step_D: Tensor) -> None:
        self.sum_D = step_D.clone() if self.sum_D is None else self.sum_D + step_D
        self.count += 1

    def get(self) -> Tensor:
        assert self.sum_D is not None
        return self.sum_D / self.count


@dataclass
class _BorderRun:
    """Consecutive steps that form one border, whose middle is known only when they end."""

    first: int
    probs: list[Tensor] = field(default_factory=list)
    steps: list[Tensor] = field(default_factory=list)


class Outliner:
    """Builds scenes from steps that arrive in order.

    Args:
        task: a trained task, whose heads classify the steps.
        seconds: duration of a step.
        clip: number of steps of a clip.
        shortest: least number of steps between two borders; of two that are closer, the first counts.
    """

    def __init__(self, task: Segmentation, seconds: float, clip: int, shortest: int = 1) -> None:
        self.task, self.seconds, self.clip, self.shortest = task, seconds, clip, shortest
        self.count = 0
        self._run: _BorderRun | None = None
        self._begin(0, None, 1.0)

    def feed(self, units_UD: Tensor) -> Iterator[Scene]:
        """The scenes that new steps complete."""
        probs_UK = self.task.border_head(units_UD).float().softmax(-1).cpu()
        for probs_K, step_D in zip(probs_UK, units_UD, strict=True):
            border = self.count > 0 and float(1 - probs_K[0]) > self.task.config.threshold
            if not border and self._run is not None:
                yield from self._close(self._run)
            if border:
                self._run = self._run or _BorderRun(self.count)
                self._run.probs.append(probs_K)
                self._run.steps.append(step_D)
            else:
                self._add(step_D)
            self.count += 1

    def flush(self, seconds: float) -> Iterator[Scene]:
        """The remaining scenes, at the end of a video of so many seconds."""
        if self._run is not None:
            yield from self._close(self._run)
        if self._scene_mean.count:
            yield self._scene(seconds)

    def _close(self, run: _BorderRun) -> Iterator[Scene]:
        """Ends the scene at the centre of mass of a border, unless it has just begun."""
        probs_UK = torch.stack(run.probs)
        border_U = 1 - probs_UK[:, 0]
        middle = round(float((torch.arange(len(border_U)) * border_U).sum() / border_U.sum()))
        self._run = None
        if self._border is not None and run.first + middle - self._first < self.shortest:
            for step_D in run.steps:
                self._add(step_D)
            return
        for step_D in run.steps[:middle]:
            self._add(step_D)
        yield self._scene((run.first + middle) * self.seconds)
        kind = int(probs_UK[:, 1:].sum(0).argmax())
        self._begin(run.first + middle, self.task.names[kind], float(border_U.max()))
        for step_D in run.steps[middle:]:
            self._add(step_D)

    def _begin(self, first: int, border: str | None, border_prob: float) -> None:
        self._first, self._border, self._border_prob = first, border, border_prob
        self._scene_mean, self._clip_mean = _Mean(), _Mean()
        self._clips: list[TimeSpan] = []

    def _add(self, step_D: Tensor) -> None:
        self._scene_mean.add(step_D)
        self._clip_mean.add(step_D)
        if self._clip_mean.count == self.clip:
            self._end_clip()

    def _end_clip(self) -> None:
        label, score = self._classify(self._clip_mean)
        start = self._clips[-1].end if self._clips else self._first * self.seconds
        end = start + self._clip_mean.count * self.seconds
        # Adjacent clips with the same label are merged.
        if self._clips and self._clips[-1].label == label:
            last = self._clips.pop()
            start = last.start
            score = max(last.score, score) if last.score is not None and score is not None else None
        self._clips.append(TimeSpan(start, end, label, score))
        self._clip_mean = _Mean()

    def _scene(self, end: float) -> Scene:
        if self._clip_mean.count:
            self._end_clip()
        label, score = self._classify(self._scene_mean)
        start = self._first * self.seconds
        return Scene(start, end, label, score, self._border, self._border_prob, tuple(self._clips))

    def _classify(self, mean: _Mean) -> tuple[str, float | None]:
        """The class of a mean and its probability."""
        if self.task.label_head is None or not mean.count:
            return "", None
        probs_C = self.task.label_logits(mean.get()[None], Spans.from_lengths([1], mean.get().device)).softmax(-1)[0]
        label = int(probs_C.argmax())
        return self.task.classes[label], float(probs_C[label])


class FileOutline:
    """The outline of a file.

    Args:
        task: a trained segmentation task of the video modality.
        tokenizer: of the same run.
        window: seconds that are encoded at once; about the duration of the training videos.
        margin: overlap with the neighbours on each side of a window in seconds.
        clip: duration of a clip in seconds.
        shortest: least seconds between two borders; of two that are closer, the first counts.
        batch: number of windows that are encoded together.

    Raises:
        ConfigError: the task is not such a task, its steps are not steps in time, or its model needs given groups.
    """

    def __init__(
        self,
        task: Any,
        tokenizer: Any,
        *,
        window: float = 8.0,
        margin: float = 1.6,
        clip: float = 0.8,
        shortest: float = 0.5,
        batch: int = 4,
    ) -> None:
        if not isinstance(task, Segmentation) or not isinstance(tokenizer, VideoTokenizer):
            raise ConfigError("an outline needs a run of modality video with task segmentation; see video/quickstart")
        if task.config.unit != "frames":
            raise ConfigError(f"an outline needs task.unit: frames, and the run has {task.config.unit!r}")
        levels = task.encoder.hierarchy.config.levels
        given = {level.group.boundary for level in levels if isinstance(level.group, GivenGroups)} - {"frames"}
        if given:
            raise ConfigError(
                f"an outline finds where things begin, and the run's model is given it: groups by {', '.join(given)}; "
                "train one with other groups"
            )
        # Training videos have annotated borders, files do not.
        self.tokenizer = tokenizer.with_boundaries({"frames"})
        self.task, self.batch = task, batch
        # Frames are read at the frame rate of training, whatever that of the file is.
        spacing = tokenizer.extents.nearest_spacing(1.0) if tokenizer.extents is not None else None
        self.rate = tokenizer.config.rate / (spacing or 1.0)
        self.step = tokenizer.config.tube / self.rate
        self.window, self.margin = max(1, round(window / self.step)), max(0, round(margin / self.step))
        self.clip, self.shortest = max(1, round(clip / self.step)), max(1, round(shortest / self.step))

    @torch.no_grad()
    def scenes(self, file: VideoFile) -> Iterator[Scene]:
        """The scenes of a file, each as soon as it ends."""
        outliner = Outliner(self.task, self.step, self.clip, self.shortest)
        steps = max(1, round(file.index.seconds / self.step))
        for units_UD in self._steps(file, steps):
            yield from outliner.feed(units_UD)
        yield from outliner.flush(file.index.seconds)

    def _steps(self, file: VideoFile, steps: int) -> Iterator[Tensor]:
        """(U, D) features of steps in order, a few windows at a time."""
        waiting: list[tuple[Video, int, int]] = []
        for first in range(0, steps, self.window):
            begin, end = max(0, first - self.margin), min(steps, first + self.window + self.margin)
            video = self._read(file, begin, end)
            # Steps of the margins belong to the neighbours.
            waiting.append((video, first - begin, min(first + self.window, steps) - begin))
            if len(waiting) == self.batch or end == steps:
                yield self._encoded(waiting)
                waiting = []
            if end == steps and first + self.window >= steps:
                return

    def _read(self, file: VideoFile, begin: int, end: int) -> Video:
        """The frames of some steps; broken frames repeat the one before."""
        tube = self.tokenizer.config.tube
        numbers = [file.index.at(number / self.rate) for number in range(begin * tube, end * tube)]
        # Large frames are resized in small blocks to save memory.
        blocks = (numbers[first : first + BLOCK] for first in range(0, len(numbers), BLOCK))
        return Video.of(torch.cat([self.tokenizer.fitted(file.steady(block)) for block in blocks]), self.rate)

    def _encoded(self, waiting: Sequence[tuple[Video, int, int]]) -> Tensor:
        device = next(self.task.parameters()).device
        tokens: Tokens = self.tokenizer([video for video, _, _ in waiting]).to(device)
        units_UD, _ = self.task.steps(tokens)
        lengths = [len(video) // self.tokenizer.config.tube for video, _, _ in waiting]
        parts = units_UD.split(lengths)
        return torch.cat([part[first:last] for part, (_, first, last) in zip(parts, waiting, strict=True)])
