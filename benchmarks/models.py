"""The models that run against each other: the hierarchy, its flat control, and PyTorch's own encoder as a peer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hrt_mm import FixedGroups, Hierarchy, HierarchyConfig, Level, Tokens
from hrt_mm.analysis.control import flat_control, num_parameters
from hrt_mm.core.errors import UserError
from hrt_mm.data.tokenizer import Tokenizer
from hrt_mm.tasks.encoder import Encoder

DEFAULT: dict[str, Any] = {"widths": [128, 256, 512], "depths": [2, 2, 4], "head_dim": 64, "window": 64, "stride": 4}
"""Two windowed levels and a global one: widths double and most blocks are coarse, as in Swin and Hiera."""
TINY: dict[str, Any] = {"widths": [32, 32, 64], "depths": [1, 1, 1], "head_dim": 16, "window": 16, "stride": 4}
"""The same in small, for ``--quick``."""


def hierarchy_config(settings: Mapping[str, Any], **changes: Any) -> HierarchyConfig:
    """Levels of ``settings``, all windowed but the last.

    Args:
        settings: ``widths``, ``depths``, ``head_dim``, ``window`` and ``stride``.
        changes: further fields of the configuration.

    Raises:
        UserError: widths and depths do not pair up, or a width is no multiple of the head width.
    """
    widths, depths, head = settings["widths"], settings["depths"], settings["head_dim"]
    if len(widths) != len(depths) or any(width % head for width in widths):
        raise UserError(f"widths {widths} and depths {depths} must pair up, with widths that are multiples of {head}")
    levels = []
    for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        last = index + 1 == len(widths)
        levels.append(
            Level(
                name=f"level{index}",
                dim=width,
                depth=depth,
                heads=width // head,
                window=None if last else settings["window"],
                group=None if last else FixedGroups(stride=settings["stride"]),
            )
        )
    return HierarchyConfig(levels=tuple(levels), **changes)


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with all matrices random: residual branches that start at zero would hide what is wrong in them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            values = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            if parameter.ndim > 1:
                parameter.copy_(values / parameter.shape[-1] ** 0.5)
            else:
                parameter.copy_(1 + 0.1 * values)
    return module


def hierarchy(settings: Mapping[str, Any], **changes: Any) -> Hierarchy:
    """The hierarchy, with random weights, on the device of the settings."""
    model = Hierarchy(hierarchy_config(settings, **changes))
    randomised(model)
    return model.to(settings["device"])


def flat(settings: Mapping[str, Any], **changes: Any) -> Hierarchy:
    """The flat control: one level, the same blocks, as deep, as many parameters, global attention."""
    model = Hierarchy(flat_control(hierarchy_config(settings)).model_copy(update=changes))
    randomised(model)
    return model.to(settings["device"])


class Pooled(nn.Module):
    """A hierarchy of a modality, or its control, with its embedding: a vector for each sample."""

    def __init__(self, model: HierarchyConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.encoder = Encoder(model, tokenizer)

    def forward(self, tokens: Tokens) -> Tensor:
        """Raw tokens to a vector of each sample, pooled at the coarsest level, (B, D)."""
        pooled_BD: Tensor = self.encoder(tokens).pooled(-1)
        return pooled_BD


def size(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


class TorchEncoder(nn.Module):
    """``torch.nn.TransformerEncoder`` of the flat control's width and depth, and as many parameters.

    It has no positions, so it does a little less than the others.
    """

    def __init__(self, control: HierarchyConfig) -> None:
        super().__init__()
        level = control.levels[0]
        # A layer has 4 D^2 + 9 D parameters in attention, norms and biases, and 2 D H + H in the feed-forward.
        share = num_parameters(control) / level.depth
        hidden = round((share - 4 * level.dim**2 - 9 * level.dim) / (2 * level.dim + 1))
        layer = nn.TransformerEncoderLayer(
            level.dim, level.heads, hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, level.depth, enable_nested_tensor=False)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        out_BLD: Tensor = self.layers(x_BLD)
        return out_BLD
