"""Exact retrieval metrics, computed in chunks. Ties are pessimistic: wrong answers with an equal score rank first.

A model that maps everything to one vector therefore retrieves nothing, and random vectors perform at chance. NaN and
infinite scores rank a correct answer behind all wrong ones.

Shapes: Q queries, N answers, D features, P correct answers of a query.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

log = logging.getLogger(__name__)

CUTS = (1, 5, 10)
DEPTH = 10
"""Answers that nDCG and the share of the wrong modality count."""
CONSTANT = ("chance_R@1", "queries", "answers")
"""Figures of the data alone, which training does not change."""


@dataclass(frozen=True)
class Ranking:
    """Ranks of the correct answers of each query.

    Args:
        rank_Q: (Q,) int64 rank of the best correct answer, from 1; only wrong answers come before it.
        precision_Q: (Q,) float64 average precision.
        ndcg_Q: (Q,) float64 nDCG@10 with binary relevance (Järvelin and Kekäläinen, 2002).
        positives_Q: (Q,) int64 number of correct answers, 1 or more.
        answers: number of answers.
    """

    rank_Q: Tensor
    precision_Q: Tensor
    ndcg_Q: Tensor
    positives_Q: Tensor
    answers: int

    def metrics(self) -> dict[str, float]:
        """R@1, R@5, R@10, MRR, nDCG@10, mAP, median and mean rank, chance of R@1, number of queries and answers."""
        rank_Q = self.rank_Q.double()
        recalls = {f"R@{cut}": float((self.rank_Q <= cut).double().mean()) for cut in CUTS}
        return recalls | {
            "MRR": float((1 / rank_Q).mean()),
            f"nDCG@{DEPTH}": float(self.ndcg_Q.mean()),
            "median_rank": float(rank_Q.quantile(0.5)),
            "mean_rank": float(rank_Q.mean()),
            "mAP": float(self.precision_Q.mean()),
            "chance_R@1": float((self.positives_Q.double() / self.answers).mean()),
            "queries": float(len(rank_Q)),
            "answers": float(self.answers),
        }


def rank(
    queries_QD: Tensor, query_groups_Q: Tensor, answers_ND: Tensor, answer_groups_N: Tensor, *, chunk: int = 1024
) -> Ranking:
    """Ranks all answers for each query by inner product. Answers of the query's group are correct.

    Queries without a correct answer are left out. The result does not depend on ``chunk``. NaN and infinite vectors
    count as never retrieved, with a warning.

    Args:
        queries_QD: (Q, D) vectors.
        query_groups_Q: (Q,) int64.
        answers_ND: (N, D) vectors.
        answer_groups_N: (N,) int64.
        chunk: queries scored at a time.
    """
    finite_Q, finite_N = queries_QD.isfinite().all(1), answers_ND.isfinite().all(1)
    if bad := int((~finite_Q).sum()) + int((~finite_N).sum()):
        log.warning(
            "%d of %d vectors are NaN or infinite; they count as never retrieved", bad, len(finite_Q) + len(finite_N)
        )
    chunks = [_ranked(answers_ND.new_zeros(0, len(answers_ND)), answers_ND.new_zeros(0, len(answers_ND)).bool())]
    for first in range(0, len(queries_QD), chunk):
        rows = slice(first, first + chunk)
        correct_QN = query_groups_Q[rows, None] == answer_groups_N[None]
        has_answer_Q = correct_QN.any(1)
        if has_answer_Q.any():
            # One product per query: a matrix product may round differently with the chunk size, which would break ties.
            scores_QN = torch.stack(
                [(answers_ND * query_D).sum(1) for query_D in queries_QD[rows][has_answer_Q].float()]
            )
            usable_QN = finite_Q[rows][has_answer_Q][:, None] & finite_N
            chunks.append(_ranked(scores_QN.masked_fill(~usable_QN, torch.nan), correct_QN[has_answer_Q]))
    rank_Q, precision_Q, ndcg_Q, positives_Q = (torch.cat(column) for column in zip(*chunks, strict=True))
    return Ranking(rank_Q, precision_Q, ndcg_Q, positives_Q, len(answers_ND))


def rank_scores(scores_QN: Tensor, correct_QN: Tensor) -> Ranking:
    """Ranks all answers for each query by given scores. Queries without a correct answer are left out.

    Args:
        scores_QN: (Q, N) scores. Minus infinity excludes an answer; NaN and plus infinity rank correct answers last.
        correct_QN: (Q, N) bool.
    """
    has_answer_Q = correct_QN.any(1)
    return Ranking(*_ranked(scores_QN[has_answer_Q], correct_QN[has_answer_Q]), scores_QN.shape[1])


def wrong_modality(
    queries_QD: Tensor, query_groups_Q: Tensor, answers_ND: Tensor, same_tower_MD: Tensor, same_tower_groups_M: Tensor
) -> float:
    """Share of the ten nearest vectors that are of the query's own modality, where all modalities are searched at once.

    Own vectors of the query's group are left out: they are the query, or what shares its label. Ties, and vectors that
    are not finite, count as of the wrong modality.

    Args:
        queries_QD: (Q, D) vectors, at least one.
        query_groups_Q: (Q,) int64.
        answers_ND: (N, D) vectors of the other modalities, at least one.
        same_tower_MD: (M, D) vectors of the query's modality.
        same_tower_groups_M: (M,) int64.
    """
    shares = []
    for query_D, group in zip(queries_QD, query_groups_Q, strict=True):
        # Not a matrix product, which may round equal rows differently and so break ties.
        answers_N = (answers_ND * query_D).sum(1)
        same_tower_M = (same_tower_MD * query_D).sum(1)[same_tower_groups_M != group]
        answers_N = answers_N.masked_fill(~answers_N.isfinite(), -torch.inf)
        same_tower_M = same_tower_M.masked_fill(~same_tower_M.isfinite(), torch.inf)
        nearest = torch.cat([same_tower_M, answers_N]).sort(descending=True, stable=True).indices[:DEPTH]
        shares.append((nearest < len(same_tower_M)).double().mean())
    return float(torch.stack(shares).mean())


def _ranked(scores_QN: Tensor, correct_QN: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rank of the best correct answer, average precision, nDCG@10, and number of correct answers of each query."""
    ranks, precisions, gains = [], [], []
    if not len(scores_QN):
        empty = torch.zeros(0, dtype=torch.int64)
        return empty, empty.double(), empty.double(), empty
    discount_K = 1 / torch.arange(2, DEPTH + 2, dtype=torch.float64).log2()
    invalid_QN = scores_QN.isnan() | (scores_QN == torch.inf)
    scores_QN = torch.where(invalid_QN, torch.where(correct_QN, -torch.inf, torch.inf).to(scores_QN.dtype), scores_QN)
    for scores_N, correct_N in zip(scores_QN, correct_QN, strict=True):
        correct_P = scores_N[correct_N].sort(descending=True).values
        wrong = scores_N[~correct_N].sort().values
        # Number of wrong answers that score at least as high as each correct one.
        ahead_P = len(wrong) - torch.searchsorted(wrong, correct_P, right=False)
        retrieved_P = torch.arange(1, len(correct_P) + 1, device=ahead_P.device)
        rank_P = (retrieved_P + ahead_P).cpu()
        ranks.append(ahead_P[0] + 1)
        precisions.append((retrieved_P.double() / (retrieved_P + ahead_P)).mean())
        gains.append(discount_K[rank_P[rank_P <= DEPTH] - 1].sum() / discount_K[: len(rank_P)].sum())
    return torch.stack(ranks).cpu(), torch.stack(precisions).cpu(), torch.stack(gains), correct_QN.sum(1).cpu()


def distinct(vectors_ND: Tensor, groups_N: Tensor, contents_N: Tensor) -> tuple[Tensor, Tensor]:
    """Removes duplicates: equal contents of the same group are one query and one answer.

    Args:
        vectors_ND: (N, D).
        groups_N: (N,) int64.
        contents_N: (N,) int64 fingerprints of the embedded samples.

    Returns:
        Vectors and groups of the first occurrence of each, in order.
    """
    first = distinct_indices(groups_N, contents_N)
    return vectors_ND[first], groups_N[first]


def distinct_indices(groups_N: Tensor, contents_N: Tensor) -> Tensor:
    """Indices of the first occurrence of each pair of group and content, ascending."""
    first_index: dict[tuple[int, int], int] = {}
    for index, key in enumerate(zip(groups_N.tolist(), contents_N.tolist(), strict=True)):
        first_index.setdefault(key, index)
    return torch.tensor(list(first_index.values()), dtype=torch.int64)
