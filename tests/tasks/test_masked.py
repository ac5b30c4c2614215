from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.spans import Spans
from hrt_mm.data.tokenizer import Tokenizer
from hrt_mm.tasks import TASKS, Batch, ClassificationConfig, Masked, MaskedConfig
from hrt_mm.tasks.masked import hide, mask_units

Make = Callable[..., HierarchyConfig]
Unzero = Callable[[nn.Module], None]
DOWN = [{"top_down": True}, {"cross_scale": {"down": True}}, {"top_down": True, "cross_scale": {"down": True}}]
GROUPS = [
    None,
    [{"type": "given", "boundary": "thirds"}, {"type": "fixed", "stride": 2}],
    [{"type": "fixed", "stride": 3}, {"type": "given", "boundary": "thirds"}],
]


def config(**options: Any) -> MaskedConfig:
    return MaskedConfig.model_validate({"type": "masked", **options})


def test_it_is_registered() -> None:
    assert TASKS["masked"] is MaskedConfig


@pytest.mark.parametrize("groups", GROUPS, ids=["fixed", "given-fixed", "fixed-given"])
@pytest.mark.parametrize("unit", [0, 1, 2])
def test_units_are_the_tokens_under_a_level(
    hierarchy: Make, rows: Tokenizer, samples: list[Tensor], groups: Any, unit: int
) -> None:
    task = config().build(hierarchy(groups=groups, top_down=True), rows, None)
    tokens = rows(samples)
    pyramid = task.encoder(tokens)
    offsets = torch.arange(tokens.spans.total + 1)
    for level in "ab"[:unit]:
        offsets = offsets[pyramid.groups[level].host]
    assert torch.equal(mask_units(task.encoder.hierarchy, tokens, unit).host, offsets)


@pytest.mark.parametrize("ratio", [0.01, 0.5, 0.75, 0.99])
def test_the_same_part_of_every_sample_is_hidden(ratio: float) -> None:
    samples = Spans.from_lengths([12, 1, 0, 40, 6])
    units = samples.cut(3)
    hidden = hide(units, samples, ratio)
    for part, expected in zip(samples.split(hidden), samples.lengths.tolist(), strict=True):
        blocks = list(part.split(3)) if len(part) else []
        assert all(len(set(block.tolist())) == 1 for block in blocks), "a unit was hidden in part"
        count = sum(bool(block.all()) for block in blocks)
        assert count == (max(1, round(len(blocks) * ratio)) if expected else 0)


def test_every_unit_is_hidden_as_often(hierarchy: Make) -> None:
    samples = Spans.from_lengths([8, 4])
    counts = torch.stack([hide(samples.cut(2), samples, 0.5) for _ in range(2000)]).float().mean(0)
    assert torch.allclose(counts, torch.tensor(0.5), atol=0.05)


def test_masks_follow_the_seed() -> None:
    samples = Spans.from_lengths([40])
    torch.manual_seed(5)
    first = hide(samples.cut(1), samples, 0.5)
    torch.manual_seed(5)
    assert torch.equal(hide(samples.cut(1), samples, 0.5), first)
    assert not torch.equal(hide(samples.cut(1), samples, 0.5), first)


@pytest.mark.parametrize("options", DOWN, ids=["top_down", "down", "both"])
def test_hidden_features_do_not_leak(
    hierarchy: Make, rows: Tokenizer, samples: list[Tensor], unzero: Unzero, options: dict[str, Any]
) -> None:
    task = config().build(hierarchy(**options), rows, None).eval()
    unzero(task)
    tokens = rows(samples)
    hidden = hide(mask_units(task.encoder.hierarchy, tokens, 1), tokens.spans, 0.5)
    before = task.reconstruct(tokens, hidden).predictions
    changed = tokens.x.clone()
    changed[hidden] = torch.randn_like(changed[hidden]) * 100
    after = task.reconstruct(tokens.with_x(changed), hidden).predictions
    assert before is not None
    assert after is not None
    assert torch.equal(before, after)
    changed = tokens.x.clone()
    changed[~hidden] += 1
    shown = task.reconstruct(tokens.with_x(changed), hidden).predictions
    assert shown is not None
    assert not torch.allclose(before, shown)


def test_hidden_ids_do_not_leak(hierarchy: Make, ids: Tokenizer, unzero: Unzero) -> None:
    task = config().build(hierarchy(top_down=True), ids, None).eval()
    unzero(task)
    tokens = ids([torch.randint(0, 11, (length,)) for length in (9, 4)])
    hidden = hide(mask_units(task.encoder.hierarchy, tokens, 1), tokens.spans, 0.5)
    seen: list[Tensor] = []
    task.head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    task.reconstruct(tokens, hidden)
    task.reconstruct(tokens.with_x(torch.where(hidden, (tokens.x + 5) % 11, tokens.x)), hidden)
    assert torch.equal(*seen)


