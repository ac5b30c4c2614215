from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import Tokenizer
from hrt_mm.metrics.retrieval import rank
from hrt_mm.tasks import TASKS, Batch, Contrastive, ContrastiveConfig, JointTaskConfig
from hrt_mm.tasks.contrastive_losses import (
    ContrastiveLoss,
    InfoNCEConfig,
    SigmoidConfig,
    Temperature,
    TemperatureConfig,
)

Make = Callable[..., HierarchyConfig]


def config(**options: Any) -> ContrastiveConfig:
    return ContrastiveConfig.model_validate({"type": "contrastive", "dim": 8, **options})


def samples(count: int, seed: int = 0, *, groups: int | None = None) -> list[Sample]:
    """Rows around a mean, with ids that name it."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for index in range(count):
        group = index % (groups or count)
        rows = torch.randn(3 + index % 4, 4, generator=generator)
        value = {"rows": rows, "ids": torch.tensor([group % 11, group * 7 % 11])}
        result.append(Sample(value, f"g{group}", f"s{index}"))
    return result


@pytest.fixture
def towers(rows: Tokenizer, ids: Tokenizer) -> dict[str, Tokenizer]:
    return {"rows": rows, "ids": ids}


@pytest.fixture
def build(
    towers: Mapping[str, Tokenizer], hierarchy: Make, unzero: Callable[[Any], None]
) -> Callable[..., Contrastive]:
    def make(**options: Any) -> Contrastive:
        torch.manual_seed(0)
        task = config(**options).build_towers({"rows": hierarchy(2), "ids": hierarchy(2)}, towers, None)
        unzero(task)
        return task

    return make


def test_it_is_registered() -> None:
    assert TASKS["contrastive"] is ContrastiveConfig
    assert issubclass(ContrastiveConfig, JointTaskConfig)


def test_the_loss_is_that_of_the_formula(build: Callable[..., Contrastive], towers: Mapping[str, Tokenizer]) -> None:
    task = build()
    batch = config().collator({}, towers, None)(samples(5))
    x, y = (task.vectors(tower, batch.towers[tower]) for tower in ("rows", "ids"))
    logits = x @ y.T / task.temperature()
    own = torch.arange(5)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    output = task(batch)
    assert torch.allclose(output.loss, expected, atol=1e-5)
    hits = (logits.argmax(1) == own).sum()
    assert [int(part) for part in output.stats["rows_to_ids/accuracy"]] == [int(hits), 5]


def test_several_positives_share_what_is_right() -> None:
    loss = ContrastiveLoss(InfoNCEConfig())
    similarity = torch.tensor([[0.3, 0.1, -0.2]])
    logp = (similarity / 0.1).log_softmax(1)[0]
    result, counts = loss(similarity, torch.tensor([[True, True, False]]))
    assert torch.allclose(result, -(logp[0] + logp[1]) / 2)
    assert not loss(similarity, torch.zeros(1, 3, dtype=torch.bool))[1].any()
    assert counts.all()


def test_the_sigmoid_loss_is_that_of_the_formula() -> None:
    loss = ContrastiveLoss(SigmoidConfig(type="sigmoid", bias=-2.0))
    similarity = torch.tensor([[0.3, 0.1], [0.0, 0.7]])
    logits = similarity / 0.1 - 2
    expected = F.binary_cross_entropy_with_logits(logits, torch.eye(2), reduction="none").sum(1)
    assert torch.allclose(loss(similarity, torch.eye(2) > 0)[0], expected)


@pytest.mark.parametrize("index", [-50.0, 0.0, 50.0])
def test_the_temperature_stays_within_its_bounds(index: float) -> None:
    temperature = Temperature(TemperatureConfig(init=0.07))
    assert temperature().item() == pytest.approx(0.07)
    with torch.no_grad():
        temperature.place.fill_(index)
    assert 0.01 - 1e-6 <= temperature().item() <= 1 + 1e-6


def test_a_temperature_outside_its_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"init must lie between min 0.01 and max 1, got 2"):
        TemperatureConfig(init=2.0)


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
@pytest.mark.parametrize("chunk", [{"chunk": 1}, {"chunk": 3}, {"chunk_tokens": 9}, {"chunk_tokens": 1}], ids=str)
def test_the_gradient_in_chunks_is_that_of_the_whole_batch(
    build: Callable[..., Contrastive], towers: Mapping[str, Tokenizer], chunk: dict[str, int], loss: str
) -> None:
    also = [{"levels": {"rows": "a", "ids": "a"}, "align": "soft"}]
    batch = config().collator({}, towers, None)(samples(7, groups=4))
    result = []
    for size in ({}, chunk):
        task = build(**size, also=also, loss={"type": loss}).double()
        double = dict(batch.towers)
        rows = double["rows"]
        double["rows"] = type(rows)(rows.tokens.with_x(rows.tokens.x.double()), rows.samples, rows.contents)
        task(Batch(double, None, batch.names, batch.groups)).loss.backward()
        result.append({name: parameter.grad for name, parameter in task.named_parameters()})
    for name, gradient in result[0].items():
        assert gradient is not None and result[1][name] is not None, name
        torch.testing.assert_close(result[1][name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_chunks_of_tokens_are_as_long_as_they_may_be(
    build: Callable[..., Contrastive], towers: Mapping[str, Tokenizer]
) -> None:
    part = config().collator({}, towers, None)(samples(6)).towers["rows"]
    assert part.tokens.spans.lengths.tolist() == [3, 4, 5, 6, 3, 4]
    assert build(chunk_tokens=9)._chunks(part) == [0, 2, 3, 5, 6]
    assert build(chunk_tokens=4)._chunks(part) == [0, 1, 2, 3, 4, 5, 6]
    assert build(chunk_tokens=100)._chunks(part) == [0, 6] == build()._chunks(part)
    assert build(chunk=4)._chunks(part) == [0, 4, 6]


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_what_has_the_content_of_a_positive_is_no_negative(
    build: Callable[..., Contrastive], towers: Mapping[str, Tokenizer], loss: str
) -> None:
    """A sample with the text of another, under another label, is neither its positive nor its negative."""
    whole = samples(5)
    twin = Sample({"rows": torch.randn(4, 4), "ids": whole[1].value["ids"]}, "another label", "twin")
    task = build(loss={"type": loss})
    collate = config().collator({}, towers, None)
    batch = collate([*whole, twin])
    x, y = (task.vectors(tower, batch.towers[tower]) for tower in ("rows", "ids"))
    ignored = torch.zeros(6, 6, dtype=torch.bool)
    ignored[1, 5] = ignored[5, 1] = True
    logits = (x @ y.T / task.temperature()).masked_fill(ignored, -torch.inf)
    output = task(batch)
    if loss == "infonce":
        own = torch.arange(6)
        expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        assert [int(part) for part in output.stats["rows_to_ids/accuracy"]] == [int((logits.argmax(1) == own).sum()), 6]
    else:
        bias = task.losses[0].bias
        assert isinstance(bias, torch.Tensor)
        terms = F.binary_cross_entropy_with_logits(logits + bias, torch.eye(6), reduction="none")
        expected = terms.masked_fill(ignored, 0.0).sum() / 6
    assert torch.allclose(output.loss, expected, atol=1e-5)
    for direction in ("rows_to_ids", "ids_to_rows"):
        assert [int(part) for part in output.stats[f"{direction}/duplicates"]] == [2, 6]


def test_soft_alignment_takes_the_best_token_of_the_other_side(
    build: Callable[..., Contrastive], towers: Mapping[str, Tokenizer]
) -> None:
    task = build(also=[{"levels": {"rows": "a", "ids": "a"}, "align": "soft"}])
    batch = config().collator({}, towers, None)(samples(3))
    result, _ = task.encode(batch)
    rows, ids = result[1]["rows"], result[1]["ids"]
    similarity = rows.similarity(ids, soft=True)
    for i, x in enumerate(rows.samples.split(rows.x)):
        for j, y in enumerate(ids.samples.split(ids.x)):
            assert torch.allclose(similarity[i, j], (x @ y.T).max(1).values.mean(), atol=1e-6)


def test_a_missing_modality_is_no_error_and_changes_nothing_for_others(
    build: Callable[..., Contrastive], towers: Mapping[str, Tokenizer]
) -> None:
    task = build()
    whole = samples(4)
    alone = Sample({"rows": torch.randn(3, 4), "ids": None}, "other", "alone")
    batch = config().collator({}, towers, None)([*whole, alone])
    assert batch.towers["ids"].samples.tolist() == [0, 1, 2, 3]
    task(batch).loss.backward()
    kept = config().collator({}, towers, None)([*whole, alone])
    x, y = (task.vectors(tower, kept.towers[tower]) for tower in ("rows", "ids"))
    logits = x @ y.T / task.temperature()
    expected = (F.cross_entropy(logits[:4], torch.arange(4)) + F.cross_entropy(logits.T, torch.arange(4))) / 2
    assert torch.allclose(task(kept).loss, expected, atol=1e-5)


def test_a_batch_without_one_modality_has_no_loss(
    build: Callable[..., Contrastive], towers: Mapping[str, Tokenizer]
) -> None:
    one = [Sample({"rows": torch.randn(3, 4)}, "a", "one"), Sample({"rows": torch.randn(2, 4)}, "b", "two")]
    output = build()(config().collator({}, towers, None)(one))
    output.loss.backward()
    assert output.loss.item() == 0


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (torch.zeros(2, 4), "its value is Tensor; towers need a mapping by name"),
        ({"sound": 1}, "has none of the modalities rows, ids"),
        ({"rows": None}, "has none of the modalities rows, ids"),
    ],
)
def test_bad_samples_are_told(towers: Mapping[str, Tokenizer], value: Any, reason: str) -> None:
    with pytest.raises(BadSample, match=reason):
        config().collator({}, towers, None)([Sample(value, None, "one")])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"level": {"sound": "a"}}, "task.level names a tower 'sound'; the towers are rows, ids"),
        ({"level": {"rows": "z"}}, "towers.rows: unknown level 'z'"),
        ({"pairs": [["rows", "rows"]]}, "two different towers"),
        ({"also": [{"levels": {"rows": "a", "sound": "a"}}]}, "task.also names a tower 'sound'"),
        ({"level": {"rows": "a"}}, "towers.rows: level 'b' lies above all that the task reads"),
    ],
)
def test_impossible_tasks_are_refused(build: Callable[..., Contrastive], options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        build(**options)


def test_a_nan_is_named_by_tower_and_sample(build: Callable[..., Contrastive], towers: Mapping[str, Tokenizer]) -> None:
    bad = samples(3)
    bad[1].value["rows"][0, 0] = torch.nan
    assert build().nonfinite_source(config().collator({}, towers, None)(bad)) == "the input of rows (s1)"


def test_every_parameter_has_a_level_of_its_tower(build: Callable[..., Contrastive]) -> None:
    task = build()
    levels = task.parameter_levels()
    assert levels.keys() == dict(task.named_parameters()).keys()
    assert {levels[name] for name in levels if name.startswith("encoders.ids.hierarchy")} == {2, 3}
    assert task.lr_scales() == [1, 1, 1, 1]


def test_towers_that_share_weights_are_one_encoder(
    rows: Tokenizer, hierarchy: Make, unzero: Callable[[Any], None]
) -> None:
    """Batches, gradients and levels are those of separate towers with equal weights; their gradients add up."""
    towers = {"left": rows, "right": rows, "other": rows}
    also = [{"levels": {"left": "a", "right": "a"}, "align": "soft"}, {"levels": {"right": "b", "other": "a"}}]
    made = []
    for shared in ({}, {"right": "left"}):
        torch.manual_seed(0)
        task = config(also=also, shared=shared).build_towers({name: hierarchy(2) for name in towers}, towers, None)
        unzero(task)
        made.append(task)
    apart, one = made
    assert one.encoder_of("left") is one.encoder_of("right") is not one.encoder_of("other")
    own = one.state_dict()
    assert not any(name.startswith("encoders.right.") for name in own)
    # The last pair reads the right tower alone, so its map is its own.
    assert {name for name in own if name.startswith("heads.") and "right" in name} == {
        "heads.2.maps.right.weight",
        "heads.2.maps.right.bias",
    }
    apart.load_state_dict(
        {name: own[name if name in own else name.replace("right", "left")] for name in apart.state_dict()}
    )
    generator = torch.Generator().manual_seed(3)
    values = [{name: torch.randn(4, 4, generator=generator) for name in towers} for _ in range(5)]
    batch = config().collator({}, towers, None)([Sample(value, name=str(index)) for index, value in enumerate(values)])
    for task in made:
        task(batch).loss.backward()
    assert torch.allclose(apart(batch).loss, one(batch).loss)
    gradients = {name: parameter.grad for name, parameter in apart.named_parameters()}
    for name, parameter in one.named_parameters():
        twin = gradients.get(name.replace("left", "right")) if "left" in name else None
        both = [grad for grad in (gradients[name], twin) if grad is not None]
        assert parameter.grad is not None and torch.allclose(parameter.grad, torch.stack(both).sum(0), atol=1e-5), name
    assert one.parameter_levels() == {name: level for name, level in apart.parameter_levels().items() if name in own}
    assert one.lr_scales() == apart.lr_scales()


@pytest.mark.parametrize("align", ["pooled", "soft"])
def test_a_level_of_three_towers_is_compared_in_pairs_with_one_vector_each(
    rows: Tokenizer, hierarchy: Make, unzero: Callable[[Any], None], align: str
) -> None:
    towers = {"left": rows, "right": rows, "other": rows}
    models = {name: hierarchy(2) for name in towers}
    torch.manual_seed(0)
    task = config(also=[{"levels": dict.fromkeys(towers, "a"), "align": align}]).build_towers(models, towers, None)
    unzero(task)
    generator = torch.Generator().manual_seed(3)
    values = [{name: torch.randn(4, 4, generator=generator) for name in towers} for _ in range(5)]
    batch = config().collator({}, towers, None)([Sample(value, name=str(index)) for index, value in enumerate(values)])
    output = task(batch)
    vectors, own = task.encode(batch)[0][1], torch.arange(5)
    expected = []
    for one, other in (("left", "right"), ("left", "other"), ("right", "other")):
        for first, second in ((one, other), (other, one)):
            logits = vectors[first].similarity(vectors[second], soft=align == "soft") / task.temperature()
            expected.append(F.cross_entropy(logits, own))
    view = f"left_a_right_a_other_a_{align}"
    result = [value for name, value in output.parts.items() if name.startswith(view)]
    assert len(result) == 3
    assert torch.allclose(torch.stack(result).sum(), torch.stack(expected).mean(), atol=1e-5)
    assert f"{view}/other_to_left/accuracy" in output.stats


def test_pairs_are_learned_and_a_shuffled_control_is_not(
    build: Callable[..., Contrastive], towers: Mapping[str, Tokenizer]
) -> None:
    """Rows hide a group in their mean; ids name it. With names drawn anew for each sample nothing is there to learn."""

    def made(count: int, seed: int, *, shuffled: bool) -> list[Sample]:
        generator = torch.Generator().manual_seed(seed)
        means = 2 * torch.randn(8, 4, generator=torch.Generator().manual_seed(5))
        result = []
        for index in range(count):
            group = index % 8
            other = int(torch.randint(8, (1,), generator=generator)) if shuffled else group
            rows = means[group] + 0.3 * torch.randn(4, 4, generator=generator)
            result.append(Sample({"rows": rows, "ids": torch.tensor([other, 8])}, f"g{other}", f"{seed}/{index}"))
        return result

    scores = []
    for shuffled in (False, True):
        task = build().train()
        optimizer = torch.optim.AdamW(task.parameters(), 1e-2)
        for step in range(60):
            optimizer.zero_grad()
            task(config().collator({}, towers, None)(made(24, step, shuffled=shuffled))).loss.backward()
            optimizer.step()
        with torch.no_grad():
            rows = task.eval()(config().collator({}, towers, None)(made(64, 999, shuffled=False))).rows
        scores.append(task.summarize(rows))
    assert scores[0]["rows_to_ids/answers"] == 8
    assert scores[0]["R@1"] > 0.9
    assert scores[1]["R@1"] < 0.4
    assert scores[0]["rows_to_ids/chance_R@1"] == 1 / 8


def test_nested_vectors_have_the_sum_of_the_losses_of_their_prefixes(
    build: Callable[..., Contrastive], towers: Mapping[str, Tokenizer]
) -> None:
    task = build(matryoshka=[4, 2])
    batch = config().collator({}, towers, None)(samples(5))
    x, y = (task.vectors(tower, batch.towers[tower]) for tower in ("rows", "ids"))
    own, expected = torch.arange(5), []
    for width in (2, 4, 8):
        logits = F.normalize(x[:, :width], dim=1) @ F.normalize(y[:, :width], dim=1).T / task.temperature()
        expected.append((F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2)
    output = task(batch)
    assert torch.allclose(output.loss, torch.stack(expected).sum(), atol=1e-5)
    assert torch.allclose(output.parts["rows_ids@2"], expected[0], atol=1e-5)
    metrics = task.summarize(task.eval()(batch).rows)
    ranking = rank(F.normalize(x[:, :2], dim=1), batch.groups, F.normalize(y[:, :2], dim=1), batch.groups)  # type: ignore[arg-type]
    assert metrics["dim2/rows_to_ids/MRR"] == pytest.approx(ranking.metrics()["MRR"])
    task.narrow(4)
    assert torch.allclose(task.vectors("rows", batch.towers["rows"]), F.normalize(x[:, :4], dim=1), atol=1e-6)
    with pytest.raises(ConfigError, match="vectors of 3 numbers were not trained, those of 2, 4, 8 were"):
        task.narrow(3)


def test_options_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="chunk and chunk_tokens are both given"):
        config(chunk=2, chunk_tokens=2)
    with pytest.raises(ValueError, match="negatives_per_sample has no effect without negatives"):
        config(negatives_per_sample=2)


@pytest.mark.parametrize(
    ("widths", "message"),
    [([8], "matryoshka has 8; its widths are below dim, which is 8"), ([2, 2], "a width twice: 2, 2")],
)
def test_impossible_widths_are_refused(widths: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(matryoshka=widths)
