"""Text: bytes or subwords, words, sentences, paragraphs."""

from __future__ import annotations

from hrt_mm.modality import Modality

from .corpus import CorpusConfig
from .text import Text
from .tokenizer import ByteTokenizer, TextConfig, TextTokenizer


class TextModality(Modality):
    """Texts of any and mixed lengths."""

    name = "text"
    tokenizer = TextConfig
    datasets = (CorpusConfig,)


__all__ = ["ByteTokenizer", "Text", "TextConfig", "TextModality", "TextTokenizer"]
