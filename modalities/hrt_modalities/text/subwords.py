"""Byte-level subwords with Hugging Face ``tokenizers``, trained on any text and saved as JSON.

Every subword is a string of bytes and every byte is a subword. Therefore no text is unknown, and every valid text is
restored exactly.

Shapes: T tokens, V ids, the separator last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.extras import needs_extra
from hrt_mm.data.atomic_files import replace_file

from .boundaries import CAUSAL
from .ngrams import NgramConfig
from .text import char_offsets, decoded
from .tokenizer import TextTokenizer
from .tokenizer_json import Refused, encode, load

_FEWEST = 257
"""The bytes, and a subword of two."""


def train_subwords(texts: Iterable[str], vocabulary: int, file: Path) -> int:
    """Learns byte-level subwords by byte-pair encoding (arXiv 1508.07909) and writes them.

    Args:
        texts: are read once.
        vocabulary: limit of the number of ids, including the separator.
        file: for the JSON.

    Returns:
        The number of ids.

    Raises:
        ConfigError: the vocabulary is too small, or the texts are empty.
    """
    if vocabulary <= _FEWEST:
        raise ConfigError(f"a vocabulary of {vocabulary} has no room beside 256 bytes; take {_FEWEST + 1} or more")
    with needs_extra("text"):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary - 1, initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator(texts, trainer)
    if library.get_vocab_size() < _FEWEST:
        raise ConfigError("the texts are too few to learn a subword from; give more")
    replace_file(file, library.to_str(pretty=True).encode())
    return library.get_vocab_size() + 1


class SubwordTokenizer(TextTokenizer):
    """Subwords of a ``tokenizer.json``; :mod:`hrt_modalities.text.tokenizer_json` lists the settings that are used.

    Invalid bytes become U+FFFD before tokenization. All other text is restored exactly, which is checked.

    Args:
        file: the JSON.
        max_bytes: limit of the length of a text.
        recent: receptive field of a token's embedding in tokens.
        carried: boundaries that the data provides, in addition to those that are computed.
        ngrams: of tokens, whose vectors are added to the embedding.

    Raises:
        ConfigError: the file is missing, has no byte-level subwords, or does not restore texts exactly.
    """

    levels = ("subwords", "words", "sentences", "paragraphs")

    def __init__(
        self,
        file: Path,
        max_bytes: int = 1 << 24,
        recent: int = 1,
        carried: Sequence[str] = (),
        ngrams: NgramConfig | None = None,
    ) -> None:
        self.file = file
        self._library, self._raw = load(file)
        self._sizes = np.array([len(raw) for raw in self._raw] + [0], dtype=np.int64)
        super().__init__(len(self._raw) + 1, max_bytes, recent, carried, ngrams)

    def encode(self, content: bytes) -> tuple[np.ndarray, np.ndarray]:
        """The subwords, and their byte offsets.

        Raises:
            ConfigError: the subwords do not restore the text.
        """
        text, clean = decoded(content)
        try:
            tokens = encode(self._library, clean)
        except Refused as error:
            raise ConfigError(f"modality.subwords {self.file} {error}; take another file") from error
        back = b"".join([self._raw[token] for token in tokens])
        if back != (content if clean is text else clean.encode()):
            raise ConfigError(
                f"modality.subwords {self.file} does not give the text back that begins with {clean[:40]!r}, but "
                f"{back.decode('utf-8', 'replace')[:40]!r}; take another file"
            )
        ids = np.array(tokens, dtype=np.int64)
        offsets = np.cumsum(self._sizes[ids]) - self._sizes[ids]
        return ids, offsets if clean is text else _in_source(clean, text, offsets)

    def raw(self, token: int) -> bytes:
        """The bytes of a subword."""
        return self._raw[token] if token != self.separator else b""

    def vocabularies(self) -> Mapping[str, str]:
        """The digest of all subwords in their order."""
        digest = hashlib.sha256(b"".join(len(raw).to_bytes(4, "little") + raw for raw in self._raw))
        return {"subwords": f"{len(self._raw)} subwords of digest {digest.hexdigest()[:16]}"}

    def num_bytes(self, ids: Tensor) -> Tensor:
        """Bytes of each subword, 0 of separators."""
        return torch.from_numpy(self._sizes).to(ids.device)[ids]

    def starts(self, boundary: str, previous: Tensor, ids: Tensor) -> Tensor:
        """Whether a group starts within a new subword."""
        rule = CAUSAL[boundary]
        pairs = zip(previous.tolist(), ids.tolist(), strict=True)
        starts = []
        for before, here in pairs:
            raw = np.frombuffer(b"" if before < 0 else self.raw(before)[-1:] + self.raw(here), dtype=np.uint8)
            is_edge = before < 0 or self.separator in (before, here)
            starts.append(is_edge or bool(rule(raw[:-1], raw[1:]).any()))
        return torch.tensor(starts, device=ids.device)


def _in_source(clean: str, text: str, offsets: np.ndarray) -> np.ndarray:
    """Byte offsets in the original text, from those in the text with replaced invalid bytes."""
    new, old = char_offsets(clean), char_offsets(text)
    char = np.searchsorted(new, offsets, side="right") - 1
    offsets_in_source: np.ndarray = np.minimum(old[char] + offsets - new[char], old[char + 1] - 1)
    return offsets_in_source
