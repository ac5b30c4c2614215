"""Text: bytes or subwords, words, sentences, paragraphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hrt_mm.core.errors import BadSample
from hrt_mm.data.files import check_regular
from hrt_mm.data.modality import Modality
from hrt_mm.data.plain_text import NotText

from .config import TextConfig
from .contents import text_bytes
from .corpus import CorpusConfig
from .documents import DocumentsConfig, TagsConfig
from .hugging_face import HuggingFaceConfig
from .text import Text, marked
from .tokenizer import MAX_BYTES, ByteTokenizer, TextTokenizer


class TextModality(Modality):
    """Texts of any and mixed lengths."""

    name = "text"
    extra = "text"
    tokenizer = TextConfig
    datasets = (CorpusConfig, DocumentsConfig, HuggingFaceConfig, TagsConfig)

    @classmethod
    def read(cls, path: Path) -> bytes:
        """The text of a file in UTF-8; compressed text is unpacked, and UTF-16 with a mark decoded.

        Raises:
            BadSample: the file is missing, or no text in UTF-8.
        """
        try:
            check_regular(path, path.name)
            content = text_bytes(path)
            content.decode()
        except NotText as error:
            raise BadSample(path.name, error.reason) from error
        except OSError as error:
            raise BadSample(path.name, f"cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise BadSample(path.name, f"is no text in UTF-8 ({error.reason} at byte {error.start})") from error
        return content

    @classmethod
    def passage(cls, value: Any, span: tuple[float, float] | None = None) -> str:
        """The bytes of a part as text, without the spaces around them.

        Raises:
            BadSample: the value is no text.
        """
        content = marked(value, "the text", MAX_BYTES).content
        first, last = (0, len(content)) if span is None else (int(span[0]), int(span[1]))
        return content[first:last].decode("utf-8", "replace").strip()

    @classmethod
    def figures(cls) -> Callable[..., None]:
        """Draws texts."""
        from .figures import draw_text

        return draw_text


__all__ = ["ByteTokenizer", "Text", "TextConfig", "TextModality", "TextTokenizer"]
