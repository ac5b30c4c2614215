from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.checks import CheckFailed
from benchmarks.sharded_data import Corpus, check_streams, counted, token_spread


def test_each_sample_is_read_once_across_a_kill_and_on_other_numbers_of_ranks(tmp_path: Path) -> None:
    """Two ranks with two workers each are killed in mid-epoch; one rank and four go on."""
    one, four = check_streams(tmp_path, samples=320, per_shard=20, batch=32)
    scores = one.contenders["stream"].scores
    assert scores == four.contenders["stream"].scores
    # Of 16 shards one is missing and one is cut; both have no more samples than others, and a bad one is in neither.
    assert 320 - 40 < (scores["read once"] or 0) < 320 - 20
    assert (scores["bad"], scores["broken shards"]) == (3, 2)
    assert one.sizes["killed after step"] == 6 and one.sizes["resumed from step"] == 5


def test_what_is_read_twice_or_not_at_all_is_found(tmp_path: Path) -> None:
    corpus = Corpus("", [["a", "b"]], set(), set())
    assert corpus.rows == Counter({(0, 0): 1, (0, 1): 1})
    line = {"step": 1, "read": [[0, 0, 0], [0, 0, 0], [1, 0, 1]], "good": 3, "bad": []}
    with pytest.raises(CheckFailed, match="1 samples were read twice, and 1 were not read"):
        counted(corpus, [line], tmp_path)


def test_shares_of_ranks_are_about_equal() -> None:
    mixed, sorted_by_length = (token_spread(4000, 4, window, 32768) for window in (None, 1024))
    assert 1 <= mixed["mean"] < 1.01 and sorted_by_length["mean"] < 1.1
    assert sorted_by_length["longest/shortest"] < mixed["longest/shortest"] / 3
