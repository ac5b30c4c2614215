"""Pretrained encoders as stems: the keys that they share, and which of their parameters train.

A modality's stem derives its configuration from :class:`PretrainedStem`, loads an encoder, as the functions of
:mod:`.model_sources` do, and wraps it with :meth:`PretrainedStem.wrap`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from hrt_mm.core.component import Component
from hrt_mm.core.per_step import PerStep

from .encoder_layers import LoraAdapters, add_adapters, check_count, keep_layers, parameter_groups
from .feature_cache import FeatureCache, FeatureCacheConfig

if TYPE_CHECKING:
    pass


class Unfreeze(Component):
    """When layers of a frozen encoder start to train."""

    step: NonNegativeInt
    """Number of training steps before."""
    layers: PositiveInt | None = None
    """Number of layers from the top, with what follows them; the whole encoder when absent."""


class PretrainedStem(Component):
    """The keys that all stems with a pretrained encoder share."""

    name: str
    """Name of the model in its library or on its hub, or a local folder."""
    pretrained: bool = True
    """Load the weights of the name, from a folder, a cache or the internet; random weights otherwise."""
    layers: PositiveInt | None = None
    """Use only the first layers of the encoder, this many; all when absent."""
    freeze: bool | PositiveInt = False
    """Do not train the encoder, or not its first layers, this many, and what comes before them."""
    unfreeze: tuple[Unfreeze, ...] = ()
    """Layers of a frozen encoder that train from a step on."""
    lr_scale: PositiveFloat = 1.0
    """Learning rate of the encoder relative to that of the model."""
    lora: LoraAdapters | None = None
    """Train low-rank adapters instead of the encoder's own weights."""
    cache: FeatureCacheConfig | None = None
    """Compute the features of a frozen encoder once, and keep them on disk."""

    @model_validator(mode="after")
    def _freezing_agrees(self) -> PretrainedStem:
        if self.unfreeze:
            if self.freeze is not True:
                raise ValueError("unfreeze needs a frozen encoder; set freeze: true or drop unfreeze")
            if self.lora is not None:
                raise ValueError(
                    "unfreeze and lora exclude each other: with lora only adapters train; drop one of them"
                )
            steps = [stage.step for stage in self.unfreeze]
            if sorted(set(steps)) != steps:
                raise ValueError(f"the steps of unfreeze must rise, got {', '.join(map(str, steps))}")
            if any(stage.layers is None for stage in self.unfreeze[:-1]):
                raise ValueError("only the last item of unfreeze may be without layers, which unfreezes all")
            counts = [stage.layers for stage in self.unfreeze if stage.layers is not None]
            if sorted(set(counts)) != counts:
                raise ValueError(f"the layers of unfreeze must rise, got {', '.join(map(str, counts))}")
        elif self.lora is not None and self.freeze is not True and self.freeze is not False:
            raise ValueError(f"with lora all weights of the encoder are frozen; drop freeze: {self.freeze}")
        elif self.freeze is True and self.lora is None and self.lr_scale != 1:
            raise ValueError("lr_scale has no effect on a frozen encoder; drop it, or set freeze: false")
        if self.cache is not None and not self.is_frozen:
            raise ValueError(
                "cache needs an encoder whose features never change; set freeze: true without unfreeze and lora, or "
                "drop cache"
            )
        return self

    @property
    def is_frozen(self) -> bool:
        """Whether no weight of the encoder is ever trained."""
        return self.freeze is True and not self.unfreeze and self.lora is None

    def wrap(self, encoder: nn.Module) -> StemEncoder:
        """Cuts an encoder after ``layers``, freezes it, and adds adapters, as configured.

        Raises:
            ConfigError: the encoder has fewer layers, or no linear layer of a name in ``lora.targets``.
        """
        if self.layers is not None:
            keep_layers(encoder, self.layers)
        return StemEncoder(encoder, self)


