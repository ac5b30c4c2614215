"""The configuration of text, which chooses the tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import PositiveInt, model_validator

from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.data.tokenizer import TokenizerConfig

from .boundaries import FINDERS
from .ngrams import NgramConfig
from .pretrained import TransformersText
from .subwords import SubwordTokenizer
from .tokenizer import MAX_BYTES, ByteTokenizer, TextTokenizer
from .word_vectors import WordVectorTokenizer


class TextConfig(TokenizerConfig):
    """Text as bytes, subwords, or what a pretrained encoder makes of them."""

    type: Literal["text"]
    subwords: Path | None = None
    """A ``tokenizer.json`` of byte-level BPE, from ``hrt-mm text subwords`` or a published model; bytes when absent."""
    word_vectors: Literal["wordllama"] | None = None
    """Package whose subwords and static vectors are used instead; the vectors are not trained."""
    stem: TransformersText | None = None
    """A pretrained encoder, whose subwords and contextual embeddings are used instead."""
    max_bytes: PositiveInt = MAX_BYTES
    """Limit of the length of a text; longer ones are bad samples."""
    recent: PositiveInt | None = None
    """Receptive field of a token's embedding in tokens: itself and those before it, by a causal convolution. 4 for
    bytes and 1 for subwords when absent."""
    ngrams: NgramConfig | None = None
    """Vectors of hashed n-grams of tokens, added to the embedding; for small data and many rare words."""
    carried: tuple[str, ...] = ()
    """Names of boundaries that the data provides, in addition to those that are computed."""

    @model_validator(mode="after")
    def _new_names(self) -> TextConfig:
        if built_in := [name for name in self.carried if name in FINDERS]:
            raise ValueError(
                f"carried {', '.join(built_in)} need no mention; only name those that no text has by itself"
            )
        return self

    @model_validator(mode="after")
    def _one_vocabulary(self) -> TextConfig:
        if self.word_vectors and (self.subwords or self.recent):
            raise ValueError("word_vectors brings its own subwords, one vector each; remove subwords and recent")
        return self

    @model_validator(mode="after")
    def _one_encoder(self) -> TextConfig:
        if self.stem is not None and (self.subwords or self.word_vectors or self.recent or self.ngrams):
            raise ValueError(
                "stem brings its own subwords and embeddings; remove subwords, word_vectors, recent and ngrams"
            )
        return self

    def build(self, model: HierarchyConfig | None = None) -> TextTokenizer:
        """The tokenizer.

        Raises:
            ConfigError: the file of subwords is missing or is no such file, or there is no such encoder.
            MissingLibrary: the package of the word vectors is not installed.
        """
        if self.stem is not None:
            return self.stem.tokenizer(self.max_bytes, self.carried)
        if self.word_vectors is not None:
            return WordVectorTokenizer(self.max_bytes, self.carried, self.ngrams)
        if self.subwords is None:
            return ByteTokenizer(self.max_bytes, self.recent or 4, self.carried, self.ngrams)
        return SubwordTokenizer(self.subwords, self.max_bytes, self.recent or 1, self.carried, self.ngrams)
