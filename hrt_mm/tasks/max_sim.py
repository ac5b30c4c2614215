"""MaxSim, the score of late interaction (ColBERT, arXiv 2004.12832), over packed tokens and in bounded memory.

Shapes: T tokens of N queries, U tokens of M answers, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..core.segments import segment_mean
from ..core.spans import Spans

CHUNK = 1 << 24
"""Similarities of tokens that are held at a time, forward and backward: 64 MiB in float32."""
NOTHING = -1.0
"""Score of an answer without tokens: the lowest cosine."""


def max_sim(queries_TD: Tensor, query_spans: Spans, answers_UD: Tensor, answer_spans: Spans) -> Tensor:
    """(N, M) scores: the mean over a query's tokens of the largest inner product with a token of the answer.

    Queries without tokens score 0. Of tokens with equal products the first one gets the gradient. Memory beside the
    result is T * M for the backward pass and :data:`CHUNK` similarities.

    Args:
        queries_TD: tokens of the queries.
        query_spans: N runs of T tokens.
        answers_UD: tokens of the answers.
        answer_spans: M runs of U tokens.
    """
    best_TM: Tensor = _BestOfRuns.apply(queries_TD, answers_UD, answer_spans)
    return segment_mean(best_TM, query_spans)


class _Runs:
    """Runs ordered by length, so that those of one length are a dense block of the similarities.

    Args:
        spans: M runs.
        device: of the tokens.
    """

    def __init__(self, spans: Spans, device: torch.device) -> None:
        order_M = torch.sort(spans.lengths, stable=True).indices
        lengths_M = spans.lengths[order_M]
        first_M = spans.host[:-1][order_M]
        sorted_spans = Spans.from_lengths(lengths_M)
        rows_U = first_M[sorted_spans.ids] + sorted_spans.positions
        sizes, counts = lengths_M.unique_consecutive(return_counts=True)
        self.blocks = [(size, count) for size, count in zip(sizes.tolist(), counts.tolist(), strict=True) if size]
        self.empty = int((lengths_M == 0).sum())
        self.rows_U, self.order_M = rows_U.to(device), order_M.to(device)

    def split(self, similarity_TU: Tensor) -> list[Tensor]:
        """(T, count, size) views of the similarities with the runs of each length."""
        blocks = similarity_TU.split([size * count for size, count in self.blocks], 1)
        return [block.unflatten(1, (-1, size)) for block, (size, _) in zip(blocks, self.blocks, strict=True)]


class _BestOfRuns(torch.autograd.Function):
    """(T, M) the largest product of each query token with the tokens of each answer."""

    @staticmethod
    def forward(ctx: Any, queries_TD: Tensor, answers_UD: Tensor, spans: Spans) -> Tensor:
        queries_TD, answers_UD = queries_TD.float(), answers_UD.float()
        runs = _Runs(spans, answers_UD.device)
        sorted_UD = answers_UD[runs.rows_U]
        needs_argmax = any(ctx.needs_input_grad)
        best_TM = queries_TD.new_full((len(queries_TD), len(spans)), NOTHING)
        # Positions within a run, which may be long, hence int32.
        argmax_TM = queries_TD.new_zeros(best_TM.shape if needs_argmax else (0, 0), dtype=torch.int32)
        for rows in _chunks(len(queries_TD), len(sorted_UD)):
            first = runs.empty
            for block in runs.split(_product(queries_TD[rows], sorted_UD.T)):
                columns = slice(first, first + block.shape[1])
                if needs_argmax:
                    best_TM[rows, columns], index = block.max(2)
                    argmax_TM[rows, columns] = index.int()
                else:
                    best_TM[rows, columns] = block.amax(2)
                first = columns.stop
        ctx.runs = runs
        ctx.save_for_backward(queries_TD, sorted_UD, argmax_TM)
        unsorted_TM = torch.empty_like(best_TM)
        unsorted_TM[:, runs.order_M] = best_TM
        return unsorted_TM

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_TM: Tensor) -> tuple[Tensor, Tensor, None]:
        queries_TD, sorted_UD, argmax_TM = ctx.saved_tensors
        runs: _Runs = ctx.runs
        gradient_TM = gradient_TM[:, runs.order_M]
        grad_queries_TD, grad_sorted_UD = torch.empty_like(queries_TD), torch.zeros_like(sorted_UD)
        for rows in _chunks(len(queries_TD), len(sorted_UD)):
            grad_TU = queries_TD.new_zeros(len(queries_TD[rows]), len(sorted_UD))
            first = runs.empty
            for block in runs.split(grad_TU):
                columns = slice(first, first + block.shape[1])
                index = argmax_TM[rows, columns, None].long()
                block.scatter_(2, index, gradient_TM[rows, columns, None])
                first = columns.stop
            grad_queries_TD[rows] = _product(grad_TU, sorted_UD)
            grad_sorted_UD += _product(grad_TU.T, queries_TD[rows])
        grad_answers_UD = torch.empty_like(grad_sorted_UD)
        grad_answers_UD[runs.rows_U] = grad_sorted_UD
        return grad_queries_TD, grad_answers_UD, None


def _product(left: Tensor, right: Tensor) -> Tensor:
    # In bfloat16 many tokens would tie for the maximum.
    with torch.autocast(left.device.type, enabled=False):
        return left @ right


def _chunks(queries: int, answers: int) -> list[slice]:
    size = max(1, CHUNK // max(1, answers))
    return [slice(first, first + size) for first in range(0, queries, size)]