def test_the_loss_is_that_of_hidden_features(hierarchy: Make, rows: Tokenizer, samples: list[Tensor]) -> None:
    tokens = rows(samples)
    for normalize in (False, True):
        task = config(normalize=normalize).build(hierarchy(top_down=True), rows, None)
        hidden = hide(tokens.spans.cut(2), tokens.spans, 0.5)
        output = task.reconstruct(tokens, hidden)
        target = tokens.x
        if normalize:
            target = (target - target.mean(-1, keepdim=True)) / target.std(-1, correction=0, keepdim=True)
        assert output.predictions is not None
        expected = F.mse_loss(output.predictions[hidden], target[hidden])
        assert torch.allclose(output.loss, expected, atol=1e-3)
        count = int(hidden.sum())
        assert set(output.stats) == {"loss"}, "the loss is a mean over hidden tokens, and says so"
        assert int(output.stats["loss"][1]) == count
        assert torch.allclose(output.stats["loss"][0] / count, output.loss)


def test_the_loss_is_that_of_hidden_ids(hierarchy: Make, ids: Tokenizer) -> None:
    tokens = ids([torch.randint(0, 11, (length,)) for length in (9, 4)])
    task = config().build(hierarchy(top_down=True), ids, None)
    nn.init.zeros_(task.head.weight)
    with torch.no_grad():
        task.head.bias.copy_(torch.randn(11))
    hidden = hide(tokens.spans.cut(1), tokens.spans, 0.5)
    output = task.reconstruct(tokens, hidden)
    logits = task.head.bias.detach().expand(13, -1)
    assert torch.allclose(output.loss, F.cross_entropy(logits[hidden], tokens.x[hidden]))
    right = (logits.argmax(-1) == tokens.x)[hidden]
    assert [int(value) for value in output.stats["accuracy"]] == [int(right.sum()), len(right)]


@pytest.mark.parametrize("options", DOWN, ids=["top_down", "down", "both"])
def test_gradients_reach_every_parameter_in_half_precision(
    hierarchy: Make, rows: Tokenizer, samples: list[Tensor], options: dict[str, Any]
) -> None:
    task = config().build(hierarchy(**options), rows, None)
    with torch.autocast("cpu", torch.bfloat16):
        output = task(Batch.of(rows(samples)))
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in task.parameters())


def test_it_learns_what_its_neighbours_say(hierarchy: Make, rows: Tokenizer) -> None:
    """All rows of a sample are alike, so hidden rows follow from those that are seen."""
    task = config(ratio=0.5, normalize=False).build(hierarchy(top_down=True), rows, None)
    optimizer = torch.optim.AdamW(task.parameters(), 1e-2)
    losses = []
    for _ in range(150):
        values = [torch.randn(1, 4).expand(8, 4) for _ in range(32)]
        output = task(Batch.of(rows(values)))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(float(output.loss.detach()))
    assert losses[0] > 0.8
    assert sum(losses[-5:]) / 5 < 0.3


def test_a_flat_model_serves_as_well(hierarchy: Make, rows: Tokenizer, samples: list[Tensor]) -> None:
    task = config().build(hierarchy(levels=1), rows, None)
    assert isinstance(task, Masked)
    task(Batch.of(rows(samples))).loss.backward()
    assert all(parameter.grad is not None for parameter in task.parameters())


def test_the_encoder_loads_into_another_task(hierarchy: Make, rows: Tokenizer) -> None:
    model = hierarchy(top_down=True)
    masked = config().build(model, rows, None)
    fine = ClassificationConfig(type="classification", level="a").build(model, rows, ("x", "y"))
    weights = {name: value for name, value in masked.state_dict().items() if name.startswith("encoder.")}
    assert weights.keys() == {name for name in fine.state_dict() if name.startswith("encoder.")}
    missing = fine.load_state_dict(weights, strict=False).missing_keys
    assert missing == ["head.weight", "head.bias"]
    assert all(torch.equal(fine.state_dict()[name], value) for name, value in weights.items())


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ({}, {}, r"nothing carries it down; set model.top_down or model.cross_scale.down"),
        ({"cross_scale": {"up": True, "down": True}}, {}, r"model.cross_scale.up is the last pass"),
        ({"top_down": True}, {"unit": "z"}, r"unknown level 'z'; one of a, b, c"),
        (
            {"top_down": True, "groups": [{"type": "learned", "target": 2, "max": 4}, {"type": "fixed", "stride": 2}]},
            {"unit": "c"},
            r"task.unit 'c' is made of groups that level 'a' learns.*set task.unit to 'a'",
        ),
    ],
)
def test_models_that_cannot_serve_are_named(
    hierarchy: Make, rows: Tokenizer, model: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**options).build(hierarchy(**model), rows, None)


def test_a_tokenizer_that_does_not_say_what_it_gives(hierarchy: Make, mute: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="Mute gives neither features nor vocabulary"):
        config().build(hierarchy(top_down=True), mute, None)


def test_normalize_has_no_meaning_for_ids(hierarchy: Make, ids: Tokenizer) -> None:
    with pytest.raises(ConfigError, match=r"task.normalize has no effect on tokens that are ids; drop it"):
        config(normalize=False).build(hierarchy(top_down=True), ids, None)
    assert config(normalize=True).build(hierarchy(top_down=True), ids, None)  # the default, as resolved files have it


def test_one_feature_cannot_be_normalised(hierarchy: Make, rows: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "features", 1)
    with pytest.raises(ConfigError, match=r"leaves nothing of raw tokens of 1 feature; set task.normalize: false"):
        config().build(hierarchy(top_down=True), rows, None)
    config(normalize=False).build(hierarchy(top_down=True), rows, None)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_a_ratio_hides_some_and_not_all(ratio: float) -> None:
    with pytest.raises(ValidationError, match="than"):
        config(ratio=ratio)
