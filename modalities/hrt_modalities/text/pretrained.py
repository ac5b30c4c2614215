"""The stem of texts with a pretrained encoder of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveInt
from torch import nn

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.extras import needs_extra

from ..common.encoder_layers import EXTRA
from ..common.model_sources import check_modality, is_folder, loading, transformers_config, transformers_model
from ..common.pretrained import PretrainedStem
from .encoders import EncoderTokenizer, TextEncoderEmbedding

_SUBWORDS = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
_UNLIMITED = 512
"""Subwords of a window of encoders without a limit, such as T5."""
_LARGEST = 1 << 20
"""Limits above this one stand for none."""


class TransformersText(PretrainedStem):
    """Contextual embeddings of a BERT-like encoder of transformers, one for each of its subwords."""

    type: Literal["transformers"]
    window: PositiveInt | None = None
    """Subwords that are encoded at once, without the encoder's special tokens; its limit when absent. Longer texts are
    encoded in windows that overlap by a quarter, of whose outputs those in the middle are used."""

    def tokenizer(self, max_bytes: int, carried: Sequence[str]) -> EncoderTokenizer:
        """The tokenizer of the encoder.

        Raises:
            ConfigError: there is no such model, it is of another modality, or it has no subwords.
        """
        self._config()
        library = self._library()
        unknown = library.unk_token_id if library.unk_token_id is not None else 0
        return EncoderTokenizer(self, _plain(library.backend_tokenizer), unknown, max_bytes, carried)

    def build(self, dim: int, separator: int) -> nn.Module:
        """The stem's module, ``forward(Tokens) -> Tokens``.

        Args:
            dim: width of the model.
            separator: id of the separator.

        Raises:
            ConfigError: the weights are missing or damaged, or ``window`` or ``layers`` is too large.
        """
        config, library = self._config(), self._library()
        model: Any = transformers_model(self.name, config, pretrained=self.pretrained)
        if config.is_encoder_decoder:
            model = model.get_encoder()
        before, after = _special(library)
        limit = min(_positions(model), library.model_max_length) - len(before) - len(after)
        window = self.window or (limit if limit < _LARGEST else _UNLIMITED)
        if window > limit:
            raise ConfigError(f"stem.window {window}: {self.name!r} reads {limit} subwords at most; lower it")
        return TextEncoderEmbedding(self.wrap(model), config.hidden_size, dim, window, (before, after), separator)

    def _config(self) -> Any:
        config: Any = transformers_config(self.name)
        from transformers import MODEL_MAPPING

        models: Any = MODEL_MAPPING
        reads = models[type(config)].main_input_name if type(config) in models else config.model_type
        check_modality(self.name, reads, "text")
        return config

    def _library(self) -> Any:
        with needs_extra(EXTRA, "stem type transformers"):
            import transformers

        made: Any = transformers.AutoTokenizer
        folder = Path(self.name).expanduser()
        if is_folder(self.name) and not any((folder / file).is_file() for file in _SUBWORDS):
            raise ConfigError(
                f"stem.name {self.name!r}: the folder has no tokenizer.json; save the tokenizer of the model there"
            )
        with loading(self.name, "tokenizer"):
            library: Any = made.from_pretrained(str(folder), trust_remote_code=False)
            if getattr(library, "backend_tokenizer", None) is None:
                raise ConfigError(f"stem.name {self.name!r}: its tokenizer has no tokenizer.json, which is needed")
        return library


def _plain(backend: Any) -> Any:
    """A copy that splits whole texts, in which no text is a command."""
    from tokenizers import Tokenizer

    library = Tokenizer.from_str(backend.to_str())
    library.no_truncation()
    library.no_padding()
    library.encode_special_tokens = True
    return library


def _special(library: Any) -> tuple[list[int], list[int]]:
    """Ids that the encoder reads before and after the subwords of a text."""
    encoded = library.backend_tokenizer.encode("a")
    inner = [index for index, special in enumerate(encoded.special_tokens_mask) if not special]
    return encoded.ids[: inner[0]], encoded.ids[inner[-1] + 1 :]


def _positions(model: Any) -> int:
    """Number of positions that an encoder has embeddings for."""
    positions = getattr(model.config, "max_position_embeddings", None) or 2 * _LARGEST
    for name, module in model.named_modules():
        # RoBERTa and its relatives count positions from the one after that of padding.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return int(positions) - module.padding_idx - 1
    return int(positions)
