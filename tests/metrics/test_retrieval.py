from __future__ import annotations

import pytest
import torch
from sklearn.metrics import average_precision_score, ndcg_score
from torch.nn.functional import normalize

from hrt_mm.metrics.retrieval import distinct, rank, rank_scores, wrong_modality


def test_ranks_and_precisions_by_hand() -> None:
    answers = torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1.0], [-1.0, 0]])
    result = rank(torch.tensor([[1.0, 0], [0, 1.0]]), torch.tensor([7, 7]), answers, torch.tensor([1, 7, 2, 7]))
    assert result.rank_Q.tolist() == [2, 2]
    assert result.precision_Q.tolist() == pytest.approx([(1 / 2 + 2 / 4) / 2, (1 / 2 + 2 / 4) / 2])
    assert result.positives_Q.tolist() == [2, 2]


def test_mean_average_precision_is_that_of_scikit_learn() -> None:
    torch.manual_seed(0)
    queries, answers = torch.randn(20, 8), torch.randn(50, 8)
    ours, theirs = torch.randint(4, (20,)), torch.randint(4, (50,))
    result = rank(queries, ours, answers, theirs)
    expected = [
        average_precision_score(theirs == group, answers @ query) for query, group in zip(queries, ours, strict=True)
    ]
    assert result.precision_Q.tolist() == pytest.approx(expected)


def test_ndcg_is_that_of_scikit_learn() -> None:
    torch.manual_seed(0)
    scores, correct = torch.randn(30, 40), torch.rand(30, 40) < torch.rand(30, 1) * 0.6
    correct[:, 0] = True
    ranking = rank_scores(scores, correct)
    assert int(ranking.positives_Q.max()) > 10 > int(ranking.positives_Q.min())
    expected = [
        ndcg_score(row_scores[None], row[None], k=10)
        for row_scores, row in zip(correct.numpy(), scores.numpy(), strict=True)
    ]
    assert ranking.ndcg_Q.tolist() == pytest.approx(expected)
    assert ranking.metrics()["nDCG@10"] == pytest.approx(sum(expected) / 30)


