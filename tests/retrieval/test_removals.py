"""Removals: a search finds what a full comparison of the rows that are left does, whatever was removed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrt_mm.core.errors import UserError
from hrt_mm.retrieval import neighbours as module
from hrt_mm.retrieval import segment_writer, structures
from hrt_mm.retrieval.collection import Collection, writing
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.neighbours import Kind, Mask, Neighbours
from hrt_mm.retrieval.rows import Model, Row
from hrt_mm.retrieval.where import Where
from tests.retrieval.structures_for_tests import KINDS, of_any_size, searched


def whole_numbers(count: int, dim: int, seed: int, largest: int = 3) -> np.ndarray:
    """Vectors whose inner products float32 holds exactly, many of them alike."""
    return np.random.default_rng(seed).integers(-largest, largest + 1, (count, dim)).astype(np.float32)


def around(centre_D: np.ndarray, near: int, far: int) -> np.ndarray:
    """Unit vectors, the first of them all nearer to a centre than the others."""
    draw = np.random.default_rng(0)
    close_ND = centre_D + 0.02 * draw.normal(size=(near, len(centre_D)))
    result = np.concatenate([close_ND, draw.normal(size=(far, len(centre_D)))]).astype(np.float32)
    return result / np.linalg.norm(result, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[Kind, Neighbours], np.ndarray, np.ndarray]:
    """Structures over 300 vectors around a centre and 5,700 others."""
    pytest.importorskip("faiss")
    centre_D = np.eye(16, dtype=np.float32)[0]
    vectors_ND = around(centre_D, 300, 5_700)
    folder = tmp_path_factory.mktemp("crowded")
    return {kind: searched(vectors_ND, kind, folder / kind) for kind in KINDS}, vectors_ND, centre_D


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("removed", [299, 300, 295, 5_999, 5_000, 6_000])
def test_the_nearest_that_remain_are_returned_once_those_before_them_are_removed(
    crowded: tuple[dict[Kind, Neighbours], np.ndarray, np.ndarray], kind: Kind, removed: int
) -> None:
    neighbours, vectors_ND, centre_D = crowded
    nearest_N = np.argsort(-(vectors_ND @ centre_D), kind="stable")
    alive_N = np.ones(len(vectors_ND), bool)
    alive_N[nearest_N[:removed]] = False
    queries_QD = np.stack([centre_D, np.float32(0.9) * centre_D + vectors_ND[0], -centre_D])
    scores_QK, positions_QK = neighbours[kind].search(queries_QD, 10, Mask(alive_N))
    assert positions_QK.shape == (3, min(10, len(vectors_ND) - removed))
    right = np.isin(positions_QK[0], nearest_N[removed : removed + 10]).mean() if positions_QK.size else 1
    assert right >= (0.8 if kind == "ivfsq8" else 1)
    if kind in ("flat", "sq8"):
        assert positions_QK[0].tolist() == nearest_N[removed : removed + 10].tolist()
    assert alive_N[positions_QK].all()
    assert all(len(set(row)) == len(row) for row in positions_QK.tolist())
    assert (np.diff(scores_QK) <= 0).all()
    expected_QK = np.einsum("qd,qkd->qk", queries_QD, vectors_ND[positions_QK])
    np.testing.assert_allclose(scores_QK, expected_QK, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_as_requested_are_returned_among_duplicates(tmp_path: Path, kind: Kind) -> None:
    vectors_ND = np.concatenate([np.ones((2_500, 4), np.float32), whole_numbers(500, 4, 1)])
    result = searched(vectors_ND, kind, tmp_path / kind)
    mask = Mask(np.arange(3_000) >= 2_400)
    for k in (1, 100, 101, 150, 599, 600, 601, 10_000):
        scores_QK, positions_QK = result.search(np.ones((2, 4), np.float32), k, mask)
        assert positions_QK.shape == (2, min(k, 600))
        assert len(set(positions_QK[0].tolist())) == min(k, 600) and positions_QK.min() >= 2_400
        exact_N = np.sort(vectors_ND[2_400:] @ np.ones(4, np.float32))[::-1]
        assert scores_QK[0].tolist() == exact_N[:k].tolist()


@settings(max_examples=60)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 120),
    st.sets(st.integers(0, 119)),
    st.integers(1, 150),
    st.integers(1, 20),
    st.integers(0, 3),
)
def test_exact_search_is_that_of_a_full_comparison(
    kind: Kind, count: int, gone: set[int], k: int, queries: int, seed: int
) -> None:
    """With the bounds that keep structures from being used on so few vectors out of the way."""
    # Recall is of 10 neighbours beside the row itself.
    count = max(count, 12) if kind == "ivfsq8" else count
    vectors_ND, queries_QD = whole_numbers(count, 3, seed), whole_numbers(queries, 3, seed + 100)
    mask = Mask(~np.isin(np.arange(count), list(gone)))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        structure = searched(vectors_ND, kind, Path(folder))
        patch.setattr(module, "FEW", 0)
        for exact in (False, True):
            scores_QK, positions_QK = structure.search(queries_QD, k, mask, exact=exact)
            assert positions_QK.shape == scores_QK.shape == (queries, min(k, mask.count))
            for query_D, scores_K, positions_K in zip(queries_QD, scores_QK, positions_QK, strict=True):
                assert scores_K.tolist() == (vectors_ND[positions_K] @ query_D).tolist()
                assert mask.allowed_N[positions_K].all() and len(set(positions_K.tolist())) == len(positions_K)
                assert (np.diff(scores_K) <= 0).all()
                if exact or kind in ("flat", "sq8"):
                    order = np.argsort(-(vectors_ND[mask.positions] @ query_D), kind="stable")
                    assert positions_K.tolist() == mask.positions[order][:k].tolist()


MODEL = Model("m" * 64, 3)
TOWERS, LEVELS = ("image", "text"), ("", "scenes")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 12), st.sampled_from(TOWERS)),
        st.tuples(st.just("compact")),
        st.tuples(st.just("remove"), st.integers(0, 10**6), st.integers(1, 8), st.booleans()),
        st.tuples(st.just("again"), st.integers(0, 10**6)),
        st.tuples(st.just("reopen")),
        st.tuples(st.just("search"), st.integers(0, 10**6), st.integers(1, 40), st.sampled_from([None, *TOWERS])),
    ),
    min_size=3,
    max_size=12,
)


class Plain:
    """What an index should hold: rows in the order of their addition, and their vectors."""

    def __init__(self) -> None:
        self.rows: list[tuple[Row, np.ndarray]] = []

    def year(self, row: Row) -> str:
        """Pieces inherit it of their sample."""
        samples = {(row.tower, row.id): row.info for row, _ in self.rows if not row.level}
        return samples.get((row.tower, row.parent or row.id), {}).get("year", "")

    def best(
        self, query_D: np.ndarray, k: int, tower: str | None, level: str, parent: str | None = None, year: str = ""
    ) -> list[str]:
        """The ids of the nearest; of equal ones those of the first tower, and those that were added earlier."""
        rows = [
            (-float(vector_D @ query_D), row.tower, row.id)
            for row, vector_D in self.rows
            if row.level == level
            and tower in (None, row.tower)
            and parent in (None, row.parent)
            and year in ("", self.year(row))
        ]
        return [name for *_, name in sorted(rows, key=lambda item: item[:2])[:k]]


@settings(max_examples=15)
@given(STEPS)
def test_any_order_of_operations_gives_what_a_plain_list_does(steps: list[tuple[Any, ...]]) -> None:
    pytest.importorskip("faiss")
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        of_any_size(patch)
        patch.setattr(structures, "FLAT_UP_TO", 5)
        patch.setattr(segment_writer, "MERGED", 3)
        both = Both(Path(name))
        for step, *values in [*steps, ("search", 1, 5, None)]:
            getattr(both, step)(*values)
            both.count()
        Index(both.index.folder).verify()


class Both:
    """An index, and a plain list that the same is done to."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.index, self.plain = folder, Index.create(folder / "index", MODEL), Plain()
        self.removed: list[tuple[Row, np.ndarray]] = []
        self.number = 0

    def add(self, count: int, tower: str) -> None:
        rows = []
        for _ in range(count):
            info = {"year": str(self.number % 3)}
            rows.append(Row(str(self.number), tower, info=info))
            rows.append(Row(f"{self.number}/0", tower, "scenes", str(self.number)))
            self.number += 1
        self._add(list(zip(rows, whole_numbers(len(rows), 3, self.number, 1), strict=True)))

    def _add(self, added: list[tuple[Row, np.ndarray]]) -> None:
        made = Path(tempfile.mkdtemp(dir=self.folder)) / "made"
        with writing(made, MODEL) as writer:
            writer.add(np.stack([vector_D for _, vector_D in added]), [row for row, _ in added])
        assert self.index.add(Collection(made)) == len(added)
        self.plain.rows += added

    def again(self, which: int) -> None:
        if self.removed:
            self._add([self.removed.pop(which % len(self.removed))])

    def remove(self, first: int, count: int, elsewhere: bool) -> None:
        whole = [row.id for row, _ in self.plain.rows if not row.level]
        chosen = {whole[(first + step) % len(whole)] for step in range(min(count, len(whole)))}
        if not chosen:
            with pytest.raises(UserError, match="has no row"):
                self.index.remove(["nothing"])
            return
        gone = [item for item in self.plain.rows if item[0].id in chosen or item[0].parent in chosen]
        self.plain.rows = [item for item in self.plain.rows if all(item[0] is not row for row, _ in gone)]
        index = Index(self.index.folder) if elsewhere else self.index
        assert index.remove(sorted(chosen)) == len(gone)
        self.removed += [item for item in gone if not item[0].level]
        self.reopen() if elsewhere else None

    def reopen(self) -> None:
        self.index = Index(self.index.folder)

    def compact(self) -> None:
        self.index.compact()
        groups = {(row.tower, row.level) for row, _ in self.plain.rows}
        assert {(each.tower, each.level) for each in self.index.groups()} == groups
        assert all(each.segments == 1 and not each.removed for each in self.index.groups())

    def search(self, seed: int, k: int, tower: str | None) -> None:
        query_D = whole_numbers(1, 3, seed)[0]
        for level in LEVELS:
            hits = self.index.search(query_D, k, tower=tower, level=level)
            assert [hit.row.id for hit in hits] == self.plain.best(query_D, k, tower, level)
            hits = self.index.search(query_D, k, tower=tower, level=level, where=Where.parse("year=1"))
            assert [hit.row.id for hit in hits] == self.plain.best(query_D, k, tower, level, year="1")
        for hit in self.index.search(query_D, 3, tower=tower, inside=2):
            inner = [item.row.id for item in hit.inside]
            assert inner == self.plain.best(query_D, 2, hit.row.tower, "scenes", hit.row.id)

    def count(self) -> None:
        rows = [row for row, _ in self.plain.rows]
        assert len(self.index) == len(rows)
        for tower in TOWERS:
            assert self.index.towers.get(tower, 0) == sum(row.tower == tower and not row.level for row in rows)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 1e300])
def test_vectors_without_a_distance_are_refused(tmp_path: Path, value: float) -> None:
    index = Index.create(tmp_path / "index", MODEL)
    message = "overflow" if value == 1e30 else "is NaN or infinite"
    with pytest.raises(UserError, match=f"the query's vector .*{message}"):
        index.search(np.array([0, 1, value]), 1)
    with (
        pytest.raises(UserError, match=f"the vector of 'bad' .*{message}"),
        writing(tmp_path / "a", MODEL) as writer,
        np.errstate(over="ignore"),
    ):
        writer.add(np.array([[0, 0, 1], [0, 1, value]]), [Row("good", "image"), Row("bad", "image")])
    with pytest.raises(UserError, match="no vector of numbers"):
        index.search(np.array(["a", "b", "c"]), 1)


def test_a_vector_that_became_nan_on_the_disk_is_named_by_the_search(tmp_path: Path) -> None:
    vectors_ND = whole_numbers(5, 3, 0)
    vectors_ND[3, 1] = np.nan
    with pytest.raises(UserError, match="the vector at 3 is not finite"):
        Neighbours(vectors_ND, "flat", tmp_path).search(np.ones((2, 3), np.float32), 2)
