"""The configuration of training: the optimizer with its schedule, the loop, and the run folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from ..core.component import Component
from ..tasks.language import LanguageConfig
from ..tasks.masked import MaskedConfig

Share = Annotated[float, Field(ge=0, lt=1)]
_SPAN = r"^(?:[0-9]+(?:\.[0-9]*)?h)?(?:[0-9]+(?:\.[0-9]*)?m)?(?:[0-9]+(?:\.[0-9]*)?s)?$"
_SPANS = ["90s", "10m", "1.5h"]


def _minutes(value: object) -> object:
    """Minutes from a text such as ``90s``, ``10m`` or ``1h30m``; other values as they are."""
    if not isinstance(value, str):
        return value
    if not value or not re.fullmatch(_SPAN, value):
        raise ValueError(f"{value!r} is no time; write minutes, or a number with s, m or h: 90s, 10m, 1.5h")
    units = {"h": 60.0, "m": 1.0, "s": 1 / 60}
    return sum(float(part[:-1]) * units[part[-1]] for part in re.findall(r"[0-9.]+[hms]", value))


Minutes = Annotated[
    PositiveFloat,
    BeforeValidator(
        _minutes,
        json_schema_input_type=PositiveFloat | Annotated[str, Field(pattern=_SPAN, min_length=1, examples=_SPANS)],
    ),
]
"""A time in minutes; in a configuration with a unit, where it is text."""


class CosineSchedule(Component):
    """After the warm-up, half a cosine from the full learning rate down to ``final_lr``."""

    type: Literal["cosine"] = "cosine"
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Where it ends, as a fraction of ``lr``."""
    decay_steps: PositiveInt | None = None
    """Steps from the end of the warm-up to ``final_lr``, which then stays; up to the last step when absent."""


class WSDSchedule(Component):
    """Warm-up, stable, decay: the full learning rate, then a straight line down to ``final_lr`` at the last step."""

    type: Literal["wsd"]
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Where it ends, as a fraction of ``lr``."""
    decay_steps: PositiveInt | None = None
    """Length of the line; the last fifth of the run when absent."""


class ConstantSchedule(Component):
    """The full learning rate from the end of the warm-up on."""

    type: Literal["constant"]


Schedule = Annotated[CosineSchedule | WSDSchedule | ConstantSchedule, Field(discriminator="type")]


TIMM_OPTIMIZERS = ("adabelief", "adoptw", "cadamw", "clion", "lion", "mars", "nadamw")
"""Optimizers of timm: those with decoupled weight decay whose state is saved exactly."""
OPTIMIZERS = ("adamw", "muon", "sgd", *TIMM_OPTIMIZERS)
_WITHOUT_EPS = ("sgd", "lion", "clion")


def _known_optimizer(name: object) -> object:
    if isinstance(name, str) and name not in OPTIMIZERS:
        raise ValueError(f"{name!r} is no known optimizer; it is one of {', '.join(OPTIMIZERS)}")
    return name


class OptimConfig(Component):
    """The optimizer, its schedule in steps, and gradient clipping. Levels scale the rate by their ``lr_scale``."""

    type: Annotated[
        Literal["adamw", "muon", "sgd", "adabelief", "adoptw", "cadamw", "clion", "lion", "mars", "nadamw"],
        BeforeValidator(_known_optimizer),
    ] = "adamw"
    """``adamw``; ``muon`` (torch) for matrices of levels, with AdamW for embeddings, heads and vectors; ``sgd`` with
    momentum; or one of timm (extra ``vision``): ``lion``, ``nadamw``, ``adoptw``, ``adabelief``, ``mars``, and the
    cautious ``cadamw`` and ``clion`` (arXiv 2411.16085)."""
    lr: PositiveFloat = 1e-3
    """The full learning rate."""
    weight_decay: NonNegativeFloat = 0.05
    """Decoupled weight decay, of ``sgd`` a part of the gradient; matrices alone, never norms, biases or gates."""
    betas: tuple[Share, Share] = (0.9, 0.98)
    """Decay of the running mean of the gradient, and of its square; not of ``sgd``."""
    momentum: Share | None = None
    """Of ``muon`` (0.95 when null) and ``sgd`` (0.9 when null)."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Factor of the learning rate for each block further from the head: blocks are counted from the embedding through
    all levels (arXiv 2106.08254). The same rate for all when null."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the running square."""
    warmup_steps: NonNegativeInt = 100
    """Steps over which the learning rate rises from near 0 in a straight line."""
    schedule: Schedule = CosineSchedule()
    """How the learning rate goes on after the warm-up."""
    clip_grad_norm: PositiveFloat | None = 1.0
    """The longest gradient, over all parameters; longer ones are scaled down. No clipping when null."""
    freeze: tuple[str, ...] = ()
    """Modules or parameters that are not trained, by name: ``encoder.embedding``, ``encoders.audio``."""

    @model_validator(mode="after")
    def _no_idle_settings(self) -> OptimConfig:
        idle = {"momentum": self.type not in ("muon", "sgd"), "eps": self.type in _WITHOUT_EPS}
        idle["betas"] = self.type == "sgd"
        for key, unused in idle.items():
            if unused and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} has no effect with type: {self.type}; drop it")
        return self


