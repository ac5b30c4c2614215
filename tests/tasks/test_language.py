from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.per_step import training_step
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.tokenizer import Tokenizer
from hrt_mm.tasks import Batch, LanguageConfig, LanguageModel, language
from hrt_mm.tasks.language import next_ids, next_token_nats, noisy

LENGTHS = (13, 1, 8, 6)


def causal(group: dict[str, Any] | None = None) -> HierarchyConfig:
    fine = {"name": "a", "dim": 16, "depth": 1, "heads": 2, "window": 4, "window_type": "sliding", "mlp_ratio": 2.0}
    fine["group"] = group or {"type": "fixed", "stride": 3}
    coarse = {"name": "b", "dim": 24, "depth": 1, "heads": 2, "mlp_ratio": 2.0}
    return HierarchyConfig.model_validate({"levels": [fine, coarse], "causal": True, "top_down": True})


@pytest.fixture
def task(ids: Tokenizer, unzero: Callable[[nn.Module], None]) -> LanguageModel:
    torch.manual_seed(0)
    result = LanguageConfig(type="language").build(causal(), ids, None).double()
    unzero(result)
    return result


@pytest.fixture
def batch(ids: Tokenizer) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch.of(ids([torch.randint(11, (length,), generator=generator) for length in LENGTHS]))


def test_each_token_predicts_the_next_of_its_sample(task: LanguageModel, batch: Batch) -> None:
    output = task(batch)
    logits = task.logits(task.encoder(batch.tokens)[0].x).detach()
    nats, right = [], 0
    for scores, item in zip(batch.tokens.spans.split(logits), batch.tokens.split(), strict=True):
        nats += [float(F.cross_entropy(scores[t], item[t + 1])) for t in range(len(item) - 1)]
        right += int((scores[:-1].argmax(-1) == item[1:]).sum())
    assert len(nats) == sum(LENGTHS) - len(LENGTHS)
    total, count = output.stats["cross_entropy"]
    assert float(total) == pytest.approx(sum(nats), rel=1e-5) and int(count) == len(nats)
    assert float(output.loss.detach()) == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert int(output.stats["accuracy"][0]) == right


def test_noise_is_read_in_training_and_never_predicted(ids: Tokenizer, batch: Batch) -> None:
    task = LanguageConfig(type="language", noise=0.5).build(causal(), ids, None).double()
    seen: list[Tensor] = []
    task.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].x))
    own = batch.tokens.x
    torch.manual_seed(0)
    output = task(batch)
    changed = seen[0] != own
    assert changed.any() and not changed.all() and set(seen[0].tolist()) <= set(own.tolist())
    # It is scored by what is there, also after a token that was replaced.
    pyramid = task.encoder(batch.tokens.with_x(seen[0]))
    nats, _ = next_token_nats(task.logits, 11, pyramid[0].x, next_ids(batch.tokens))
    assert float(output.loss.detach()) == pytest.approx(float(nats.sum().detach()) / (sum(LENGTHS) - len(LENGTHS)))
    task.eval()(batch)
    assert torch.equal(seen[-1], own)


def test_noise_replaces_its_share_by_what_is_common() -> None:
    torch.manual_seed(0)
    ids = torch.tensor([7] * 90_000 + [3] * 10_000)
    result = noisy(ids, 0.2)
    # A fifth of each is drawn anew, and comes out as it was as often as it is common.
    assert float((result[:90_000] != 7).float().mean()) == pytest.approx(0.02, abs=0.003)
    assert float((result[90_000:] != 3).float().mean()) == pytest.approx(0.18, abs=0.015)
    assert torch.equal(noisy(ids, 0.0), ids)


