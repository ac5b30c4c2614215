"""A disk cache of the features of frozen encoders, shared by epochs, runs and processes.

An entry is named after a digest of the encoder (its weights and structure) and one of its input, as the encoder reads
it. Whatever changes a sample, such as another size, normalization or random augmentation, therefore is another entry,
and a stale one is never read.
"""

from __future__ import annotations

import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import safetensors.torch
import torch
from pydantic import PositiveFloat
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from hrt_mm.core.component import Component

log = logging.getLogger(__name__)

_VERSION = 1
_ORIGIN = {"_name_or_path", "transformers_version"}
"""Keys of a configuration of transformers that its features do not depend on."""
_STALE_SECONDS = 3_600
"""Age at which a draft is taken for that of a process that was killed."""


class FeatureCacheConfig(Component):
    """The folder and the size of the cache of a frozen encoder's features."""

    dir: Path
    """The folder; runs and encoders may share it."""
    max_gib: PositiveFloat = 32.0
    """Size limit of the folder, beyond which nothing is added."""


class FeatureCache:
    """Features by the content of inputs: safetensors, memory-mapped, with a CRC-32.

    Entries that are damaged are computed again, and those that cannot be written are left out.

    Args:
        config: folder and limit.
        encoder: whose features they are.
    """

    def __init__(self, config: FeatureCacheConfig, encoder: nn.Module) -> None:
        self.config, self.encoder = config, encoder
        self._left: float | None = None
        self._digest: tuple[int, str] = (-1, "")
        self.hits, self.misses = 0, 0

    def features(
        self, inputs: Sequence[Tensor], compute: Callable[[list[int]], Sequence[Tensor]], kind: str
    ) -> list[Tensor]:
        """The features of inputs, in their order, on their device.

        Args:
            inputs: what the encoder reads of each sample.
            compute: the features of some inputs, by their indices.
            kind: what the features depend on besides the encoder and the input, such as the precision.
        """
        folder = self.config.dir / self._encoder_digest()
        paths = [self._path(folder, value, kind) for value in inputs]
        features = [self._read(path) for path in paths]
        # Equal inputs are computed once.
        missing: dict[Path, int] = {}
        for index, (path, value) in enumerate(zip(paths, features, strict=True)):
            if value is None:
                missing.setdefault(path, index)
        self.hits += len(inputs) - len(missing)
        self.misses += len(missing)
        computed: dict[Path, Tensor] = {}
        if missing:
            for path, value in zip(missing, compute(list(missing.values())), strict=True):
                computed[path] = value.detach()
                self._write(path, computed[path])
        device = inputs[0].device if inputs else None
        return [
            computed[path] if value is None else value.to(device, non_blocking=True)
            for path, value in zip(paths, features, strict=True)
        ]

    def _encoder_digest(self) -> str:
        """Digest of the encoder's structure and weights, computed again when weights were written to."""
        tensors = self.encoder.state_dict(keep_vars=True)
        version = sum(value._version for value in tensors.values())
        if self._digest[0] != version:
            digest = blake2b(f"{_VERSION} {self.encoder} {_settings(self.encoder)}".encode(), digest_size=16)
            for name, value in tensors.items():
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(_bytes(value))
            self._digest = version, digest.hexdigest()
        return self._digest[1]

    def _path(self, folder: Path, value: Tensor, kind: str) -> Path:
        digest = blake2b(f"{kind} {value.dtype} {tuple(value.shape)}".encode(), digest_size=16)
        digest.update(_bytes(value))
        name = digest.hexdigest()
        return folder / name[:2] / f"{name}.safetensors"

    def _read(self, path: Path) -> Tensor | None:
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                value: Tensor = file.get_tensor("features")
                expected = (file.metadata() or {}).get("crc")
        except (SafetensorError, OSError, ValueError):
            return None
        return value if expected == _crc(value) else None

    def _write(self, path: Path, value: Tensor) -> None:
        if self._left is None:
            self._left = self.config.max_gib * 2**30 - self._used()
        if value.nbytes > self._left:
            if self._left != float("-inf"):
                self._left = float("-inf")
                log.warning(
                    "stem.cache: %s holds %g GiB; features of further inputs are computed each time: raise max_gib, or "
                    "drop random augmentation, under which no input is seen twice",
                    self.config.dir, self.config.max_gib,
                )  # fmt: skip
            return
        host = value.contiguous().cpu()
        data = safetensors.torch.save({"features": host}, {"crc": _crc(host)})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as draft:
                try:
                    draft.write(data)
                    draft.flush()
                    Path(draft.name).replace(path)
                except BaseException:
                    Path(draft.name).unlink(missing_ok=True)
                    raise
        except OSError as error:
            self._left = float("-inf")
            log.warning("stem.cache: %s cannot be written (%s); features are computed each time", path.parent, error)
            return
        self._left -= len(data)

    def _used(self) -> int:
        """Bytes of the entries in the folder. Drafts of killed processes are removed."""
        used = 0
        for parent, _, names in os.walk(self.config.dir):
            for name in names:
                path = Path(parent, name)
                with suppress(OSError):
                    status = path.stat()
                    if name.endswith(".part") and time.time() - status.st_mtime > _STALE_SECONDS:
                        path.unlink()
                    else:
                        used += status.st_size
        return used


def _settings(encoder: nn.Module) -> str:
    """The configurations of models of transformers, which have settings that their structure does not show."""
    for module in encoder.modules():
        config: Any = getattr(module, "config", None)
        if hasattr(config, "to_dict"):
            values = {key: value for key, value in config.to_dict().items() if key not in _ORIGIN}
            return json.dumps(values, sort_keys=True, default=str)
    return ""


def _bytes(value: Tensor) -> Any:
    """A view of a tensor's bytes, as hashes take it."""
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def _crc(value: Tensor) -> str:
    return f"{zlib.crc32(_bytes(value)):08x}"