class PretrainConfig(Component):
    """A run before the run, on the same training samples without their labels (arXiv 2310.02980).

    Its modality, data and levels are those of the run. Its model leaves ``cross_scale.up`` out, which would change
    nothing at the finest level that is predicted, and has ``top_down`` where nothing else leads there.
    """

    task: Annotated[MaskedConfig | LanguageConfig, Field(discriminator="type")]
    """What is learned without labels: ``masked``, which in a causal model sees what came before alone, or for causal
    models over ids ``language``."""
    steps: PositiveInt
    """Optimizer steps."""
    optim: OptimConfig | None = None
    """The optimizer and its schedule; those of the run when absent."""
    batch_size: PositiveInt | None = None
    """Samples a batch; the batches of the run where neither this nor ``batch_tokens`` is given."""
    batch_tokens: PositiveInt | None = None
    """Level-0 tokens a batch at most."""
    time_limit: Minutes | None = None
    """Time after which it ends, by the run's ``clock``: minutes, or with a unit ``90s``, ``10m``, ``1.5h``; none when
    null."""

    @model_validator(mode="after")
    def _one_batch_rule(self) -> PretrainConfig:
        if self.batch_size is not None and self.batch_tokens is not None:
            raise ValueError("give one of batch_size and batch_tokens; both are given")
        return self


class EarlyStopping(Component):
    """Ends training when the monitored metric no longer improves; the best weights are then tested as usual."""

    patience: PositiveInt
    """Evaluations in a row without improvement after which training ends, every ``eval_every`` steps."""
    min_delta: NonNegativeFloat = 0.0
    """How much better than the last improvement the metric must be, to count as one."""


