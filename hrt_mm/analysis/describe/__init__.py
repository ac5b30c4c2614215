"""``hrt-mm describe``: tokens, parameters, FLOPs and memory of each level, beside those of the flat transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...core.errors import ConfigError
from ...data.tokenizer import SINGLE
from .description import Description, DescriptionRow, describe_model, warnings
from .layout import on_meta, sample_of
from .sample import typical_sample

if TYPE_CHECKING:
    from ...config import RunConfig

__all__ = ["Description", "DescriptionRow", "describe", "describe_model", "describe_run", "warnings"]


def describe(config: RunConfig, shape: Sequence[int] | None = None, tower: str | None = None) -> str:
    """What the hierarchies of a run cost, as text: one table per tower.

    Args:
        config: of the run.
        shape: level-0 tokens of a sample along each axis; those of a typical training sample when absent.
        tower: describe this one only.

    Raises:
        ConfigError: there is no such tower, the shape does not fit, it is given for several towers, or the data cannot
            be read.
    """
    names = list(config.towers) if tower is None else [tower]
    if len(names) == 1:
        return describe_run(config, shape, names[0]).text()
    if shape is not None:
        raise ConfigError(f"a shape is that of one tower, and there are {', '.join(names)}; name one with --tower")
    return "\n\n".join(f"{name}\n{describe_run(config, tower=name).text()}" for name in names)


def describe_run(config: RunConfig, shape: Sequence[int] | None = None, tower: str | None = None) -> Description:
    """What the hierarchy of a run, or of one of its towers, costs, in numbers. Takes what :func:`describe` does.

    Raises:
        ConfigError: as :func:`describe`, or there are several towers and none is named.
    """
    if tower is not None and tower not in config.towers:
        known = "one modality and model; drop --tower" if SINGLE in config.towers else ", ".join(config.towers)
        raise ConfigError(f"there is no tower {tower!r}; the configuration has {known}")
    chosen = config.single if tower is None else config.towers[tower]
    model = chosen.model
    tokenizer = chosen.modality.build(model)
    if shape is None:
        return describe_model(model, typical_sample(config, tokenizer, SINGLE if tower is None else tower))
    return describe_model(model, sample_of(tuple(shape), on_meta(model, tokenizer.axes)))
