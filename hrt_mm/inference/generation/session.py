"""Token sequences that a language model continues, side by side; saved and loaded as safetensors with JSON.

Shapes: B sequences, V ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ...core.component import with_current_keys
from ...core.errors import UserError
from ...core.tokens import Tokens
from ...data.atomic_files import replace_file
from ...data.storage import parse_json, read_tensors
from ...tasks.decoding import Continuation
from ...tasks.language import LanguageModel
from ...train.weights import named_weights, refuse
from .saving import cache_of, cache_state

_KEY, _FORMAT = "hrt_mm.session", 2
"""The first format had no checksum."""
_REMEDY = "save the session anew with Session.save"
_CACHE = "cache."
_FREE = ("backend", "activation_checkpointing", "drop_path", "dropout")
"""Keys of a model's configuration that do not change its memory."""


class Session(Continuation):
    """A batch of token sequences that a language model continues, which can be saved.

    Args:
        model: in evaluation mode.
        tokens: raw prompts of one token or more each, as its tokenizer gives them.
    """

    def __init__(self, model: LanguageModel, tokens: Tokens) -> None:
        self.model = model
        super().__init__(model, tokens)

    def save(self, path: Path) -> None:
        """Writes the state of the sequences to a file, so that a long prompt needs to be processed only once.

        Raises:
            UserError: the file cannot be written.
        """
        tensors = {f"{_CACHE}{name}": value for name, value in cache_state(self.cache).items()}
        lengths = torch.tensor([len(ids) for ids in self._recent])
        tensors |= {"logits": self.logits_BV, "recent.ids": torch.cat(self._recent), "recent.lengths": lengths}
        metadata = {"format": _FORMAT, "model": _config(self.model), "weights": _fingerprint(self.model)}
        on_host = {name: value.cpu().contiguous() for name, value in tensors.items()}
        metadata["sum"] = _sum(metadata, on_host)
        try:
            replace_file(Path(path), safetensors.torch.save(on_host, {_KEY: json.dumps(metadata)}))
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error

    @classmethod
    @torch.inference_mode()
    def load(cls, model: LanguageModel, path: Path) -> Session:
        """Continues from a file of :meth:`save`.

        Args:
            model: the one that it was saved with, in evaluation mode.
            path: the file.

        Raises:
            UserError: the file is missing, damaged or of another model; the message names what differs.
        """
        # The configuration first: weights of another model would differ as well, and say less.
        saved, tensors = _read(Path(path))
        if changed := list(_changed(with_current_keys(saved["model"], model.encoder.hierarchy.config), _config(model))):
            more = f"\n  and {len(changed) - 5} more" if len(changed) > 5 else ""
            listed = "".join(f"\n  {line}" for line in changed[:5])
            raise UserError(f"{path} was saved with another model:{listed}{more}\nload it with the same one")
        cached = {name.removeprefix(_CACHE): value for name, value in tensors.items() if name.startswith(_CACHE)}
        cache = cache_of(model.encoder.hierarchy, cached, str(path))
        rest = {name: value for name, value in tensors.items() if not name.startswith(_CACHE)}
        recent = _checked(rest, len(cache), model, str(path))
        if saved.get("weights") != _fingerprint(model):
            raise UserError(f"{path} was saved with other weights than those of this model; load it with the same ones")
        session = cls.__new__(cls)
        session.model = model
        session._begin(model, cache, rest["logits"].to(cache.device), [ids.to(cache.device) for ids in recent])
        return session


def _config(model: LanguageModel) -> dict[str, Any]:
    config = model.encoder.hierarchy.config.model_dump(mode="json")
    return {name: value for name, value in config.items() if name not in _FREE}


def _fingerprint(model: LanguageModel) -> str:
    """A sum over all weights."""
    return _digest(named_weights(model)).hexdigest()


def _sum(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """A sum over all that a file holds."""
    digest = _digest(tensors)
    digest.update(
        json.dumps({name: value for name, value in content.items() if name != "sum"}, sort_keys=True).encode()
    )
    return digest.hexdigest()


def _digest(tensors: Mapping[str, Tensor]) -> hashlib._Hash:
    digest = hashlib.sha256()
    # Sorted, so that the sum does not depend on the order of a file.
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        # NumPy has no bfloat16, hence the bytes.
        digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    metadata, tensors = read_tensors(path, _REMEDY)
    content = parse_json(metadata[_KEY], str(path)) if _KEY in metadata else None
    is_session = (
        isinstance(content, dict) and content.get("format") in (1, _FORMAT) and isinstance(content.get("model"), dict)
    )
    if not isinstance(content, dict) or not is_session:
        raise UserError(f"{path} holds no saved session of this version; {_REMEDY}")
    # Files of the first format had no sum to check.
    if content["format"] != 1 and content.get("sum") != _sum(content, tensors):
        raise UserError(f"{path} is damaged: its content does not match its checksum; {_REMEDY}")
    return content, tensors


def _changed(saved: Any, current: Any, key: str = "") -> Iterator[str]:
    """Where two configurations differ."""
    if isinstance(saved, dict) and isinstance(current, dict):
        for name in [*current, *(name for name in saved if name not in current)]:
            yield from _changed(saved.get(name), current.get(name), f"{key}.{name}" if key else str(name))
    elif isinstance(saved, list) and isinstance(current, list) and len(saved) == len(current):
        for index, pair in enumerate(zip(saved, current, strict=True)):
            yield from _changed(*pair, f"{key}.{index}")
    elif isinstance(saved, list) and isinstance(current, list):
        yield f"{key}: saved with {len(saved)}, here {len(current)}"
    elif saved != current:
        yield f"{key}: saved with {saved!r}, here {current!r}"


def _checked(tensors: dict[str, Tensor], batch: int, model: LanguageModel, source: str) -> list[Tensor]:
    """The recent ids of each sequence."""
    vocabulary = model.head.out_features
    expected = {"logits": (batch, vocabulary), "recent.lengths": (batch,)}
    wrong = [f"{name} is missing" for name in (*expected, "recent.ids") if name not in tensors]
    wrong += [f"{name} is unknown" for name in tensors if name not in (*expected, "recent.ids")]
    wrong += [
        f"{name} has shape {tuple(tensors[name].shape)}, not {shape}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    refuse(wrong, source)
    ids, lengths = tensors["recent.ids"], tensors["recent.lengths"]
    whole = ids.dtype == lengths.dtype == torch.int64 and ids.ndim == 1 and int(lengths.sum()) == len(ids)
    if not whole or (lengths < 1).any() or (ids < 0).any() or (ids >= vocabulary).any():
        raise UserError(f"{source} is damaged: its recent ids do not fit its {batch} sequences")
    return list(ids.split(lengths.tolist()))
