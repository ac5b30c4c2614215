"""``hrt-mm describe``: tokens, parameters, FLOPs and memory of each level, beside those of the flat transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .description import Description, DescriptionRow, describe_model, warnings
from .layout import on_meta, sample_of
from .sample import typical_sample

if TYPE_CHECKING:
    from ...config import RunConfig

__all__ = ["Description", "DescriptionRow", "describe", "describe_model", "describe_run", "warnings"]


def describe(config: RunConfig, shape: Sequence[int] | None = None) -> str:
    """What a run's hierarchy costs, as text.

    Args:
        config: of the run.
        shape: level-0 tokens of a sample along each axis; those of a typical training sample when absent.

    Raises:
        ConfigError: the shape does not fit, or the data cannot be read.
    """
    return describe_run(config, shape).text()


def describe_run(config: RunConfig, shape: Sequence[int] | None = None) -> Description:
    """What a run's hierarchy costs, in numbers. Takes what :func:`describe` does."""
    model = config.single.model
    tokenizer = config.single.modality.build(model)
    if shape is None:
        return describe_model(model, typical_sample(config, tokenizer))
    return describe_model(model, sample_of(tuple(shape), on_meta(model, tokenizer.axes)))
