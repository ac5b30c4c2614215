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


@dataclass(frozen=True)
class Ranking:
    """Ranks of the correct answers of each query.

    Args:
        rank_Q: (Q,) int64 rank of the best correct answer, from 1; only wrong answers come before it.
        precision_Q: (Q,) float64 average precision.
        positives_Q: (Q,) int64 number of correct answers, 1 or more.
        answers: number of answers.
    """

    rank_Q: Tensor
    precision_Q: Tensor
    positives_Q: Tensor
    answers: int

    def metrics(self) -> dict[str, float]:
        """R@1, R@5 and R@10, median and mean rank, mAP, R@1 at chance level, and the numbers of queries and answers."""
        rank_Q = self.rank_Q.double()
        recalls = {f"R@{cut}": float((self.rank_Q <= cut).double().mean()) for cut in CUTS}
        return recalls | {
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
    rank_Q, precision_Q, positives_Q = (torch.cat(column) for column in zip(*chunks, strict=True))
    return Ranking(rank_Q, precision_Q, positives_Q, len(answers_ND))


def rank_scores(scores_QN: Tensor, correct_QN: Tensor) -> Ranking:
    """Ranks all answers for each query by given scores. Queries without a correct answer are left out.

    Args:
        scores_QN: (Q, N) scores. Minus infinity excludes an answer; NaN and plus infinity rank correct answers last.
        correct_QN: (Q, N) bool.
    """
    has_answer_Q = correct_QN.any(1)
    return Ranking(*_ranked(scores_QN[has_answer_Q], correct_QN[has_answer_Q]), scores_QN.shape[1])


def _ranked(scores_QN: Tensor, correct_QN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rank of the best correct answer, average precision, and number of correct answers of each query."""
    ranks, precisions = [], []
    if not len(scores_QN):
        empty = torch.zeros(0, dtype=torch.int64)
        return empty, empty.double(), empty
    invalid_QN = scores_QN.isnan() | (scores_QN == torch.inf)
    scores_QN = torch.where(invalid_QN, torch.where(correct_QN, -torch.inf, torch.inf).to(scores_QN.dtype), scores_QN)
    for scores_N, correct_N in zip(scores_QN, correct_QN, strict=True):
        correct_P = scores_N[correct_N].sort(descending=True).values
        wrong = scores_N[~correct_N].sort().values
        # Number of wrong answers that score at least as high as each correct one.
        ahead_P = len(wrong) - torch.searchsorted(wrong, correct_P, right=False)
        retrieved_P = torch.arange(1, len(correct_P) + 1, device=ahead_P.device)
        ranks.append(ahead_P[0] + 1)
        precisions.append((retrieved_P.double() / (retrieved_P + ahead_P)).mean())
    return torch.stack(ranks).cpu(), torch.stack(precisions).cpu(), correct_QN.sum(1).cpu()


def distinct(vectors_ND: Tensor, groups_N: Tensor, contents_N: Tensor) -> tuple[Tensor, Tensor]:
    """Removes duplicates: equal contents of the same group are one query and one answer.

    Args:
        vectors_ND: (N, D).
        groups_N: (N,) int64.
        contents_N: (N,) int64 fingerprints of the embedded samples.

    Returns:
        Vectors and groups of the first occurrence of each, in order.
    """
    first_index: dict[tuple[int, int], int] = {}
    for index, key in enumerate(zip(groups_N.tolist(), contents_N.tolist(), strict=True)):
        first_index.setdefault(key, index)
    first = torch.tensor(list(first_index.values()), dtype=torch.int64)
    return vectors_ND[first], groups_N[first]
