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
from hrt_mm.retrieval.segment import Hit
from hrt_mm.retrieval.where import Where
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
            info = {"parity": "odd" if number % 2 else "even"}
            rows = [Row(name, "video", info=info), *(Row(piece, "video", "scenes", parent=name) for piece in coarse)]
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


def keys(ids: list[str]) -> np.ndarray:
    return np.array([key_of("video", id) for id in ids])


@pytest.mark.parametrize("chunk", [1, 5, 1 << 16])
def test_scores_are_those_of_the_formula(
    index: Index, fine: dict[str, np.ndarray], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_interaction, "CHUNK", chunk)
    shots = MultiVectors.of(index, "video", "shots")
    assert len(shots) == sum(bool(len(pieces)) for pieces in fine.values())
    tokens = vectors(4, seed=50)
    samples = [*fine, "no such film"]
    expected = [formula(tokens, fine.get(name, np.zeros((0, 8)))) for name in samples]
    np.testing.assert_allclose(shots.scores([(tokens, 1.0)], keys(samples)), expected, atol=1e-6)


def test_terms_add_up_by_weight(index: Index, fine: dict[str, np.ndarray]) -> None:
    shots = MultiVectors.of(index, "video", "shots")
    one, other = vectors(3, seed=50), vectors(2, seed=51)
    expected = [formula(one, pieces) - 0.5 * formula(other, pieces) for pieces in fine.values() if len(pieces)]
    samples = [name for name, pieces in fine.items() if len(pieces)]
    np.testing.assert_allclose(shots.scores([(one, 1.0), (other, -0.5)], keys(samples)), expected, atol=1e-6)


def test_a_rerank_orders_all_candidates_as_an_exhaustive_search(index: Index, fine: dict[str, np.ndarray]) -> None:
    shots = MultiVectors.of(index, "video", "shots")
    tokens = vectors(4, seed=50)
    expected = sorted(fine, key=lambda name: -formula(tokens, fine[name]))
    hits = index.search(tokens[0], 100, tower="video")
    assert {hit.row.id for hit in hits} == set(fine)
    reranked = shots.rerank(hits, [(tokens, 1.0)])
    assert [hit.row.id for hit in reranked][:-2] == expected[:-2]
    assert [hit.score for hit in reranked[-2:]] == [NOTHING, NOTHING]
    by_pieces = shots.rerank(shots.candidates([(tokens, 1.0)], per_token=1000), [(tokens, 1.0)])
    with_pieces = [name for name in expected if len(fine[name])]
    assert [hit.row.id for hit in by_pieces] == with_pieces
    assert [hit.score for hit in by_pieces] == pytest.approx([formula(tokens, fine[name]) for name in with_pieces])
    assert not any(hit.row.level for hit in by_pieces)


def names(hits: list[Hit]) -> set[str]:
    return {hit.row.id for hit in hits}


def test_candidates_are_the_samples_of_the_nearest_pieces(index: Index, fine: dict[str, np.ndarray]) -> None:
    tokens = np.stack([fine["film 2"][3], fine["film 7"][0]])
    shots = MultiVectors.of(index, "video", "shots")
    candidates = shots.candidates([(tokens, 1.0)], per_token=1)
    assert {"film 2", "film 7"} <= names(candidates)
    # A segment is searched by itself, so each may name one more.
    assert len(candidates) <= 4
    without = shots.candidates([(tokens[:1], 1.0), (tokens[1:], -1.0)], per_token=1)
    assert "film 2" in names(without)
    with pytest.raises(UserError, match="need a term of positive weight"):
        shots.candidates([(tokens, -1.0)], per_token=1)


def test_a_filter_leaves_the_nearest_pieces_of_other_samples_out(index: Index, fine: dict[str, np.ndarray]) -> None:
    tokens = fine["film 2"][3:4]
    shots = MultiVectors.of(index, "video", "shots")
    assert "film 2" in names(shots.candidates([(tokens, 1.0)], 1))
    odd = {f"film {number}" for number in range(1, 2 * len(COUNTS), 2)}
    candidates = shots.candidates([(tokens, 1.0)], 1, Where.parse("parity=odd"))
    nearest_odd = max((name for name in odd if len(fine[name])), key=lambda name: formula(tokens, fine[name]))
    assert nearest_odd in names(candidates) <= odd
    everything = shots.candidates([(tokens, 1.0)], 1000, Where.parse("parity=odd"))
    assert names(everything) == {name for name in odd if len(fine[name])}
    assert shots.candidates([(tokens, 1.0)], 1000, Where.parse("parity=neither")) == []


def test_pieces_of_removed_samples_are_left_out(index: Index, fine: dict[str, np.ndarray]) -> None:
    tokens = vectors(4, seed=50)
    best = max(fine, key=lambda name: formula(tokens, fine[name]))
    stale = MultiVectors.of(index, "video", "shots")
    before = stale.current
    index.remove([best], "video")
    assert before and not stale.current
    shots = MultiVectors.of(index, "video", "shots")
    assert shots.current
    assert shots.scores([(tokens, 1.0)], keys([best])).tolist() == [NOTHING]
    assert best not in names(shots.candidates([(tokens, 1.0)], per_token=1000))


def test_a_level_that_the_index_lacks_is_refused(index: Index) -> None:
    with pytest.raises(UserError, match=r"no pieces of level 'frames' of video; it has those of scenes, shots"):
        MultiVectors.of(index, "video", "frames")
    with pytest.raises(UserError, match=r"no pieces of level 'shots' of text; it has those of no level"):
        MultiVectors.of(index, "text", "shots")