def test_mrr_by_hand() -> None:
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.9, 0.5, 0.1]])
    ranking = rank_scores(scores, torch.tensor([[True, True, False], [False, True, True], [False, False, True]]))
    assert ranking.metrics()["MRR"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_wrong_answers_with_the_score_of_a_right_one_lower_ndcg_and_mrr() -> None:
    scores, correct = torch.zeros(1, 5), torch.tensor([[False, True, False, True, False]])
    metrics = rank_scores(scores, correct).metrics()
    worst = torch.tensor([[3.0, 2.0, 3.0, 1.0, 3.0]])
    assert metrics == rank_scores(worst, correct).metrics()
    assert metrics["MRR"] == 1 / 4


def test_the_share_of_the_wrong_modality_is_counted_by_hand() -> None:
    queries, own_groups = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    answers = torch.tensor([[1.0, 0.0], [0.5, 0.0], [0.0, 2.0]])
    row_scores = torch.tensor([[0.9, 0.0], [0.8, 0.0], [0.0, 0.1]])
    # Of five vectors but its own, both queries have fewer than ten: all own ones of other groups are among them.
    assert wrong_modality(queries, own_groups, answers, row_scores, torch.tensor([0, 1, 2])) == pytest.approx(2 / 5)
    # Ten answers ahead of all own vectors, then behind them.
    ahead = torch.full((10, 2), 0.95)
    assert wrong_modality(queries, own_groups, ahead, row_scores, torch.tensor([0, 1, 2])) == pytest.approx(0.0)
    assert wrong_modality(queries, own_groups, -ahead, row_scores, torch.tensor([0, 1, 2])) == pytest.approx(0.2)


def test_equal_and_broken_vectors_count_as_of_the_wrong_modality() -> None:
    same, groups = torch.ones(20, 4), torch.arange(20)
    assert wrong_modality(same, groups, same, same, groups) == 1
    assert wrong_modality(same, groups, torch.full((20, 4), torch.nan), same, groups) == 1


def test_a_tie_is_never_won() -> None:
    result = rank(torch.ones(1, 2), torch.tensor([1]), torch.ones(5, 2), torch.tensor([0, 1, 0, 1, 0]))
    assert result.rank_Q.tolist() == [4]
    assert result.precision_Q.item() == pytest.approx((1 / 4 + 2 / 5) / 2)


def test_a_model_that_collapsed_finds_nothing_and_a_random_one_what_chance_does() -> None:
    groups = torch.arange(400)
    same = torch.ones(400, 16)
    assert rank(same, groups, same, groups).metrics()["R@1"] == 0
    torch.manual_seed(0)
    metrics = rank(torch.randn(400, 16), groups, torch.randn(400, 16), groups).metrics()
    assert metrics["chance_R@1"] == 1 / 400
    assert metrics["R@10"] < 0.06
    assert metrics["median_rank"] == pytest.approx(200, abs=40)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_change_nothing(chunk: int) -> None:
    torch.manual_seed(0)
    vectors = normalize(torch.randn(33, 5), dim=1)
    groups = torch.randint(9, (33,))
    whole = rank(vectors, groups, vectors.flip(0), groups, chunk=1000)
    parts = rank(vectors, groups, vectors.flip(0), groups, chunk=chunk)
    assert torch.equal(whole.rank_Q, parts.rank_Q)
    assert torch.equal(whole.precision_Q, parts.precision_Q)


def test_queries_without_a_right_answer_are_left_out() -> None:
    result = rank(torch.eye(2), torch.tensor([0, 9]), torch.eye(2), torch.tensor([0, 1]))
    assert result.metrics() == {
        "R@1": 1, "R@5": 1, "R@10": 1, "MRR": 1, "nDCG@10": 1, "median_rank": 1, "mean_rank": 1, "mAP": 1,
        "chance_R@1": 0.5, "queries": 1, "answers": 2,
    }  # fmt: skip


def test_what_is_there_twice_counts_once() -> None:
    vectors, groups = distinct(torch.arange(4.0)[:, None], torch.tensor([1, 1, 1, 2]), torch.tensor([5, 5, 6, 5]))
    assert vectors[:, 0].tolist() == [0, 2, 3]
    assert groups.tolist() == [1, 1, 2]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_finds_nothing_and_is_not_found(bad: float, caplog: pytest.LogCaptureFixture) -> None:
    groups = torch.arange(6)
    good, broken = torch.eye(6), torch.full((6, 6), bad)
    for queries, answers in ((broken, broken), (broken, good), (good, broken)):
        result = rank(queries, groups, answers, groups)
        assert result.rank_Q.tolist() == [6] * 6
        assert result.metrics()["R@1"] == 0
        assert result.metrics()["mAP"] == pytest.approx(1 / 6)
    assert "12 of 12 vectors are NaN or infinite" in caplog.text
    one = good.clone()
    one[2, 4] = bad
    assert rank(good, groups, one, groups).rank_Q.tolist() == [2, 2, 6, 2, 2, 2], "a broken answer is ahead of others"
    assert rank(one, groups, good, groups).rank_Q.tolist() == [1, 1, 6, 1, 1, 1]


def test_a_product_that_overflows_is_lost_too() -> None:
    huge = torch.full((2, 4), 3e38)
    groups = torch.arange(2)
    assert rank(huge, groups, huge, groups).rank_Q.tolist() == [2, 2]


def test_scores_that_are_not_finite_lose() -> None:
    right = torch.tensor([[True, False, False]])
    for bad in (torch.nan, torch.inf):
        assert rank_scores(torch.tensor([[bad, 0.0, 1.0]]), right).rank_Q.tolist() == [3]
        assert rank_scores(torch.tensor([[5.0, bad, 1.0]]), right).rank_Q.tolist() == [2]
    assert rank_scores(torch.tensor([[5.0, -torch.inf, 1.0]]), right).rank_Q.tolist() == [1], "an answer that is none"
