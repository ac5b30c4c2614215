"""Pretrained encoders as stems: their keys, how their weights are loaded, and which of their parameters train.

A modality's stem derives its configuration from :class:`PretrainedStem`, loads an encoder with one of the functions
below, and wraps it with :meth:`PretrainedStem.wrap`.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from hrt_mm.core.component import Component
from hrt_mm.core.errors import ConfigError
from hrt_mm.core.extras import needs_extra
from hrt_mm.core.initial_weights import needs_weights
from hrt_mm.core.per_step import PerStep

from .feature_cache import FeatureCache, FeatureCacheConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

EXTRA = "pretrained"
"""The extra that brings transformers, open_clip and PEFT."""
_UNUSED = ("pooler", "position_ids", "masked_spec_embed", "mask_token", "lm_head", "head.")
"""Parts of names of weights that a stem does not read, and that a checkpoint may lack."""


class Unfreeze(Component):
    """When layers of a frozen encoder start to train."""

    step: NonNegativeInt
    """Number of training steps before."""
    layers: PositiveInt | None = None
    """Number of layers from the top, with what follows them; the whole encoder when absent."""


class LoraAdapters(Component):
    """Low-rank adapters beside frozen linear layers (LoRA, arXiv 2106.09685), by PEFT."""

    r: PositiveInt = 8
    """Rank."""
    alpha: PositiveInt = 16
    """Scale; adapters are multiplied by ``alpha / r``."""
    dropout: Annotated[NonNegativeFloat, Field(lt=1)] = 0.0
    """Dropout of the inputs of adapters."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of linear layers, or ends of their full names, such as ``q_proj``, ``query`` or ``attn.qkv``; all linear
    layers when absent."""


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
                _check_count("unfreeze.layers", stage.layers or 1, groups)
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
            _check_count("freeze", count, groups)
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


def layer_list(encoder: nn.Module) -> tuple[str, nn.ModuleList | nn.Sequential] | None:
    """The name and the list of an encoder's layers, which are of one class that occurs nowhere else.

    ``None`` if there is no such list, as in a CNN whose blocks are spread over stages.
    """
    kinds = Counter(type(module) for module in encoder.modules())
    largest, best = 0, None
    for name, module in encoder.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        classes = {type(child) for child in module}
        if len(classes) != 1 or kinds[classes.pop()] != len(module):
            continue
        size = sum(parameter.numel() for parameter in module.parameters())
        if size > largest:
            largest, best = size, (name, module)
    return best


def keep_layers(encoder: nn.Module, count: int) -> None:
    """Drops all layers of an encoder after the first ones. What follows its layers, such as a norm, stays.

    Raises:
        ConfigError: there are fewer, or the encoder is no stack of equal layers.
    """
    listed = layer_list(encoder)
    if listed is None:
        raise ConfigError(
            f"stem.layers {count}: {type(encoder).__name__} is no stack of equal layers; drop layers, and choose the "
            "feature map by patch"
        )
    layers = listed[1]
    if count > len(layers):
        raise ConfigError(f"stem.layers {count}: the encoder has {len(layers)}; set 1 to {len(layers)}, or drop layers")
    del layers[count:]
    config = getattr(encoder, "config", None)
    for key in ("num_hidden_layers", "encoder_layers"):
        # Some models of transformers read the number of layers in their forward pass.
        if hasattr(config, key):
            setattr(config, key, count)


def parameter_groups(encoder: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of an encoder from bottom to top: what comes before its layers, each layer, what comes after.

    Without a stack of equal layers, the layers are the encoder's children, such as the stages of a CNN.
    """
    listed = layer_list(encoder)
    if listed is None:
        inner = encoder
        while len(inside := list(inner.children())) == 1:
            inner = inside[0]
        children = [list(child.parameters()) for child in inner.children()]
        grouped = {id(value) for child in children for value in child}
        loose = [value for value in encoder.parameters() if id(value) not in grouped]
        return [loose, *(child for child in children if child), []]
    name, layers = listed
    prefix = f"{name}." if name else ""
    groups: list[list[nn.Parameter]] = [[] for _ in range(len(layers) + 2)]
    numbers = {f"{prefix}{index}": number for number, (index, _) in enumerate(layers.named_children())}
    passed = False
    for full, parameter in encoder.named_parameters():
        if full.startswith(prefix):
            passed = True
            index = full[len(prefix) :].partition(".")[0]
            groups[1 + numbers[f"{prefix}{index}"]].append(parameter)
        else:
            groups[-1 if passed else 0].append(parameter)
    return groups


def _check_count(key: str, count: int, groups: Sequence[Sequence[nn.Parameter]]) -> None:
    layers = len(groups) - 2
    if count > layers:
        raise ConfigError(f"stem.{key} {count}: the encoder has {layers} layers; set 1 to {layers}")