class StemEncoder(PerStep):
    """An encoder of a library, of which some parameters may be frozen.

    Frozen parts stay in evaluation mode: their dropout is off and their batch statistics are fixed. Parameters that
    ``unfreeze`` names belong to the optimizer from the start, and get gradients from their step on.

    Args:
        encoder: the module; changed in place.
        config: what trains.
    """

    steps: Tensor

    def __init__(self, encoder: nn.Module, config: PretrainedStem) -> None:
        super().__init__()
        self.encoder = encoder
        self.lr_scale = config.lr_scale
        """Learning rate of the parameters within, relative to others of their level."""
        self._stages: list[tuple[int, list[nn.Parameter]]] = []
        groups = parameter_groups(encoder)
        if config.lora is not None:
            add_adapters(encoder, config.lora)
        elif config.unfreeze:
            for stage in config.unfreeze:
                check_count("unfreeze.layers", stage.layers or 1, groups)
                unfrozen = groups[1:] if stage.layers is None else groups[len(groups) - stage.layers - 1 :]
                if stage.layers is None:
                    unfrozen = groups
                self._stages.append((stage.step, [value for group in unfrozen for value in group]))
            last = {id(value) for value in self._stages[-1][1]}
            for parameter in encoder.parameters():
                parameter.requires_grad_(id(parameter) in last)
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        elif config.freeze is not False:
            count = len(groups) - 2 if config.freeze is True else int(config.freeze)
            check_count("freeze", count, groups)
            for group in groups if config.freeze is True else groups[: count + 1]:
                for parameter in group:
                    parameter.requires_grad_(False)
        self.leaves_unused = not config.is_frozen
        """Whether a pass may leave parameters without gradients, such as those of a pooler."""
        self.cache = None if config.cache is None else FeatureCache(config.cache, encoder)
        self.shardable = self.cache is None and not self._stages
        """Whether its parameters may be replaced by shards: they are referred to for later, or features are stored."""
        self.train()

    def train(self, mode: bool = True) -> StemEncoder:
        """Sets training mode, except for modules whose parameters are all frozen."""
        super().train(mode)
        if mode:
            self._settle()
        return self

    def _settle(self) -> None:
        """Puts frozen modules into evaluation mode."""
        if not self.is_trained:
            self.encoder.eval()
            return
        for module in self.encoder.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()

    @property
    def is_trained(self) -> bool:
        """Whether any parameter of the encoder gets a gradient now."""
        return any(parameter.requires_grad for parameter in self.encoder.parameters())

    def on_step_begin(self) -> None:
        """Unfreezes layers whose step has come."""
        if not self._stages:
            return
        step = int(self.steps)
        trained = {id(value) for first, values in self._stages if first <= step for value in values}
        for parameter in self._stages[-1][1]:
            parameter.requires_grad_(id(parameter) in trained)
        super().train(True)
        self._settle()

    def on_step_end(self) -> None:
        """Counts the step."""
        if self._stages:
            self.steps += 1

    @contextmanager
    def gradients(self) -> Iterator[None]:
        """Inside, no graph is recorded if nothing in the encoder is trained."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.is_trained):
            yield

    def forward(self, *args: Any, **options: Any) -> Any:
        """What the encoder returns."""
        with self.gradients():
            return self.encoder(*args, **options)

    def features(self, inputs: Tensor) -> Tensor:
        """What the encoder returns for a batch, one tensor, read from the cache where it has one.

        Args:
            inputs: (N, ...), of which each row has features of its own.
        """
        if self.cache is None or torch.compiler.is_compiling():
            features: Tensor = self(inputs)
            return features
        return torch.stack(self.cached(list(inputs), lambda indices: list(self(inputs[indices]))))

    def cached(self, inputs: Sequence[Tensor], compute: Callable[[list[int]], Sequence[Tensor]]) -> list[Tensor]:
        """The features of each input, read from the cache where it has them.

        Args:
            inputs: all that the features of each sample depend on, besides the encoder.
            compute: the features of some inputs, by their indices.
        """
        if self.cache is None:
            return list(compute(list(range(len(inputs)))))
        device = inputs[0].device.type if inputs else "cpu"
        cast = str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "as the weights"
        with torch.no_grad():
            return self.cache.features(inputs, compute, f"{device} {cast}")
