"""MaxSim over the pieces of an index, beside the formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hrt_mm.core.errors import UserError
from hrt_mm.retrieval import late_interaction
from hrt_mm.retrieval.collection import Collection, writing
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.late_interaction import NOTHING, MultiVectors
from hrt_mm.retrieval.rows import Row, key_of
from tests.retrieval.collections_of_vectors import MODEL, vectors

COUNTS = (3, 1, 4, 2, 0, 5)
"""Coarse pieces of each sample; each has two fine ones."""


def films(folder: Path, first: int = 0) -> tuple[Collection, dict[str, np.ndarray]]:
    """Samples with nested pieces, and the vectors of the fine pieces by sample."""
    fine: dict[str, np.ndarray] = {}
    with writing(folder, MODEL) as writer:
        for number, count in enumerate(COUNTS, first):
            name = f"film {number}"
            own = vectors(1 + 3 * count, seed=number)
            coarse = [f"{name}/scene {piece}" for piece in range(count)]
            rows = [Row(name, "video"), *(Row(piece, "video", "scenes", parent=name) for piece in coarse)]
            rows += [
                Row(f"{piece}/shot {shot}", "video", "shots", parent=piece) for piece in coarse for shot in range(2)
            ]
            writer.add(own, rows)
            fine[name] = own[1 + count :]
        writer.add(vectors(1, seed=99), [Row(f"film {first}", "text")])
    return Collection(folder), fine


def formula(tokens_TD: np.ndarray, pieces_PD: np.ndarray) -> float:
    if not len(pieces_PD):
        return NOTHING
    return float(np.mean([max(float(token @ piece) for piece in pieces_PD) for token in tokens_TD]))


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index.build(tmp_path / "index", [films(tmp_path / "a")[0], films(tmp_path / "b", len(COUNTS))[0]])


@pytest.fixture
def fine(tmp_path: Path, index: Index) -> dict[str, np.ndarray]:
    return films(tmp_path / "c")[1] | films(tmp_path / "d", len(COUNTS))[1]


def keys(names: list[str]) -> np.ndarray:
    return np.array([key_of("video", name) for name in names])


@pytest.mark.parametrize("chunk", [1, 5, 1 << 16])
def test_scores_are_those_of_the_formula(
    index: Index, fine: dict[str, np.ndarray], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_interaction, "CHUNK", chunk)
    shots = MultiVectors.of(index, "video", "shots")
    assert len(shots) == sum(bool(len(pieces)) for pieces in fine.values())
    tokens = vectors(4, seed=50)
    names = [*fine, "no such film"]
    expected = [formula(tokens, fine.get(name, np.zeros((0, 8)))) for name in names]
    np.testing.assert_allclose(shots.scores([(tokens, 1.0)], keys(names)), expected, atol=1e-6)


def test_terms_add_up_by_weight(index: Index, fine: dict[str, np.ndarray]) -> None:
    shots = MultiVectors.of(index, "video", "shots")
    one, other = vectors(3, seed=50), vectors(2, seed=51)
    expected = [formula(one, pieces) - 0.5 * formula(other, pieces) for pieces in fine.values() if len(pieces)]
    names = [name for name, pieces in fine.items() if len(pieces)]
    np.testing.assert_allclose(shots.scores([(one, 1.0), (other, -0.5)], keys(names)), expected, atol=1e-6)


def test_a_rerank_orders_all_candidates_as_an_exhaustive_search(index: Index, fine: dict[str, np.ndarray]) -> None:
    shots = MultiVectors.of(index, "video", "shots")
    tokens = vectors(4, seed=50)
    expected = sorted(fine, key=lambda name: -formula(tokens, fine[name]))
    hits = index.search(tokens[0], 100, tower="video")
    assert {hit.row.id for hit in hits} == set(fine)
    reranked = shots.rerank(hits, [(tokens, 1.0)])
    assert [hit.row.id for hit in reranked][:-2] == expected[:-2]
    assert [hit.score for hit in reranked[-2:]] == [NOTHING, NOTHING]
    searched = shots.search([(tokens, 1.0)], 5, per_token=1000)
    assert [hit.row.id for hit in searched] == expected[:5]
    assert [hit.score for hit in searched] == pytest.approx([formula(tokens, fine[name]) for name in expected[:5]])
    assert not any(hit.row.level for hit in searched)


def test_candidates_are_the_samples_of_the_nearest_pieces(index: Index, fine: dict[str, np.ndarray]) -> None:
    tokens = np.stack([fine["film 2"][3], fine["film 7"][0]])
    shots = MultiVectors.of(index, "video", "shots")
    found = shots.nearest([(tokens, 1.0)], per_token=1)
    assert set(keys(["film 2", "film 7"])) <= set(found)
    # A segment is searched by itself, so each may name one more.
    assert len(found) <= 4
    without = shots.nearest([(tokens[:1], 1.0), (tokens[1:], -1.0)], per_token=1)
    assert key_of("video", "film 2") in without


def test_pieces_of_removed_samples_are_left_out(index: Index, fine: dict[str, np.ndarray]) -> None:
    tokens = vectors(4, seed=50)
    best = max(fine, key=lambda name: formula(tokens, fine[name]))
    index.remove([best], "video")
    shots = MultiVectors.of(index, "video", "shots")
    assert shots.scores([(tokens, 1.0)], keys([best])).tolist() == [NOTHING]
    assert best not in [hit.row.id for hit in shots.search([(tokens, 1.0)], 20, per_token=1000)]


def test_a_level_that_the_index_lacks_is_refused(index: Index) -> None:
    with pytest.raises(UserError, match=r"no pieces of level 'frames' of video; it has those of scenes, shots"):
        MultiVectors.of(index, "video", "frames")
    with pytest.raises(UserError, match=r"no pieces of level 'shots' of text; it has those of no level"):
        MultiVectors.of(index, "text", "shots")