def add_adapters(encoder: nn.Module, config: LoraAdapters) -> None:
    """Adds adapters to linear layers, in place, and freezes all other parameters.

    Raises:
        ConfigError: a target is not the name of a linear layer; lists those there are.
    """
    with needs_extra(EXTRA, "stem.lora"):
        from peft import LoraConfig, inject_adapter_in_model

    names = adaptable(encoder)
    chosen = set(names)
    if config.targets is not None:
        chosen = set()
        for target in config.targets:
            matching = {name for name in names if name == target or name.endswith(f".{target}")}
            if not matching:
                ends = dict.fromkeys(name.rpartition(".")[2] for name in names)
                raise ConfigError(
                    f"stem.lora.targets {target!r}: the encoder has no linear layer of this name; it has "
                    f"{', '.join(ends) or 'none'}"
                )
            chosen |= matching
    if not chosen:
        raise ConfigError(f"stem.lora: {type(encoder).__name__} has no linear layers to add adapters to; drop lora")
    lora = LoraConfig(
        r=config.r, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=sorted(chosen)
    )  # fmt: skip
    inject_adapter_in_model(lora, encoder)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_("lora_" in name)


def adaptable(encoder: nn.Module) -> list[str]:
    """Names of the modules that adapters can be added to: linear layers, and attention modules of PyTorch."""
    attention = [name for name, module in encoder.named_modules() if isinstance(module, nn.MultiheadAttention)]
    # Attention of PyTorch reads the weights of its linear layer without calling it, so an adapter there has no effect.
    hidden = {f"{name}.out_proj" for name in attention}
    linear = [name for name, module in encoder.named_modules() if isinstance(module, nn.Linear) and name not in hidden]
    return attention + linear


def is_folder(name: str) -> bool:
    """Whether a name is that of a local folder: one that exists, or a path that cannot be a name."""
    return Path(name).expanduser().is_dir() or name.startswith((".", "/", "~")) or name.count("/") > 1


def check_folder(name: str, files: Iterable[str], key: str = "stem.name") -> Path:
    """The local folder of a name.

    Args:
        name: path of the folder.
        files: that it must contain.
        key: that the name was given by, for messages.

    Raises:
        ConfigError: there is no such folder, or a file is missing.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{key} {name!r}: there is no such folder; give one with {' and '.join(files)}")
    for file in files:
        if not (folder / file).is_file():
            raise ConfigError(f"{key} {name!r}: the folder has no {file}; save the model with its own library again")
    return folder


def no_such_name(library: str, name: str, names: Iterable[str], key: str = "stem.name") -> ConfigError:
    """The error for a name that a library does not have, with the nearest that it has."""
    near = difflib.get_close_matches(name, list(names), 3)
    hint = f"did you mean {', '.join(near)}?" if near else "give a name that it lists, or a folder"
    return ConfigError(f"{key} {name!r}: {library} has no model {name!r}; {hint}")


@contextmanager
def loading(name: str, what: str = "weights", key: str = "stem.name") -> Iterator[None]:
    """Turns errors of a library that loads a model into one that names key, value and fix.

    Args:
        name: of the model.
        what: is loaded.
        key: that the name was given by.

    Raises:
        ConfigError: in place of any other exception.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{key} {name!r}: {_reason(name, what, error)}") from error


def _reason(name: str, what: str, error: Exception) -> str:
    lines = str(error).strip().splitlines()
    text = " ".join(line.strip() for line in lines[:3])[:300] or type(error).__name__
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < 10:
        chain.append(f"{type(cause).__name__} {cause}".lower())
        cause = cause.__cause__ or cause.__context__
    whole = " ".join(chain)
    if is_folder(name):
        return f"the {what} cannot be read ({text}); they may be cut short or damaged: save or download them again"
    offline = ("couldn't connect", "connecterror", "name resolution", "name or service", "offline", "connectionerror")
    if any(sign in whole for sign in (*offline, "urlopen error", "localentrynotfound")):
        return (
            f"the {what} are neither in the cache nor reachable ({text}); run once where there is internet, give a "
            "local folder, or set pretrained: false if the library has the model"
        )
    if any(sign in whole for sign in ("repositorynotfound", "not a valid model identifier", "404", "repo id must")):
        return f"there is no such model ({text}); check the name, or give a local folder"
    if "trust_remote_code" in whole or "execute" in whole:
        return "the model needs code of its repository, which is never run; choose one that the library has itself"
    return f"the {what} cannot be loaded ({text})"


def transformers_config(name: str, key: str = "stem.name") -> PreTrainedConfig:
    """The configuration of a model of transformers.

    Args:
        name: of a repository on the Hugging Face Hub, or a folder that ``save_pretrained`` wrote.
        key: that the name was given by.

    Raises:
        ConfigError: there is no such model, or it needs code of its own.
    """
    with needs_extra(EXTRA, "stem type transformers"):
        from transformers import AutoConfig
    if is_folder(name):
        name = str(check_folder(name, ("config.json",), key))
    with loading(name, "configuration", key):
        return AutoConfig.from_pretrained(name, trust_remote_code=False)


