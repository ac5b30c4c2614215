"""Texts read by pretrained encoders: the encoder's own subwords, and its contextual embeddings as tokens.

Shapes: T tokens, B windows, L subwords of a window, E width of the encoder, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.tokens import Tokens

from ..common.pretrained import StemEncoder
from ..common.windows import Window, overlapping
from .text import char_offsets, decoded
from .tokenizer import TextTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

    from .pretrained import TransformersText

_BATCH = 1 << 14
"""Limit of the subwords that are encoded in one call, with padding."""


class EncoderTokenizer(TextTokenizer):
    """The subwords of a pretrained encoder.

    They need not give texts back: many encoders drop case, accents and spaces. What lies between two subwords belongs
    to the second one, so that boundaries of words, sentences and paragraphs are those of the text. A text without any,
    such as one of spaces, is one unknown subword.

    Args:
        stem: names the encoder, whose embedding is made by :meth:`embedding`.
        library: splits texts.
        unknown: id of an unknown subword.
        max_bytes: limit of the length of a text.
        carried: boundaries that the data provides, in addition to those that are computed.
    """

    levels = ("subwords", "words", "sentences", "paragraphs")
    causal_boundaries = ()

    def __init__(
        self, stem: TransformersText, library: Library, unknown: int, max_bytes: int, carried: Sequence[str] = ()
    ) -> None:
        self.stem, self._library, self._unknown = stem, library, unknown
        self._size = 1 + max(library.get_vocab(with_added_tokens=True).values())
        self.non_causal_setting = "modality.stem"
        super().__init__(self._size + 1, max_bytes, 1, carried)

    def encode(self, content: bytes) -> tuple[np.ndarray, np.ndarray]:
        """The subwords, and the byte offsets at which they, and what was dropped before them, start."""
        text, clean = decoded(content)
        encoded = self._library.encode(clean, add_special_tokens=False)
        if not encoded.ids:
            return np.array([self._unknown], dtype=np.int64), np.zeros(1, dtype=np.int64)
        starts_ends = np.array(encoded.offsets, dtype=np.int64)
        # Subwords of one character have the same start; the others begin where the one before ends.
        starts = np.minimum(starts_ends[:, 0], np.append(0, starts_ends[:-1, 1]))
        return np.array(encoded.ids, dtype=np.int64), char_offsets(text)[np.maximum.accumulate(starts)]

    def raw(self, token: int) -> bytes:
        """A subword as it follows another one, for reports."""
        name = self._library.id_to_token(token) if token != self.separator else None
        if name is None or self._library.decoder is None:
            return (name or "").encode()
        return self._library.decoder.decode(["a", name]).removeprefix("a").encode()

    def num_bytes(self, ids: Tensor) -> Tensor:
        """Bytes of each subword as it is written in reports, 0 of separators."""
        return torch.tensor([len(self.raw(token)) for token in ids.tolist()], device=ids.device)

    def starts(self, boundary: str, previous: Tensor, ids: Tensor) -> Tensor:
        """Not available, since subwords depend on what follows them.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"the encoder of modality.stem reads whole texts, so none can be written by {boundary}")

    def dense_axes(self) -> dict[str, dict[int, str]]:
        """Not available, since the windows of the encoder depend on the text.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "a model with modality.stem cannot be exported; run it in PyTorch (hrt_mm.inference.load_run), or train "
            "with subwords"
        )

    def vocabularies(self) -> Mapping[str, str]:
        """The digest of the encoder's tokenizer."""
        digest = hashlib.sha256(self._library.to_str().encode()).hexdigest()[:16]
        return {"stem": f"{self._size} subwords of digest {digest}"}

    def embedding(self, dim: int) -> nn.Module:
        """The encoder, and a linear map to the width of the model.

        Raises:
            ConfigError: the weights of the encoder are missing or damaged.
        """
        return self.stem.build(dim, self.separator)


class TextEncoderEmbedding(nn.Module):
    """Contextual embeddings of subwords, mapped to the width of the model.

    Each document is encoded alone, between the encoder's special tokens. Those longer than a window are encoded in
    overlapping windows. A separator, which the encoder does not know, has the embedding zero.

    Args:
        encoder: a model of transformers.
        width: of its embeddings.
        dim: width of the model.
        window: limit of the subwords that are encoded at once.
        special: ids before and after the subwords of a window.
        separator: id of separators.
    """

    def __init__(
        self,
        encoder: StemEncoder,
        width: int,
        dim: int,
        window: int,
        special: tuple[Sequence[int], Sequence[int]],
        separator: int,
    ) -> None:
        super().__init__()
        self.encoder, self.width, self.window, self.separator = encoder, width, window, separator
        self.before, self.after = (torch.tensor(ids, dtype=torch.int64) for ids in special)
        self.project = nn.Linear(width, dim)

    def forward(self, tokens: Tokens) -> Tokens:
        """(T,) ids to (T, D)."""
        return tokens.with_x(self.project(self.features(tokens).to(self.project.weight.dtype)))

    def features(self, tokens: Tokens) -> Tensor:
        """(T, E) embeddings of the encoder, read from the cache where it has them."""
        texts = list(tokens.x.split(tokens.spans.lengths.tolist()))
        # Embeddings of long texts also depend on the size of the windows.
        inputs = [torch.cat([ids_T, ids_T.new_tensor([self.window])]) for ids_T in texts]
        return torch.cat(
            self.encoder.cached(inputs, lambda indices: self._encoded([texts[index] for index in indices]))
        )

    def _encoded(self, texts: Sequence[Tensor]) -> list[Tensor]:
        """(T, E) embeddings of each text."""
        device = self.project.weight.device
        texts = [ids_T.cpu() for ids_T in texts]
        plans = [list(self._windows(ids_T)) for ids_T in texts]
        sequences = [
            torch.cat([self.before, ids_T[window.first : window.last], self.after])
            for ids_T, windows in zip(texts, plans, strict=True)
            for window in windows
        ]
        encoded: dict[int, Tensor] = {}
        for batch in self._batches([len(sequence) for sequence in sequences]):
            lengths = torch.tensor([len(sequences[index]) for index in batch])
            ids_BL = pad_sequence([sequences[index] for index in batch], batch_first=True).to(device)
            mask_BL = (torch.arange(ids_BL.shape[1]) < lengths[:, None]).long().to(device)
            hidden_BLE = self.encoder(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
            encoded |= {
                index: hidden_LE[len(self.before) :] for index, hidden_LE in zip(batch, hidden_BLE, strict=True)
            }
        hidden = (encoded[index] for index in range(len(sequences)))
        embedded = []
        for ids_T, windows in zip(texts, plans, strict=True):
            # Separators lie between the cores of windows.
            x_TE = self.project.weight.new_zeros(len(ids_T), self.width)
            cores = [next(hidden)[window.core] for window in windows]
            if cores:
                is_token_T = (ids_T != self.separator).to(device)
                x_TE = x_TE.to(cores[0].dtype).masked_scatter(is_token_T[:, None], torch.cat(cores))
            embedded.append(x_TE)
        return embedded

    def _windows(self, ids_T: Tensor) -> Iterator[Window]:
        """Windows of the documents of a text, in positions of the text."""
        start = 0
        for end in [*(ids_T == self.separator).nonzero()[:, 0].tolist(), len(ids_T)]:
            if end > start:
                for window in overlapping(end - start, self.window):
                    yield Window(*(start + position for position in window))
            start = end + 1

    @staticmethod
    def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices of windows that are encoded together, of similar lengths."""
        batch: list[int] = []
        for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
            if batch and lengths[batch[0]] * (len(batch) + 1) > _BATCH:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch
