"""Static word vectors that a package ships, as the embedding of a text tower.

The tokens are the package's own subwords, and their vectors stay as they are; a linear map to the width of the model is
learned. The average of static vectors is a strong baseline for short texts, and words that no training text has lie
near those with a similar meaning.

Shapes: T tokens, V ids, E dimensions of the vectors, D features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.extras import needs_extra
from hrt_mm.core.linear import InitLinear
from hrt_mm.core.tokens import Tokens

from .ngrams import NgramConfig
from .subwords import SubwordTokenizer
from .text import char_offsets, decoded
from .tokenizer import MAX_BYTES, TextTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

FILES = ("weights/l2_supercat_256.safetensors", "tokenizers/l2_supercat_tokenizer_config.json")
SPACE = "\u2581"
"""Stands for a space in subwords, and before the first word of a text."""
STRETCH = 0.3
"""Root mean square of the embedded tokens at the start, as that of learned embeddings of text."""


@cache
def load() -> tuple[Library, Tensor]:
    """The subwords of WordLlama, and their vectors (V, E) in float16.

    Its files are read, and the package is not imported, because that changes the logging of the program.

    Raises:
        MissingLibrary: the package or ``tokenizers`` is not installed.
        ConfigError: the package has no such files.
    """
    with needs_extra("demo", "modality.word_vectors"):
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        spec = find_spec("wordllama")
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError("No module named 'wordllama'", name="wordllama")
    folder = Path(spec.submodule_search_locations[0])
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise ConfigError(f"modality.word_vectors: {folder} has no {missing[0]}; install wordllama 0.4")
    (vectors_VE,) = load_file(folder / FILES[0]).values()
    library = Tokenizer.from_file(str(folder / FILES[1]))
    # Texts of users are no commands: "<s>" is five characters.
    library.encode_special_tokens = True
    return library, vectors_VE


class WordVectorTokenizer(SubwordTokenizer):
    """The subwords of WordLlama, embedded by its vectors.

    Args:
        max_bytes: limit of the length of a text.
        carried: boundaries that the data provides, in addition to those that are computed.
        ngrams: of tokens, whose vectors are added to the embedding.

    Raises:
        MissingLibrary: as :func:`load`.
        ConfigError: as :func:`load`.
    """

    def __init__(
        self, max_bytes: int = MAX_BYTES, carried: Sequence[str] = (), ngrams: NgramConfig | None = None
    ) -> None:
        self._library, self._vectors_VE = load()
        self._raw = [_bytes_of(self._library.id_to_token(token) or "") for token in range(len(self._vectors_VE))]
        self._sizes = np.array([len(raw) for raw in self._raw] + [0], dtype=np.int64)
        TextTokenizer.__init__(self, len(self._raw) + 1, max_bytes, 1, carried, ngrams)

    def encode(self, content: bytes) -> tuple[np.ndarray, np.ndarray]:
        """The subwords, and the byte offsets at which they start."""
        text, clean = decoded(content)
        encoded = self._library.encode(clean, add_special_tokens=False)
        starts = np.array([start for start, _ in encoded.offsets], dtype=np.int64)
        # Offsets count characters. The bytes of a character without a subword of its own all start where it does.
        return np.array(encoded.ids, dtype=np.int64), char_offsets(text)[starts]

    def vocabularies(self) -> Mapping[str, str]:
        """The digest of all subwords and vectors in their order."""
        digest = hashlib.sha256(self._vectors_VE.numpy().tobytes())
        for raw in self._raw:
            digest.update(len(raw).to_bytes(4, "little") + raw)
        return {"word_vectors": f"{len(self._raw)} vectors of digest {digest.hexdigest()[:16]}"}

    def embedding(self, dim: int) -> nn.Module:
        """The vector of each token, mapped to the width of the model."""
        return self.with_ngrams(WordVectors(self._vectors_VE, dim), dim)

    def restore(self, tokens: Tokens) -> list[bytes]:
        """The texts as bytes, without separators and the space before the first word."""
        return [text.removeprefix(b" ") for text in super().restore(tokens)]


class WordVectors(nn.Module):
    """Fixed vectors, and a learned linear map. The vectors are no part of checkpoints.

    Args:
        vectors_VE: of each id but the separator's, which is zero.
        dim: width.
    """

    def __init__(self, vectors_VE: Tensor, dim: int) -> None:
        super().__init__()
        # The lengths of vectors are kept relative to each other: frequent words have short ones.
        size = vectors_VE.float().square().mean().sqrt()
        table_VE = torch.cat([vectors_VE.float() / size, vectors_VE.new_zeros(1, vectors_VE.shape[1]).float()])
        # No buffer: a model that is built on the meta device and loaded would be left without them.
        self._tables = {table_VE.device: table_VE}
        start = partial(nn.init.normal_, std=STRETCH * vectors_VE.shape[1] ** -0.5)
        self.map = InitLinear(vectors_VE.shape[1], dim, start)

    def forward(self, tokens: Tokens) -> Tokens:
        """(T,) ids to (T, D)."""
        return tokens.with_x(self.map(self.vectors(tokens.x).to(self.map.weight.dtype)))

    def vectors(self, ids_T: Tensor) -> Tensor:
        """The fixed vectors (T, E) of ids, in float32."""
        if ids_T.device not in self._tables:
            self._tables[ids_T.device] = next(iter(self._tables.values())).to(ids_T.device)
        return self._tables[ids_T.device][ids_T]


def _bytes_of(token: str) -> bytes:
    """The bytes that a subword stands for; none for those that mark the ends of texts."""
    if token.startswith("<0x") and len(token) == 6:
        return bytes([int(token[3:5], 16)])
    return b"" if token in ("<unk>", "<s>", "</s>") else token.replace(SPACE, " ").encode()
