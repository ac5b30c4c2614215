"""Metrics of retrieval, exact and in chunks. A tie is never won: what scores as high as a right answer ranks before it.

So a model that gives one vector to everything finds nothing, and one that gives random vectors finds what chance does.
What is not finite finds nothing and is not found: a right answer then ranks behind all wrong ones.

Shapes: Q queries, N answers, D features, P right answers of a query.
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
    """Where the right answers of each query came.

    Args:
        rank_Q: (Q,) int64: the place of the best right answer, counted from 1; wrong answers alone come before it.
        precision_Q: (Q,) float64: the average precision.
        positives_Q: (Q,) int64: right answers there are, 1 or more.
        answers: how many answers there are.
    """

    rank_Q: Tensor
    precision_Q: Tensor
    positives_Q: Tensor
    answers: int

    def metrics(self) -> dict[str, float]:
        """R@1, R@5 and R@10, median and mean rank, mAP, what chance gives for R@1, and the numbers they are over."""
        rank_Q = self.rank_Q.double()
        found = {f"R@{cut}": float((self.rank_Q <= cut).double().mean()) for cut in CUTS}
        return found | {
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
    """Ranks all answers for each query by their inner product with it. Right are those of the query's group.

    Queries without a right answer are left out. The result does not depend on ``chunk``. Vectors that are NaN or
    infinite count as never found, with a warning.

    Args:
        queries_QD: (Q, D) vectors.
        query_groups_Q: (Q,) int64.
        answers_ND: (N, D) vectors.
        answer_groups_N: (N,) int64.
        chunk: queries that are scored at a time.
    """
    good_Q, good_N = queries_QD.isfinite().all(1), answers_ND.isfinite().all(1)
    if bad := int((~good_Q).sum()) + int((~good_N).sum()):
        log.warning("%d of %d vectors are NaN or infinite; they count as never found", bad, len(good_Q) + len(good_N))
    parts = [_ranked(answers_ND.new_zeros(0, len(answers_ND)), answers_ND.new_zeros(0, len(answers_ND)).bool())]
    for first in range(0, len(queries_QD), chunk):
        own = slice(first, first + chunk)
        right_QN = query_groups_Q[own, None] == answer_groups_N[None]
        some_Q = right_QN.any(1)
        if some_Q.any():
            # One product a query: a matrix product may round differently for other chunks, which would break ties.
            scores_QN = torch.stack([(answers_ND * query_D).sum(1) for query_D in queries_QD[own][some_Q].float()])
            usable_QN = good_Q[own][some_Q][:, None] & good_N
            parts.append(_ranked(scores_QN.masked_fill(~usable_QN, torch.nan), right_QN[some_Q]))
    rank_Q, precision_Q, positives_Q = (torch.cat(column) for column in zip(*parts, strict=True))
    return Ranking(rank_Q, precision_Q, positives_Q, len(answers_ND))


def rank_scores(scores_QN: Tensor, right_QN: Tensor) -> Ranking:
    """Ranks all answers for each query by scores that are known. Queries without a right answer are left out.

    Args:
        scores_QN: (Q, N); an answer of minus infinity is none. NaN and infinity lose.
        right_QN: (Q, N) bool.
    """
    some_Q = right_QN.any(1)
    return Ranking(*_ranked(scores_QN[some_Q], right_QN[some_Q]), scores_QN.shape[1])


def _ranked(scores_QN: Tensor, right_QN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Place of the best right answer, average precision, and count of right answers of each query."""
    ranks, precisions = [], []
    if not len(scores_QN):
        none = torch.zeros(0, dtype=torch.int64)
        return none, none.double(), none
    broken_QN = scores_QN.isnan() | (scores_QN == torch.inf)
    scores_QN = torch.where(broken_QN, torch.where(right_QN, -torch.inf, torch.inf).to(scores_QN.dtype), scores_QN)
    for scores_N, right_N in zip(scores_QN, right_QN, strict=True):
        right_P = scores_N[right_N].sort(descending=True).values
        wrong = scores_N[~right_N].sort().values
        # Wrong answers that score as high as each right one, or higher.
        ahead_P = len(wrong) - torch.searchsorted(wrong, right_P, right=False)
        found_P = torch.arange(1, len(right_P) + 1, device=ahead_P.device)
        ranks.append(ahead_P[0] + 1)
        precisions.append((found_P.double() / (found_P + ahead_P)).mean())
    return torch.stack(ranks).cpu(), torch.stack(precisions).cpu(), right_QN.sum(1).cpu()


def distinct(vectors_ND: Tensor, groups_N: Tensor, contents_N: Tensor) -> tuple[Tensor, Tensor]:
    """One row for what is there several times: the same content of the same group is one query and one answer.

    Args:
        vectors_ND: (N, D).
        groups_N: (N,) int64.
        contents_N: (N,) int64 fingerprints of what the vectors are of.

    Returns:
        Vectors and groups of the first of each, in their order.
    """
    seen: dict[tuple[int, int], int] = {}
    for place, key in enumerate(zip(groups_N.tolist(), contents_N.tolist(), strict=True)):
        seen.setdefault(key, place)
    first = torch.tensor(list(seen.values()), dtype=torch.int64)
    return vectors_ND[first], groups_N[first]
