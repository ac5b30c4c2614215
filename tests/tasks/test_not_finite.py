"""What is NaN never scores well: metrics of a model whose numbers are broken are the worst ones, or NaN themselves."""

from __future__ import annotations

import math

import pytest
import torch

from hrt_mm.core.errors import UserError
from hrt_mm.tasks.ctc.greedy import greedy
from hrt_mm.tasks.labels import class_counts
from hrt_mm.train.meters import Meters, macro_f1s, means
from tests.tasks.every import CASES

ERRORS = ("error_rate", "loss", "cross_entropy", "reconstruction", "ctc", "finer", "borders", "rmse", "mae")


@pytest.mark.parametrize("name", CASES)
def test_a_broken_model_scores_worst(name: str) -> None:
    case = CASES[name]
    task = case.build().eval()
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.fill_(torch.nan)
    meters = Meters()
    batch = case.batch(range(8))
    output = task(batch)
    meters.add(output, batch)
    metrics = means(meters.sums(), "val") | macro_f1s([meters.class_counts()], "val")
    metrics |= {f"val/{key}": value for key, value in task.summarize(meters.rows()).items()}
    assert f"val/{task.monitor}" in metrics
    assert task.monitor_mode == ("min" if task.monitor.endswith(ERRORS) else "max")
    for key, value in metrics.items():
        if key.endswith(ERRORS):
            assert math.isnan(value) or value >= 1, key
        elif key.endswith(("accuracy", "miou", "macro_f1", "micro_f1", "top5", "/R@1", "/R@5")):
            assert value == 0, key
        elif key.endswith("mAP"):
            assert value < 0.2, key
        elif key.startswith("val/f1") and not key.endswith(("_even", "_random")):
            assert value == 0, key
    assert not math.isfinite(metrics["val/loss"])


def test_a_guess_of_nothing_counts_in_no_class() -> None:
    counts = class_counts(torch.tensor([0, -2, 1]), torch.tensor([0, 0, -1]), 2)
    assert counts.tolist() == [[1, 0], [1, 0], [2, 0]]


def test_greedy_refuses_what_is_not_a_number() -> None:
    with pytest.raises(UserError, match="log-probabilities are NaN"):
        greedy(torch.tensor([[0.0, -1.0], [torch.nan, 0.0]]))
