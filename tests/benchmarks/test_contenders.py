"""Contenders do the same work: equal outputs where the model is the same, else equal parameters and depth."""

from __future__ import annotations

import pytest
import torch

from benchmarks import digits, encoder_scaling, learning_rate, models, overhead
from benchmarks.dense import DenseHierarchy
from benchmarks.memory import Sizes
from benchmarks.results import Measured, Row
from hrt_mm.analysis.control import flat_control, num_parameters
from hrt_mm.core.errors import UserError

TINY = {**models.TINY, "device": "cpu"}


@pytest.mark.parametrize("lengths", ["uniform", "ragged"])
def test_packed_and_dense_are_the_same_model(lengths: str) -> None:
    result = overhead.check({"batch": 4, "tokens": 128, "lengths": lengths, "dtype": "float32"}, TINY)
    assert len(result) == 2
    assert all(value < 1e-4 for value in result.values())


def test_padded_lengths_are_multiples_of_every_window_and_stride() -> None:
    # Windows of 16 tokens, counted in level-0 tokens: 16, then 64; a token of the last level is 16.
    assert DenseHierarchy(models.hierarchy(TINY)).multiple == 64


def test_ragged_lengths_lie_between_a_quarter_and_all() -> None:
    sizes: Sizes = {"batch": 64, "tokens": 1024, "lengths": "ragged"}
    lengths = overhead.lengths_of(sizes)
    assert max(lengths) == 1024
    assert min(lengths) >= 256
    assert overhead.ideal_gain(sizes) == pytest.approx(64 * 1024 / sum(lengths))
    assert overhead.ideal_gain(sizes) == pytest.approx(1.6, abs=0.15)
    assert overhead.ideal_gain({**sizes, "lengths": "uniform"}) == 1


def test_the_contenders_of_encoder_scaling_have_equal_parameters() -> None:
    settings = {**models.DEFAULT, "device": "cpu"}
    own = num_parameters(models.hierarchy_config(settings))
    control = flat_control(models.hierarchy_config(settings))
    assert num_parameters(control) == pytest.approx(own, rel=0.01)
    assert control.levels[0].depth == sum(settings["depths"])
    peer = models.TorchEncoder(control)
    count = sum(parameter.numel() for parameter in peer.parameters())
    assert count == pytest.approx(own, rel=0.01)


def test_the_contenders_of_learning_rate_have_equal_parameters() -> None:
    own, flat = (num_parameters(digits.model_config(name), axes=2) for name in learning_rate.CONTENDERS)
    assert flat == pytest.approx(own, rel=0.01)


@pytest.mark.parametrize("contender", encoder_scaling.CONTENDERS)
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_every_contender_runs_in_every_mode(contender: str, mode: str) -> None:
    sizes: Sizes = {"mode": mode, "dtype": "float32", "batch": 2, "tokens": 64}
    made = encoder_scaling.prepare(contender, sizes, TINY)
    made.call()
    made.call()
    assert made.held > 0


def test_widths_that_heads_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match=r"widths \[40\].*multiples of 16"):
        models.hierarchy_config({**TINY, "widths": [40], "depths": [1]})


def test_learning_rates_that_train_are_near_the_best() -> None:
    accuracies = {1e-4: 0.5, 1e-3: 0.95, 1e-2: 0.96, 1e-1: None}
    rows = [
        Row(sizes={"lr": lr}, contenders={"flat": Measured(seconds=1, scores={"accuracy": accuracy})}, ratios={})
        for lr, accuracy in accuracies.items()
    ]
    assert learning_rate.trains(rows, "flat") == [1e-3, 1e-2]


def test_training_stops_at_a_loss_that_is_not_finite() -> None:
    trainer = digits.Trainer("flat", 1e-3, 0, {"steps": 5, "warmup_steps": 1, "device": "cpu"})
    images, labels = digits.digits(train=True)
    trainer.step(images[:4], labels[:4])
    with torch.no_grad():
        trainer.task.head.weight.fill_(torch.nan)
    trainer.step(images[:4], labels[:4])
    trainer.step(images[:4], labels[:4])
    assert trainer.diverged
    assert len(trainer.losses) == 2
    assert trainer.final_loss is trainer.accuracy(images[:4], labels[:4]) is None
