"""The text tokenizers: bytes, which need no vocabulary, and their common base with subwords.

Shapes: T tokens, V ids.
"""

from __future__ import annotations

import codecs
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hrt_mm.core.dense import dense_sequences
from hrt_mm.core.errors import BadSample
from hrt_mm.core.linear import InitEmbedding, InitLinear
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.capabilities import Contextual
from hrt_mm.data.tokenizer import Tokenizer

from .boundaries import CAUSAL, FINDERS, Document
from .ngrams import HashedNgrams, NgramConfig, NgramEmbedding
from .text import Text, marked

BYTES, MAX_BYTES = 256, 1 << 24
_NONE = np.empty(0, dtype=np.int64)
_EMBEDDED = 0.3
"""Standard deviation of embeddings. Blocks normalize their inputs, so it only affects how soon their branches have
equal weight: language models with 0.3 or 1 learn equally fast, with 0.02 far slower (docs/notebook/language.md)."""


class TextTokenizer(Tokenizer, Contextual):
    """The base of byte and subword tokenizers: packing, separators, boundaries, and decoding.

    Takes ``str``, ``bytes`` and :class:`~hrt_modalities.text.text.Text`. Returns ids (T,), int64; the last id of the
    vocabulary is the separator, which stands for no byte.

    Args:
        vocabulary: number of ids, including the separator.
        max_bytes: limit of the length of a text.
        recent: receptive field of the convolution of the embedding in tokens: itself and those before it.
        carried: boundaries that the data provides, in addition to those that are computed.
        ngrams: of tokens, whose vectors are added to the embedding.
    """

    axes = 1
    levels = ("bytes", "words", "sentences", "paragraphs")
    causal_boundaries = tuple(CAUSAL)
    vocabulary: int
    separator: int
    whole_characters = True
    """Whether to complete the characters at the edges of windows."""

    @abstractmethod
    def num_bytes(self, ids: Tensor) -> Tensor:
        """Number of bytes that each id stands for; 0 for separators."""

    def __init__(
        self,
        vocabulary: int,
        max_bytes: int,
        recent: int,
        carried: Sequence[str] = (),
        ngrams: NgramConfig | None = None,
    ) -> None:
        self.boundaries, self.carried = (*FINDERS, *carried), tuple(carried)
        self.max_bytes = max_bytes
        self.vocabulary, self.separator = vocabulary, vocabulary - 1
        self.recent, self.ngrams = recent, ngrams
        self.receptive_field = max(recent, ngrams.sizes[-1] if ngrams is not None else 1)

    @abstractmethod
    def starts(self, boundary: str, previous: Tensor, ids: Tensor) -> Tensor:
        """(B,) bool: whether a group starts at each new token.

        Args:
            boundary: one of ``causal_boundaries``.
            previous: (B,) ids before the new ones; -1 for none, where a group always starts.
            ids: (B,) new ids.
        """

    @abstractmethod
    def encode(self, content: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Ids of a text, and the byte offset of each token; both (T,) int64."""

    @abstractmethod
    def raw(self, token: int) -> bytes:
        """The bytes that an id stands for; none for the separator."""

    def __call__(self, values: Sequence[Any]) -> Tokens:
        """Packs texts, with the requested boundaries.

        Raises:
            BadSample: a value is no text, is empty, too long or has invalid boundaries; names its index in the batch.
        """
        ids, masks = [], []
        for index, value in enumerate(values):
            tokens, starts = self._tokens(value, f"text {index} of the batch")
            ids.append(tokens)
            masks.append(starts)
        spans = Spans.from_lengths([len(tokens) for tokens in ids])
        coords_TC = spans.positions[:, None].float()
        boundaries = {
            name: torch.from_numpy(np.concatenate([starts[name] for starts in masks]))
            for name in sorted(self.requested_boundaries)
        }
        return Tokens(torch.from_numpy(np.concatenate(ids)), spans, coords_TC, boundaries=boundaries)

    def _tokens(self, value: Any, name: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Ids of a text, and starts of groups. Documents are tokenized separately, and thus independent of each other.

        A separator is a group.
        """
        text = marked(value, name, self.max_bytes)
        text = text.whole() if self.whole_characters else text
        for boundary in self.requested_boundaries:
            if boundary in CAUSAL and boundary in text.boundaries:
                raise BadSample(name, f"carries boundary {boundary!r}, which follows from the text; use another name")
            if boundary not in FINDERS and boundary not in text.boundaries:
                available = ", ".join(text.boundaries) or "none"
                raise BadSample(name, f"carries no boundary {boundary!r}; it has {available}")
        ids: list[np.ndarray] = []
        starts: dict[str, list[np.ndarray]] = {boundary: [] for boundary in self.requested_boundaries}
        for begins, content, carried in text.parts():
            if begins:
                ids.append(np.array([self.separator]))
            tokens, offsets = self._encode_window(content, 0 if begins else text.lead)
            ids.append(tokens)
            document = Document(content, carried)
            for boundary, masks in starts.items():
                if begins:
                    masks.append(np.ones(1, dtype=bool))
                masks.append(_in_tokens(document.starts(boundary), offsets) if content else _NONE > 0)
        return np.concatenate(ids), {boundary: np.concatenate(masks) for boundary, masks in starts.items()}

    def _encode_window(self, content: bytes, lead: int) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`encode`, with only the last token of the first ``lead`` bytes."""
        if not content:
            return _NONE, _NONE
        if not lead:
            return self.encode(content)
        before, _ = self.encode(content[:lead])
        tokens, offsets = self.encode(content[lead:])
        return np.concatenate([before[-1:], tokens]), np.concatenate([[0], offsets + lead])

    def steps(self, value: Any, positions: Sequence[float]) -> list[float]:
        """Tokens of byte positions, in a text without separators.

        Raises:
            BadSample: the value is no text.
        """
        _, offsets = self.encode(marked(value, "the text", self.max_bytes).content)
        return [float(token) for token in np.searchsorted(offsets, positions)]

    def positions(self, value: Any, steps: Sequence[float]) -> list[float]:
        """Byte positions of tokens, in a text without separators.

        Raises:
            BadSample: the value is no text.
        """
        content = marked(value, "the text", self.max_bytes).content
        starts = np.append(self.encode(content)[1], len(content))
        return [float(starts[min(round(step), len(starts) - 1)]) for step in steps]

    def embedding(self, dim: int) -> nn.Module:
        """A vector for each token, from its id and the few before it."""
        return self.with_ngrams(TextEmbedding(self.vocabulary, dim, self.recent), dim)

    def with_ngrams(self, embedding: nn.Module, dim: int) -> nn.Module:
        """An embedding with the vectors of n-grams added, where the configuration has them."""
        if self.ngrams is None:
            return embedding
        return NgramEmbedding(embedding, HashedNgrams(self.ngrams, dim, reads_bytes=self.vocabulary == BYTES + 1))

    def dense_axes(self) -> dict[str, dict[int, str]]:
        """Ids and lengths of texts of any length."""
        return {"ids": {0: "batch", 1: "length"}, "lengths": {0: "batch"}}

    def dense_example(self, size: int) -> bytes:
        """Random letters and spaces."""
        return bytes((b"etaoin shrdlu ")[place] for place in torch.randint(14, (5 * size,)).tolist())

    def dense_batch(self, values: Sequence[Any]) -> dict[str, Tensor]:
        """(B, L) ids, padded with zeros, and (B,) lengths.

        Raises:
            BadSample: a value is no text.
        """
        texts = [torch.from_numpy(self._tokens(value, f"text {n} of the batch")[0]) for n, value in enumerate(values)]
        lengths = torch.tensor([len(ids) for ids in texts])
        return {"ids": nn.utils.rnn.pad_sequence(texts, batch_first=True), "lengths": lengths}

    def dense_tokens(self, embedding: nn.Module, inputs: Mapping[str, Tensor], unit: Sequence[int]) -> Tokens:
        """The embedded tokens of a padded batch."""
        embedded: Tokens = embedding(dense_sequences(inputs["ids"], inputs["lengths"], unit[0]))
        return embedded

    def dense_metadata(self) -> dict[str, Any]:
        """The vocabulary."""
        return {"vocabulary": self.vocabulary, "separator": self.separator}

    def restore(self, tokens: Tokens) -> list[bytes]:
        """The texts as bytes, without separators."""
        return [b"".join(map(self.raw, ids_T.tolist())) for ids_T in tokens.split()]

    def prompts(self, values: Sequence[Any]) -> Tokens:
        """Packs texts as documents, each after a separator."""
        return self([Text(value, (0,)) if isinstance(value, str | bytes) else value for value in values])

    def writer(self) -> Callable[[int], str]:
        """Decodes ids one by one. Incomplete characters wait for their next bytes; invalid bytes become U+FFFD."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda token: decoder.decode(self.raw(token), final=token == self.separator)


class ByteTokenizer(TextTokenizer):
    """Every byte is a token: 256 ids and the separator."""

    whole_characters = False

    def __init__(
        self,
        max_bytes: int = MAX_BYTES,
        recent: int = 4,
        carried: Sequence[str] = (),
        ngrams: NgramConfig | None = None,
    ) -> None:
        super().__init__(BYTES + 1, max_bytes, recent, carried, ngrams)

    def encode(self, content: bytes) -> tuple[np.ndarray, np.ndarray]:
        """The bytes, and their positions."""
        return np.frombuffer(content, dtype=np.uint8).astype(np.int64), np.arange(len(content))

    def raw(self, token: int) -> bytes:
        """One byte."""
        return bytes([token]) if token < BYTES else b""

    def size(self, shape: Sequence[int]) -> int:
        """Number of tokens of a text of shape (bytes, documents)."""
        return sum(shape)

    def num_bytes(self, ids: Tensor) -> Tensor:
        """1, and 0 for separators."""
        return (ids < BYTES).long()

    def starts(self, boundary: str, previous: Tensor, ids: Tensor) -> Tensor:
        """Whether a group starts at a new byte; separators and what follows them start one."""
        before, here = previous.cpu().numpy(), ids.cpu().numpy()
        edge = (before < 0) | (before >= BYTES) | (here >= BYTES)
        rule = CAUSAL[boundary](np.where(edge, 0, before), np.where(edge, 0, here))
        return torch.from_numpy(edge | rule).to(ids.device)


class TextEmbedding(nn.Module):
    """A learned vector for each id, and a causal convolution.

    Single bytes carry little information. A convolution over some neighbours, as in the layers of H-Net and Canon
    (arXiv 2507.07955), relieves the first block of combining them.

    Args:
        vocabulary: number of ids.
        dim: width.
        recent: size of the convolution in tokens, including the token itself.
    """

    def __init__(self, vocabulary: int, dim: int, recent: int) -> None:
        super().__init__()
        self.recent = recent
        self.table = InitEmbedding(vocabulary, dim, _EMBEDDED, now=False)
        start = partial(nn.init.normal_, std=0.5 * dim**-0.5)
        self.before = InitLinear((recent - 1) * dim, dim, start, now=False) if recent > 1 else None
        self.table.init_weights()
        if self.before is not None:
            self.before.init_weights()

    def forward(self, tokens: Tokens) -> Tokens:
        """(T,) ids to (T, dim)."""
        x_TD = self.table(tokens.x)
        if self.before is None:
            return tokens.with_x(x_TD)
        position_T1 = tokens.spans.positions[:, None]
        back = [x_TD.roll(step, 0).masked_fill(position_T1 < step, 0) for step in range(1, self.recent)]
        return tokens.with_x(x_TD + self.before(torch.cat(back, -1)))


def _in_tokens(starts_T: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Starts of groups in tokens, from those in bytes. A group that starts inside of a token starts with it."""
    if np.array_equal(offsets, np.arange(len(starts_T))):
        return starts_T
    positions = np.flatnonzero(starts_T)
    # A replaced byte may be several tokens with the same offset, of which the first starts the group. Otherwise the
    # group starts inside of the token before.
    token = np.searchsorted(offsets, positions)
    token -= np.append(offsets, -1)[token] != positions
    starts_in_tokens = np.zeros(len(offsets), dtype=bool)
    starts_in_tokens[token] = True
    return starts_in_tokens
