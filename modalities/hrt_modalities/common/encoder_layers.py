"""The layers of an encoder of another library: which to use, to freeze, and to give adapters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import nn

from hrt_mm.core.component import Component
from hrt_mm.core.errors import ConfigError
from hrt_mm.core.extras import needs_extra

EXTRA = "pretrained"
"""The extra that brings transformers, open_clip and PEFT."""


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


def check_count(key: str, count: int, groups: Sequence[Sequence[nn.Parameter]]) -> None:
    """Checks a number of layers.

    Args:
        key: of the stem that gives the number.
        count: of layers.
        groups: see :func:`parameter_groups`.

    Raises:
        ConfigError: the encoder has fewer.
    """
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