def transformers_model(
    name: str, config: PreTrainedConfig, *, pretrained: bool, model_class: Any = None, key: str = "stem.name"
) -> nn.Module:
    """A model of transformers in float32, in evaluation mode, with its own or random weights.

    Args:
        name: of a repository on the Hugging Face Hub, or a folder that ``save_pretrained`` wrote.
        config: of the model, or of the tower to build.
        pretrained: load the weights.
        model_class: the model's class; the one that transformers has for ``config`` when absent.
        key: that the name was given by.

    Raises:
        ConfigError: weights are missing, cut short, or of another shape.
    """
    with needs_extra(EXTRA, "stem type transformers"):
        from transformers import AutoModel
        from transformers.utils import logging
    made: Any = model_class or AutoModel
    if not (pretrained and needs_weights()):
        with loading(name, "configuration", key):
            model: nn.Module = made._from_config(config) if model_class else made.from_config(config)
        return model.float().eval()
    if is_folder(name):
        name = str(check_folder(name, ("config.json",), key))
    messages: Any = logging
    level = messages.get_verbosity()
    # Its report of missing and unexpected weights is checked below.
    messages.set_verbosity_error()
    messages.disable_progress_bar()
    try:
        with loading(name, "weights", key):
            model, report = made.from_pretrained(
                name, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
            )
    finally:
        messages.set_verbosity(level)
    check_missing(name, report["missing_keys"], key)
    return model.eval()


def check_missing(name: str, missing: Iterable[str], key: str = "stem.name") -> None:
    """Refuses weights of which some are missing, except those that stems do not read.

    Raises:
        ConfigError: names the first of them.
    """
    needed = sorted(each for each in missing if not any(part in each for part in _UNUSED))
    if needed:
        listed = ", ".join(needed[:3]) + (f" and {len(needed) - 3} more" if len(needed) > 3 else "")
        raise ConfigError(
            f"{key} {name!r}: the file of weights lacks {listed}; it is of another kind of model or cut short: save or "
            "download it again"
        )


INPUTS = {
    "pixel_values": "images",
    "pixel_values_videos": "videos",
    "input_values": "sound",
    "input_features": "sound",
    "input_ids": "text",
}
"""What an encoder of transformers reads, by the name of its main input."""


def check_modality(name: str, reads: str, expected: str, key: str = "stem.name") -> None:
    """Refuses an encoder of another modality.

    Args:
        name: of the model.
        reads: the name of its main input, as in transformers.
        expected: what the stem embeds, a value of :data:`INPUTS`.
        key: that the name was given by.

    Raises:
        ConfigError: names both.
    """
    modality = INPUTS.get(reads, reads)
    if modality != expected:
        raise ConfigError(f"{key} {name!r}: this model reads {modality}, and the stem embeds {expected}")


def open_clip_name(name: str, *, pretrained: bool, key: str = "stem.name") -> tuple[str, str | None]:
    """The name of a model as open_clip takes it, and the tag of its weights.

    Args:
        name: a folder with ``open_clip_config.json``, a repository of the Hugging Face Hub as ``hf-hub:owner/name``, or
            a model of open_clip, with the tag of its weights as ``MODEL/TAG``.
        pretrained: whether weights are to be loaded.
        key: that the name was given by.

    Raises:
        ConfigError: there is no such folder, model or tag.
    """
    with needs_extra(EXTRA, "a model of open_clip"):
        import open_clip
    if name.startswith("hf-hub:"):
        return name, None
    if is_folder(name):
        return f"local-dir:{check_folder(name, ('open_clip_config.json',), key)}", None
    model, _, tag = name.partition("/")
    if model not in open_clip.list_models():
        raise no_such_name("open_clip", model, open_clip.list_models(), key)
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained and tag not in tags:
        described = f"has no weights {tag!r}" if tag else "has several weights" if tags else "has no weights"
        fix = f"give {key}: {model}/TAG with a tag of {', '.join(tags)}" if tags else "set pretrained: false"
        raise ConfigError(f"{key} {name!r}: {model} {described}; {fix}")
    return model, tag if pretrained else None


def open_clip_model(
    name: str, *, pretrained: bool, image_size: tuple[int, int] | None = None, key: str = "stem.name"
) -> nn.Module:
    """Both towers of a model of open_clip in float32, in evaluation mode, with its own or random weights.

    Args:
        name: see :func:`open_clip_name`.
        pretrained: load the weights.
        image_size: rows and columns of the images; that of the model when absent. Position embeddings are interpolated.
        key: that the name was given by.

    Raises:
        ConfigError: there is no such model, or its weights are missing or damaged.
    """
    pretrained = pretrained and needs_weights()
    full, tag = open_clip_name(name, pretrained=pretrained, key=key)
    import open_clip

    with loading(name, "weights", key):
        # Text towers of transformers would load weights of their own.
        options: dict[str, Any] = {
            "load_weights": pretrained,
            "device": str(torch.get_default_device()),
            "require_pretrained": pretrained,
        }
        options |= {"pretrained_text": False, "force_image_size": image_size, "weights_only": True}
        model: nn.Module = open_clip.create_model(full, tag, **options)
    return model.float().eval()