class TrainConfig(Component):
    """The training loop. All lengths are in optimizer steps."""

    steps: PositiveInt
    """Optimizer steps of the whole run."""
    batch_size: PositiveInt | None = None
    """Samples a batch, over all ranks together. Give this or ``batch_tokens``."""
    batch_tokens: PositiveInt | None = None
    """Level-0 tokens a batch at most, over all ranks together. Give this or ``batch_size``."""
    bucket_window: PositiveInt | None = None
    """With ``batch_tokens``, samples that are sorted by length among each other before they are cut into batches, such
    as 4096: a batch then has samples of similar length. Batches are shuffled. Samples stay shuffled when null."""
    accumulate: PositiveInt = 1
    """Batches whose gradients make one step."""
    accumulate_tokens: PositiveInt | None = None
    """Level-0 tokens that make one step, over all ranks together: batches are added until there are as many. Gives
    samples of unequal length steps of about equal size, in place of ``accumulate``."""
    eval_every: PositiveInt | None = 500
    """Steps between evaluations on the ``val`` split, which choose the best checkpoint; none when null."""
    eval_batches: PositiveInt | None = None
    """Batches of such an evaluation, a fixed random draw; the whole split when null."""
    monitor: str | None = None
    """Metric of ``val`` that chooses the best checkpoint, such as ``val/loss`` or ``val/accuracy``; the task's own
    (``task.monitor`` where it has one) when null, and in ``pretrain``."""
    monitor_mode: Literal["min", "max"] | None = None
    """Which way that metric is better; by its name when null."""
    early_stopping: EarlyStopping | None = None
    """Ends training early, not that of ``pretrain``; it goes on to the last step when null."""
    test: bool = True
    """Evaluate the best weights on the ``test`` split at the end."""
    log_every: PositiveInt = 20
    """Steps between lines of the log."""
    tensorboard: bool = True
    """Write TensorBoard event files too, where the package is installed."""
    loggers: tuple[str, ...] = ()
    """Where else metrics go: ``csv``, ``wandb``, ``mlflow``, or loggers that installed packages register."""
    callbacks: tuple[str, ...] = ()
    """Code that runs at set points of training, by the name under which an installed package registers it."""
    save_every: PositiveInt | None = 500
    """Steps between checkpoints; only the best, and the one at the end or at a stop, when null."""
    save_async: bool = False
    """Write checkpoints while training goes on, from a copy in host memory."""
    keep_last: PositiveInt = 2
    """Newest checkpoints that stay, beside the best."""
    device: Literal["auto", "cpu", "cuda", "mps", "xpu"] = "auto"
    """Where to train: CUDA, Intel's GPUs (``xpu``), Apple's (``mps``, one process), or the CPU; ``auto`` takes the
    first of these that is there."""
    parallel: Literal["auto", "ddp", "fsdp2", "hsdp"] = "auto"
    """How several ranks share the model: each holds a replica (``ddp``), or a shard of the parameters, gradients and
    optimizer state (``fsdp2``), or groups of ``shard_size`` ranks hold the shards of a replica (``hsdp``). ``auto`` is
    ``ddp``. One process trains without either."""
    shard_size: PositiveInt | None = None
    """Ranks of such a group of ``hsdp``; those of one machine when null."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 autocast where the device computes it in hardware (CUDA with bf16, CPUs with AMX), or one of the two."""
    collective_timeout: Minutes = 30.0
    """Time that ranks wait for each other, at the start and in every collective, until the run ends with an error:
    minutes, or with a unit ``90s``, ``10m``, ``1.5h``."""
    compile: bool = False
    """Compile the transformer blocks with ``torch.compile``: minutes at the start, faster steps after it."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the moving average of the weights, with which is then evaluated; off when null."""
    seed: NonNegativeInt = 0
    """Fixes the initial weights, the order of the samples, augmentation and dropout."""
    workers: NonNegativeInt = 0
    """Processes that load samples; 0 loads them in the training process. The batches are the same."""
    max_bad_share: Share = 0.01
    """Samples that cannot be used are skipped and counted; the run stops when more than this share is bad. Likewise
    shards of a stream."""
    init_from: Path | dict[str, Path] | None = None
    """A run folder, or ``hub:owner/name``, whose encoder weights start this run, or its pre-training where it has one.
    With several towers, one for each tower is allowed as well: all weights of the tower start from there."""
    pretrain: PretrainConfig | None = None
    """A run without labels that comes first, in the folder ``pretrain`` of the run; its encoder then starts the run."""
    num_threads: PositiveInt | None = None
    """Threads that compute on the CPU; torch's own choice when null."""
    time_limit: Minutes | None = None
    """Time after which training ends, by ``clock``: minutes, or with a unit ``90s``, ``10m``, ``1.5h``. The schedule
    follows steps or time, whichever is nearer its end."""
    clock: Literal["wall", "cpu"] = "wall"
    """What seconds and ``time_limit`` count: wall clock, with the evaluations and saves on the way; or the processor
    time of this process in training steps alone, over its threads together, which other processes do not use up."""

    @model_validator(mode="after")
    def _one_batch_rule(self) -> TrainConfig:
        if (self.batch_size is None) == (self.batch_tokens is None):
            given = "neither" if self.batch_size is None else "both"
            raise ValueError(f"give one of batch_size and batch_tokens; {given} is given")
        if self.bucket_window is not None and self.batch_tokens is None:
            raise ValueError("bucket_window has no effect without batch_tokens; drop it")
        return self

    @model_validator(mode="after")
    def _one_accumulation(self) -> TrainConfig:
        if self.accumulate_tokens is not None and self.accumulate > 1:
            raise ValueError("accumulate and accumulate_tokens both tell how many batches make a step; give one")
        return self

    @model_validator(mode="after")
    def _shards_of_a_size(self) -> TrainConfig:
        if self.shard_size is not None and self.parallel != "hsdp":
            raise ValueError(f"shard_size has no effect with parallel: {self.parallel}; set parallel: hsdp, or drop it")
        return self

    @model_validator(mode="after")
    def _something_to_monitor(self) -> TrainConfig:
        if self.eval_every is None:
            for key in ("early_stopping", "monitor", "monitor_mode"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} needs evaluations on val, and eval_every is null; set it")
        return self

    @model_validator(mode="after")
    def _clock_sees_all(self) -> TrainConfig:
        if self.clock == "cpu" and self.workers:
            raise ValueError("clock: cpu does not see what loader workers compute; set workers: 0")
        if self.clock == "cpu" and self.save_async:
            raise ValueError("clock: cpu would count the writing of checkpoints in between; set save_async: false")
        return self


class RunFolder(Component):
    """Where a run writes."""

    dir: Path | None = None
    """The run folder; ``runs/DATA-TASK`` when absent."""
