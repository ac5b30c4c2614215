"""How much of the fine level a linear map can recover from the coarse one: a measure of what pooling loses.

Shapes: T tokens, G groups, D fine width, E coarse width, K positions in a group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UserError
from ..spans import Spans


def recovery(fine_TD: Tensor, coarse_GE: Tensor, spans: Spans, position_T: Tensor, *, ridge: float = 1e-3) -> float:
    """Variance of fine tokens explained by ridge regression from the token of their group, on held-out groups (R²).

    One regression for each position in a group, fitted on a random half of the groups (the same one each time) and
    scored on the others. 1 means that nothing is lost, 0 that the coarse token predicts no better than the mean.

    Args:
        fine_TD: tokens.
        coarse_GE: one token per group.
        spans: the groups.
        position_T: (T,) position of each token.
        ridge: weight of the penalty, relative to the mean variance of the coarse channels.

    Returns:
        R squared, at most 1; negative if the fit is worse than the mean.

    Raises:
        UserError: fewer than 4 groups.
    """
    if len(spans) < 4:
        raise UserError(f"recovery needs at least 4 groups to fit and score, got {len(spans)}")
    fine, coarse = fine_TD.detach().double(), coarse_GE.detach().double()
    error = total = 0.0
    # A random half: alternate groups would be whole columns on grids of an even width, so the halves would differ.
    order_G = torch.randperm(len(spans), generator=torch.Generator().manual_seed(0))
    fitted_G = (order_G % 2 == 0).to(fine.device)
    # A coarse token predicts each of its fine tokens by a map of its own.
    for position in position_T.unique().tolist():
        rows = (position_T == position).nonzero().squeeze(1)
        group = spans.ids[rows]
        fit, score = rows[fitted_G[group]], rows[~fitted_G[group]]
        if len(fit) < 2 or not len(score):
            continue
        coarse_mean, fine_mean = coarse[spans.ids[fit]].mean(0), fine[fit].mean(0)
        inputs = coarse[spans.ids[fit]] - coarse_mean
        # Solve the normal equations of ridge regression, (X^T X + penalty I) W = X^T Y.
        gram = inputs.T @ inputs
        penalty = ridge * gram.diagonal().mean().clamp(min=1e-12)
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        weight = torch.linalg.solve(gram + penalty * eye, inputs.T @ (fine[fit] - fine_mean))
        predicted = (coarse[spans.ids[score]] - coarse_mean) @ weight + fine_mean
        error += float((fine[score] - predicted).square().sum())
        total += float((fine[score] - fine[score].mean(0)).square().sum())
    return 1 - error / total if total > 0 else 1.0
