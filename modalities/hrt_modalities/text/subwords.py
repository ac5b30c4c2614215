"""Byte-level subwords through Hugging Face ``tokenizers``: trained on one's own text, kept as JSON.

Byte-level means that every subword is a string of bytes and every byte is a subword, so that no text is unknown and
every text comes back as it was, but for bytes that are no UTF-8.

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
from .text import char_offsets, decoded
from .tokenizer import TextTokenizer
from .tokenizer_json import Refused, encode, load

_FEWEST = 257
"""The bytes, and a subword of two."""


def train_subwords(texts: Iterable[str], vocabulary: int, file: Path) -> int:
    """Learns byte-level subwords by byte-pair encoding (arXiv 1508.07909) and writes them.

    Args:
        texts: read once.
        vocabulary: how many ids there are at most, the separator among them.
        file: where the JSON goes.

    Returns:
        How many ids there are.

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
    """Subwords of a ``tokenizer.json``, of which :mod:`hrt_modalities.text.tokenizer_json` says what is used.

    Bytes that are no UTF-8 become U+FFFD before they are cut. All other text comes back as it was, which is checked.

    Args:
        file: the JSON.
        max_bytes: the longest text.
        recent: tokens that a token's embedding is made of.
        carried: boundaries that the texts carry, beside those that are found.

    Raises:
        ConfigError: the file is missing, holds no byte-level subwords, or does not give texts back as they were.
    """

    levels = ("subwords", "words", "sentences", "paragraphs")

    def __init__(self, file: Path, max_bytes: int = 1 << 24, recent: int = 1, carried: Sequence[str] = ()) -> None:
        self.file = file
        self._library, self._raw = load(file)
        self._sizes = np.array([len(raw) for raw in self._raw] + [0], dtype=np.int64)
        super().__init__(len(self._raw) + 1, max_bytes, recent, carried)

    def encode(self, content: bytes) -> tuple[np.ndarray, np.ndarray]:
        """The subwords, and where each starts in the bytes.

        Raises:
            ConfigError: the file of subwords does not give the text back.
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
        return torch.tensor([self._starts_within(rule, *pair) for pair in pairs], device=ids.device)

    def _starts_within(self, rule: object, before: int, here: int) -> bool:
        assert callable(rule)
        if before < 0 or self.separator in (before, here):
            return True
        raw = np.frombuffer(self.raw(before)[-1:] + self.raw(here), dtype=np.uint8)
        return bool(rule(raw[:-1], raw[1:]).any())


def _in_source(clean: str, text: str, offsets: np.ndarray) -> np.ndarray:
    """Byte offsets in a text whose invalid bytes were replaced, counted in the text before."""
    new, old = char_offsets(clean), char_offsets(text)
    char = np.searchsorted(new, offsets, side="right") - 1
    offsets_in_source: np.ndarray = np.minimum(old[char] + offsets - new[char], old[char + 1] - 1)
    return offsets_in_source
