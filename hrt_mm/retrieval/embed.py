"""Embedding with a trained run: texts, files, values in memory, and folders.

Shapes: N sources, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import UserError
from ..data.listing import listed
from .collecting import Outcome, embed_files
from .encoder import RunEncoder
from .query import Query, Source, read


@dataclass(frozen=True)
class Embedder(RunEncoder):
    """Computes vectors with a trained run, and writes collections of them.

    ::

        embedder = Embedder.of("runs/glyphs")
        embedder.embed(["black chess knight", Path("drawing.png")])
        embedder.embed_folder("pictures", out="vectors")
    """

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
