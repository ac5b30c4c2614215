"""Embedding with a trained run or a pretrained model: texts, files, values in memory, and folders.

Shapes: N sources, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from ..core.errors import BadSample, ConfigError, UserError
from ..core.tokens import Tokens
from ..data.capabilities import Stretch
from ..data.dataset import Dataset, DatasetConfig
from ..data.listing import listed
from ..data.modality import Modality
from ..data.pretrained_towers import PretrainedTower, PretrainedTowers
from ..data.registry import is_pretrained, modalities, towers_loader
from ..data.tokenizer import Tokenizer
from ..inference.reading import TowerReader
from ..train.distributed import device_named
from ..train.precision import autocast
from .collecting import Outcome, embed_files
from .encoder import CPU, PRECISIONS, RunEncoder, computing
from .passages import Passages
from .query import Query, Source, read
from .rows import Model
from .vector_encoder import VectorEncoder, no_tower


class Embedding(VectorEncoder):
    """Computes vectors of texts, files and values in memory, and writes collections of them."""

    def embed(self, sources: Sequence[Query | Source], tower: str | None = None) -> np.ndarray:
        """(N, D) vectors of texts, files, Pillow images, arrays or raw samples, in their order.

        Args:
            sources: what to embed. A ``str`` is a text for towers of text, and the path of a file for others.
            tower: that reads them. If absent, it is found for each by the suffix of a path or the type of the value,
                and a ``str`` is a text.

        Raises:
            BadSample: a source cannot be read.
            UserError: no tower reads a source, or several do.
        """
        queries = [Query.guess(source) if tower is None else Query.of(tower, source) for source in sources]
        terms = [read(query, self)[0] for query in queries]
        vectors_ND = np.zeros((len(terms), self.model.dim), np.float32)
        for name in dict.fromkeys(term.tower for term in terms):
            indices = [index for index, term in enumerate(terms) if term.tower == name]
            vectors_ND[indices] = self.vectors(name, [terms[index].value for index in indices])
        return vectors_ND

    def embed_folder(self, folder: str | Path, out: str | Path, tower: str | None = None, **options: Any) -> Outcome:
        """Writes a collection of the files in a folder and its subfolders.

        Args:
            folder: of the files.
            out: folder of the collection; must not exist.
            tower: that reads the files; may be absent if the model has a single tower that reads files by suffix.
            options: ``media``, ``levels``, ``window``, ``workers``, ``restart`` and ``known``; see
                :func:`hrt_mm.retrieval.collecting.embed_files`.

        Raises:
            UserError: there are no files that the tower reads, or several towers could read them.
        """
        if tower is None:
            candidates = [name for name in self.towers if self.modality(name).suffixes is not None]
            if len(candidates) != 1:
                raise UserError(f"name the tower that reads the files: tower={' or tower='.join(self.towers)}")
            (tower,) = candidates
        suffixes, others = self.suffixes(tower)
        return embed_files(self, tower, listed([Path(folder)], (), suffixes, None, others), Path(out), **options)


@dataclass(frozen=True)
class PretrainedEmbedder(Embedding):
    """Computes vectors with the towers of a pretrained model, such as a CLIP, without any training.

    ::

        embedder = PretrainedEmbedder.of("open_clip:ViT-B-32/laion2b_s34b_b79k")
        embedder.embed(["a chess knight", Path("drawing.png")])

    Args:
        pretrained: the towers, on ``device``.
        model: identifies the weights.
        device: that computes.
        precision: ``fp32``, ``bf16``, or ``auto`` for bf16 where the hardware supports it. Vectors are always float32.
    """

    pretrained: PretrainedTowers
    model: Model
    device: torch.device = CPU
    precision: str = "fp32"

    @classmethod
    def of(
        cls, address: str, *, dim: int | None = None, device: str = "auto", precision: str = "fp32"
    ) -> PretrainedEmbedder:
        """Loads a model.

        Args:
            address: ``LIBRARY:NAME``, where the name may be a local folder.
            dim: width of the vectors, which is that of the model.
            device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto`` for CUDA if there is a device.
            precision: ``fp32``, ``bf16``, or ``auto`` for bf16 where the hardware supports it.

        Raises:
            ConfigError: there is no such library or model, its weights cannot be loaded, its vectors have another
                width, or the device or precision is not available.
        """
        chosen = device_named(device)
        if precision not in PRECISIONS:
            raise ConfigError(f"precision {precision!r} is unknown; it is one of {', '.join(PRECISIONS)}")
        autocast(precision, chosen)
        library, _, name = address.partition(":")
        if Path(name).expanduser().is_dir():
            # A search loads the model again, maybe from another folder.
            name = str(Path(name).expanduser().resolve())
        pretrained = towers_loader(library)(name)
        if dim not in (None, pretrained.width):
            raise ConfigError(f"{address} has vectors of width {pretrained.width}, and not {dim}; drop the width")
        fingerprint = _fingerprint(pretrained.module)
        pretrained.module.to(chosen).eval()
        return cls(pretrained, Model(fingerprint, pretrained.width, f"{library}:{name}"), chosen, precision)

    @property
    def towers(self) -> tuple[str, ...]:
        return tuple(self.pretrained.towers)

    @property
    def shared(self) -> Mapping[str, str]:
        return {}

    def dataset(self, split: str) -> Dataset:
        raise ConfigError(f"{self.model.run} is a pretrained model and has no data; give files, folders or --manifest")

    def modality(self, tower: str) -> type[Modality]:
        return modalities()[self._tower(tower).modality]

    def tokenizer(self, tower: str) -> Tokenizer:
        return self._tower(tower).tokenizer

    def reader(self, tower: str) -> TowerReader:
        return TowerReader(tower, self.modality(tower), self.tokenizer(tower), DatasetConfig(type="files"))

    def levels(self, tower: str) -> dict[str, int]:
        return {}

    def prepare(self, tower: str, value: Any) -> Any:
        return value

    def encode(self, tower: str, tokens: Tokens, levels: Sequence[str] = ()) -> tuple[np.ndarray, list[list[Passages]]]:
        encode = self._tower(tower).encode
        vectors = [np.zeros((0, self.model.dim), np.float32)]
        with computing(self.device, self.precision, None):
            vectors += [
                normalize(encode(rows.to(self.device)).float(), dim=-1).cpu().numpy() for rows in tokens.x.split(BATCH)
            ]
        return np.concatenate(vectors), [[] for _ in range(len(tokens))]

    def embed_stretches(
        self, tower: str, stretches: Iterable[Stretch], levels: Sequence[str] = (), *, media: bool = False
    ) -> tuple[Any, np.ndarray, list[Passages]]:
        raise BadSample(f"a sample of {tower}", f"is too long for {self.model.run}; cut it")

    def query_vectors(self, tower: str, target: str | None, *, values: Sequence[Any]) -> dict[str, np.ndarray]:
        return {"": self.vectors(tower, values)}

    def query_tokens(self, tower: str, target: str, level: str, values: Sequence[Any]) -> list[np.ndarray]:
        raise UserError(f"{self.model.run} has no pieces of level {level!r} to compare with; drop rerank")

    def _tower(self, name: str) -> PretrainedTower:
        if name not in self.pretrained.towers:
            raise no_tower(name, self.towers)
        return self.pretrained.towers[name]


BATCH = 32
"""Samples that a pretrained model encodes at once."""


def _fingerprint(module: nn.Module) -> str:
    """SHA-256 of the weights and their names."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@dataclass(frozen=True)
class Embedder(RunEncoder, Embedding):
    """Computes vectors with a trained run, and writes collections of them.

    ::

        embedder = Embedder.of("runs/glyphs")
        embedder.embed(["black chess knight", Path("drawing.png")])
        embedder.embed_folder("pictures", out="vectors")
    """


def load_embedder(
    model: str | Path, *, dim: int | None = None, device: str = "auto", precision: str = "fp32"
) -> Embedder | PretrainedEmbedder:
    """Loads a trained run or a pretrained model.

    Args:
        model: the run folder, a repository, ``hub:owner/name``, or a pretrained model, such as
            ``open_clip:ViT-B-32/laion2b_s34b_b79k`` or ``transformers:folder``.
        dim: see :meth:`Embedder.of`.
        device: see :meth:`Embedder.of`.
        precision: see :meth:`Embedder.of`.

    Raises:
        ConfigError: see :meth:`Embedder.of` and :meth:`PretrainedEmbedder.of`.
        CheckpointError: the checkpoint of a run is missing or damaged.
    """
    if is_pretrained(model):
        return PretrainedEmbedder.of(str(model), dim=dim, device=device, precision=precision)
    return Embedder.of(model, dim=dim, device=device, precision=precision)