def test_bits_are_over_the_bytes_that_were_predicted(
    task: LanguageModel, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "bits_per_byte" not in task(batch).stats, "these ids stand for no bytes"
    monkeypatch.setattr(task.tokenizer, "num_bytes", lambda ids: ids % 3, raising=False)
    output = task(batch)
    bits, size = output.stats["bits_per_byte"]
    assert int(size) == sum(int((item[1:] % 3).sum()) for item in batch.tokens.split())
    assert float(bits) == pytest.approx(float(output.stats["cross_entropy"][0]) / math.log(2))


def test_a_large_vocabulary_in_pieces_is_the_same(
    task: LanguageModel, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = []
    for limit in (1 << 25, 5 * 11):
        monkeypatch.setattr(language, "_LOGITS", limit)
        output = task(batch)
        task.zero_grad()
        output.loss.backward()
        grads = [parameter.grad.clone() for parameter in task.parameters() if parameter.grad is not None]
        result.append([output.loss.detach(), output.predictions, *grads])
    for whole, pieces in zip(*result, strict=True):
        assert whole is not None and pieces is not None
        torch.testing.assert_close(whole, pieces)


def test_no_prediction_sees_what_it_predicts(task: LanguageModel, ids: Tokenizer) -> None:
    task.eval()
    own = torch.randint(11, (30,), generator=torch.Generator().manual_seed(2))

    def logits(x: Tensor) -> Tensor:
        return task.logits(task.encoder(ids([x]))[0].x)

    base = logits(own)
    for index in range(30):
        other = own.clone()
        other[index] = (other[index] + 1) % 11
        moved = (logits(other) - base).abs().amax(-1) > 1e-12
        assert not moved[:index].any() and moved[index]


def test_samples_of_one_token_have_nothing_to_learn_from(task: LanguageModel, ids: Tokenizer) -> None:
    output = task(Batch.of(ids([torch.tensor([3]), torch.tensor([4])])))
    assert float(output.loss.detach()) == 0 and float(output.stats["loss"][1]) == 0
    output.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())


def test_learned_groups_tell_their_size(ids: Tokenizer, batch: Batch) -> None:
    config = causal({"type": "learned", "target": 3, "max": 5})
    task = LanguageConfig(type="language").build(config, ids, None)
    output = task(batch)
    tokens, groups = output.stats["tokens_per_group/a"]
    assert int(tokens) == sum(LENGTHS)
    assert sum(-(-length // 5) for length in LENGTHS) <= int(groups) <= sum(LENGTHS)
    assert "ratio/a" in output.parts
    output.loss.backward()
    weight = task.get_parameter("encoder.hierarchy.transitions.0.router.here.weight")
    assert weight.grad is not None and weight.grad.any()


def test_next_ids_of_empty_and_single_samples() -> None:
    spans = Spans.from_lengths([2, 0, 1, 3])
    tokens = Tokens(torch.arange(6), spans, spans.positions[:, None].float())
    assert next_ids(tokens).tolist() == [1, -1, -1, 4, 5, -1]


def test_what_cannot_be_is_refused(ids: Tokenizer, rows: Tokenizer) -> None:
    open_ended = causal().model_copy(update={"causal": False})
    with pytest.raises(ConfigError, match=r"task language needs model.causal: true"):
        LanguageConfig(type="language").build(open_ended, ids, None)
    with pytest.raises(ConfigError, match="Rows has no vocabulary"):
        LanguageConfig(type="language").build(causal(), rows, None)


def test_it_learns_what_only_the_coarse_level_can_know(ids: Tokenizer) -> None:
    """The third of three equal thirds can be told from the second, 20 tokens back: far past the fine window."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(3)

    def documents(count: int) -> Sequence[Tensor]:
        return [torch.randint(11, (20,), generator=generator).repeat(3) for _ in range(count)]

    def trained(config: HierarchyConfig) -> float:
        task = LanguageConfig(type="language").build(config, ids, None)
        optimizer = torch.optim.AdamW(task.parameters(), lr=4e-3)
        for _ in range(150):
            task(Batch.of(ids(documents(16)))).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        output = task.eval()(Batch.of(ids(documents(32))))
        total, count = output.stats["cross_entropy"]
        return float(total / count)

    chance = math.log(11)
    window_alone = HierarchyConfig.model_validate(
        {"levels": [{**causal().levels[0].model_dump(), "group": None, "depth": 2}], "causal": True}
    )
    assert trained(window_alone) > 0.97 * chance, "the control cannot know"
    assert trained(causal()) < 0.9 * chance


def test_groups_by_uncertainty_learn_the_cross_entropy_of_each_next_token(ids: Tokenizer, batch: Batch) -> None:
    config = causal({"type": "learned", "signal": "uncertainty", "target": 3, "max": 5})
    task = LanguageConfig(type="language").build(config, ids, None)
    with training_step(task):
        output = task(batch)
        output.loss.backward()
    assert set(output.parts) == {"cross_entropy"}
    router = task.encoder.hierarchy.transitions[0].get_submodule("router")
    sums = router.get_buffer("sums_EE")
    nats, count = output.stats["cross_entropy"]
    assert int(sums[-2, -2]) == int(count) == sum(LENGTHS) - len(LENGTHS)
    assert float(sums[-2, -1]) == pytest.approx(float(nats), rel=1e-5)
    before = sums.clone()
    task.eval()(batch)
    assert torch.equal(router.get_buffer("sums_EE"), before)
