"""The configuration of text tokenizers: bytes, or subwords from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import PositiveInt, model_validator

from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.data.tokenizer import TokenizerConfig

from .boundaries import FINDERS
from .tokenizer import MAX_BYTES, ByteTokenizer, TextTokenizer


class TextConfig(TokenizerConfig):
    """Text as bytes or subwords."""

    type: Literal["text"]
    subwords: Path | None = None
    """A ``tokenizer.json`` of byte-level BPE, from ``hrt-mm text subwords`` or a published model; bytes when absent."""
    max_bytes: PositiveInt = MAX_BYTES
    """The longest text; longer ones are bad samples."""
    recent: PositiveInt | None = None
    """Tokens that a token's embedding is made of: its own and those before it, each through a map of its own (a causal
    convolution). 4 for bytes and 1 for subwords when absent."""
    carried: tuple[str, ...] = ()
    """Names of boundaries that the data's texts carry, beside those that are found in any text."""

    @model_validator(mode="after")
    def _new_names(self) -> TextConfig:
        if built_in := [name for name in self.carried if name in FINDERS]:
            raise ValueError(
                f"carried {', '.join(built_in)} need no mention; only name those that no text has by itself"
            )
        return self

    def build(self, model: HierarchyConfig | None = None) -> TextTokenizer:
        """The tokenizer.

        Raises:
            ConfigError: the file of subwords is missing or is no such file.
        """
        if self.subwords is None:
            return ByteTokenizer(self.max_bytes, self.recent or 4, self.carried)
        from .subwords import SubwordTokenizer

        return SubwordTokenizer(self.subwords, self.max_bytes, self.recent or 1, self.carried)
