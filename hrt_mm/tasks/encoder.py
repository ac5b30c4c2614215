"""The encoder that tasks train and share: the embedding of a modality, followed by a hierarchy.

Shapes: T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ..core.errors import ConfigError
from ..core.hierarchy import Hierarchy
from ..core.levels import HierarchyConfig
from ..core.pyramid import Pyramid
from ..core.source import SourceMemory
from ..core.tokens import Tokens
from ..data.capabilities import Contextual
from ..data.tokenizer import Tokenizer


class Encoder(nn.Module):
    """Maps raw tokens to a pyramid.

    Every task has it as ``encoder``, so that pre-trained weights have the same names in all tasks.

    Args:
        config: the hierarchy.
        tokenizer: defines the axes and the embedding.

    Raises:
        ConfigError: the hierarchy does not fit the modality.
    """

    def __init__(self, config: HierarchyConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        if config.causal and isinstance(tokenizer, Contextual):
            if tokenizer.lookahead:
                raise ConfigError(
                    "model.causal must not see later tokens, but the embedding of one is made of the "
                    f"{tokenizer.lookahead} after it as well; set that to 0 in modality, or model.causal to false"
                )
            if tokenizer.non_causal_setting:
                raise ConfigError(
                    f"model.causal must not see later tokens, but with {tokenizer.non_causal_setting} each depends on "
                    "its whole sample; drop it, or set model.causal to false"
                )
        self.hierarchy = Hierarchy(config, tokenizer.axes)
        self.embedding = tokenizer.embedding(config.levels[0].dim)

    def forward(self, tokens: Tokens, source: SourceMemory | None = None) -> Pyramid:
        """Embeds raw tokens and runs the hierarchy.

        Args:
            tokens: raw ones.
            source: what blocks read of another hierarchy, of as many samples.
        """
        embedded = self.embedding(tokens)
        pyramid: Pyramid = self.hierarchy(embedded) if source is None else self.hierarchy(embedded, source=source)
        return pyramid

    def parameter_levels(self) -> dict[str, int | None]:
        """Level index by parameter name; ``None`` for the embedding."""
        levels = self.hierarchy.parameter_levels()
        return {name: levels.get(name.removeprefix("hierarchy.")) for name, _ in self.named_parameters()}

    def level_of(self, module: str) -> str:
        """Names what a submodule belongs to, for messages: the embedding, or a level."""
        # hierarchy.stages.0 and the like; deeper names only tell modules within a level apart.
        prefix = ".".join(module.split(".")[:3])
        for name, level in self.parameter_levels().items():
            if level is not None and name.startswith(f"{prefix}."):
                return f"level {self.hierarchy.config.levels[level].name!r}"
        return "the embedding"


@contextmanager
def first_nonfinite(root: nn.Module) -> Iterator[list[str]]:
    """Records the name of the first leaf module within ``root`` whose output is not finite, in the yielded list."""
    names: list[str] = []

    def watch(name: str, module: nn.Module, inputs: object, output: object) -> None:
        if not names and isinstance(output, Tensor | Tokens) and not finite(output):
            names.append(name)

    # Of nested modules the innermost is the most precise, and returns first.
    leaves = ((name, module) for name, module in root.named_modules() if not any(module.children()))
    handles = [module.register_forward_hook(partial(watch, name)) for name, module in leaves]
    try:
        yield names
    finally:
        for handle in handles:
            handle.remove()


def finite(value: Tensor | Tokens) -> bool:
    """Whether no element is NaN or infinite. Waits for the device."""
    x = value.x if isinstance(value, Tokens) else value
    return bool(torch.isfinite(x).all())
