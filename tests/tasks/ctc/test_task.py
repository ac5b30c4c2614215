from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby, product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.core.grids import nested_order
from hrt_mm.core.levels import HierarchyConfig, blocks
from hrt_mm.core.routing import DifferenceRouter
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import Tokenizer
from hrt_mm.tasks import CTC, TASKS, Batch, CTCConfig
from hrt_mm.tasks.ctc import Frames, frames_of, max_frames
from hrt_mm.tasks.ctc.loss import NONE, UNKNOWN, pad_frames, unpad_targets
from hrt_mm.tasks.encoder import Encoder
from hrt_mm.train.meters import Meters, means, weight_of

Make = Callable[..., HierarchyConfig]
SYMBOLS = ("a", "b", "c")
LEARNED = [{"type": "learned", "target": 3, "max": 5}]


def config(**options: Any) -> CTCConfig:
    return CTCConfig.model_validate({"type": "ctc", **options})


def labelled(
    rows: Tokenizer,
    values: Sequence[Tensor],
    labels: Sequence[Any],
    task: CTCConfig | None = None,
    model: HierarchyConfig | None = None,
) -> Batch:
    samples = [
        Sample(value, label, f"s{index}") for index, (value, label) in enumerate(zip(values, labels, strict=True))
    ]
    tokens = rows(values)
    return Batch.of(tokens, (task or config()).targets(samples, tokens, SYMBOLS, model), tuple(s.name for s in samples))


def test_it_is_registered() -> None:
    assert TASKS["ctc"] is CTCConfig


@pytest.mark.parametrize("level", ["a", "b"])
def test_loss_and_gradient_are_those_of_all_paths(hierarchy: Make, rows: Tokenizer, level: str) -> None:
    """Held to the sum over every path through the steps, which autograd differentiates."""
    torch.manual_seed(0)
    model = hierarchy(2, top_down=level == "a")
    task = config(level=level).build(model, rows, SYMBOLS).double()
    values = [
        torch.randn(length, 4, dtype=torch.float64) for length in ((4, 1, 5, 3) if level == "a" else (8, 1, 9, 6))
    ]
    batch = labelled(rows, values, [["a", "b"], ["c"], ["a", "a", "b"], []])
    output = task(batch)
    (result,) = torch.autograd.grad(output.loss, task.head.weight)
    steps = task.scores(task.encoder(batch.tokens))
    assert batch.target is not None
    nats = [
        _over_all_paths(log_probs, [index for index in row if index >= 0])
        for log_probs, row in zip(steps.spans.split(steps.x_ND), batch.target.tolist(), strict=True)
    ]
    loss = torch.stack(nats).sum() / (2 + 1 + 3 + 1)
    (expected,) = torch.autograd.grad(loss, task.head.weight)
    assert torch.allclose(output.loss, loss, rtol=1e-6)
    assert torch.allclose(result, expected, atol=1e-6)
    assert result.abs().max() > 1e-3


def test_a_prior_is_taken_off_all_paths(hierarchy: Make, rows: Tokenizer) -> None:
    """Loss and gradient of sums over paths of p / prior^0.4, which no longer add up to 1."""
    torch.manual_seed(0)
    task = config(prior=0.4).build(hierarchy(1), rows, SYMBOLS).double()
    assert task.prior is not None
    with torch.no_grad():
        task.prior.usual_K.copy_(torch.tensor([0.1, 0.1, 0.2, 0.6]))
    values = [torch.randn(length, 4, dtype=torch.float64) for length in (4, 3)]
    batch = labelled(rows, values, [["a", "b"], []])
    usual_K = task.prior.usual_K.float()
    output = task(batch)
    assert not torch.allclose(task.prior.usual_K.float(), usual_K), "it counts from the next step on"
    with torch.no_grad():
        task.prior.usual_K.copy_(usual_K)
    (result,) = torch.autograd.grad(output.loss, task.head.weight)
    steps = task.scores(task.encoder(batch.tokens))
    scores = task.without_prior(steps.x_ND)
    assert torch.allclose(scores, steps.x_ND - 0.4 * usual_K.log(), atol=1e-6)
    parts = steps.spans.split(scores)
    loss = (_over_all_paths(parts[0], [0, 1]) + _over_all_paths(parts[1], [])) / 3
    (expected,) = torch.autograd.grad(loss, task.head.weight)
    assert torch.allclose(output.loss, loss, rtol=1e-5)
    assert torch.allclose(result, expected, atol=1e-5)


def test_a_prior_follows_what_is_usual_and_not_in_evaluation(hierarchy: Make, rows: Tokenizer) -> None:
    task = config(prior=0.3).build(hierarchy(1), rows, SYMBOLS)
    assert task.prior is not None
    with torch.no_grad():
        task.head.bias[3] = 3.0
    batch = labelled(rows, [torch.randn(9, 4)], [["a"]])
    plain = task.eval()(batch).loss
    assert torch.equal(task.prior.usual_K, torch.full((4,), 0.25))
    for _ in range(200):
        task.train()(batch)
    probs = task.scores(task.encoder(batch.tokens)).x_ND.exp().mean(0)
    assert torch.allclose(task.prior.usual_K, probs, atol=0.02)
    assert torch.equal(task.eval()(batch).loss, plain)
    assert "prior.usual_K" in task.state_dict()


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_nothing_is_aligned_where_nothing_was_decoded(hierarchy: Make, rows: Tokenizer, frames: int) -> None:
    # Silence at both ends is twice the same symbol, which needs three frames.
    task = config(silence=True).build(hierarchy(1), rows, SYMBOLS).eval()
    assert task.align(torch.zeros(frames, len(SYMBOLS) + 2).log_softmax(-1), ()) == []
    (aligned,) = task.align(torch.zeros(frames, len(SYMBOLS) + 2).log_softmax(-1), (0,))
    assert aligned.symbol == 0


def test_silence_stands_at_both_ends_and_is_told_as_blank(hierarchy: Make, rows: Tokenizer) -> None:
    """The loss is that of targets with a symbol more at each end; what reads the steps sees one blank."""
    torch.manual_seed(0)
    task = config(silence=True).build(hierarchy(1), rows, SYMBOLS).eval()
    plain = config().build(hierarchy(1), rows, (*SYMBOLS, "sil")).eval()
    plain.load_state_dict(task.state_dict())
    values, labels = [torch.randn(7, 4), torch.randn(5, 4)], [["a", "b"], []]
    output = task(labelled(rows, values, labels))
    samples = [Sample(value, ["sil", *label, "sil"], "s") for value, label in zip(values, labels, strict=True)]
    tokens = rows(values)
    same = plain(Batch.of(tokens, config().targets(samples, tokens, (*SYMBOLS, "sil"))))
    assert torch.allclose(output.loss, same.loss)
    pyramid = task.encoder(tokens)
    raw, scored = task.frames(pyramid).x_ND, task.scores(pyramid).x_ND
    assert raw.shape[1] == 5
    assert torch.allclose(scored.exp(), torch.cat([raw[:, :3].exp(), raw[:, 3:].exp().sum(1, keepdim=True)], 1))
    assert torch.equal(task.log_probs(pyramid[0].x), scored)
    assert output.stats["word_error_rate"][1] == 2
    with pytest.raises(BadSample, match="silence at both ends"):
        labelled(rows, [torch.randn(3, 4)], [["a", "b"]], config(silence=True))


FINER = {"unit": "phonemes", "level": "a", "spellings": {"a": "X", "b": "Y X X", "c": "Z Y"}, "weight": 2.0}


def test_a_finer_level_tells_how_symbols_are_spelled(hierarchy: Make, rows: Tokenizer) -> None:
    """The same as a task of its own at that level, with labels that are spelled out."""
    model = hierarchy(2)
    task = config(finer=FINER, level="b").build(model, rows, SYMBOLS).eval()
    assert task.finer is not None
    assert task.finer.symbols == ("X", "Y", "Z")
    values, labels = [torch.randn(14, 4), torch.randn(9, 4)], [["b", "a", "c"], ["zebra"]]
    batch = labelled(rows, values, labels)
    assert batch.target is not None
    assert unpad_targets(task.finer.spell(batch.target)) == [[1, 0, 0, 0, 2, 1], [UNKNOWN]]
    plain = config(level="a").build(hierarchy(1), rows, ("X", "Y", "Z")).eval()
    plain.load_state_dict(
        {
            name.removeprefix("finer."): value
            for name, value in task.state_dict().items()
            if name.removeprefix("finer.") in plain.state_dict() and not name.startswith("head")
        }
    )
    given = config(level="a")
    samples = [Sample(values[0], ["Y", "X", "X", "X", "Z", "Y"], "s")]
    tokens = rows(values[:1])
    alone = plain(Batch.of(tokens, given.targets(samples, tokens, ("X", "Y", "Z"))))
    output = task(batch)
    assert torch.allclose(output.parts["finer"], 2 * alone.parts["ctc"], rtol=1e-5)
    assert output.stats["phoneme_error_rate"][1] == 7
    assert "word_error_rate" in output.stats
    output.loss.backward()
    assert task.finer.head.weight.grad is not None


def test_a_beam_tells_symbols_from_their_spellings(
    hierarchy: Make, rows: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head of the symbols themselves is not asked."""
    decoder = {"type": "beam", "spelled": True, "width": 8}
    task = config(finer=FINER, level="b", decoder=decoder).build(hierarchy(2), rows, SYMBOLS).eval()
    assert task.finer is not None and task.decode_head is task.finer
    spelled = [[0, 0, 3, 1, 3, 0, 3, 0, 3], [3, 2, 2, 1, 3, 3, 0, 3, 3]]
    probs = torch.full((2, 9, 4), 0.01).scatter(2, torch.tensor(spelled)[:, :, None], 0.97).log()
    steps = Frames(probs.flatten(0, 1), Spans.from_lengths([9, 9]), torch.zeros(18, 2, dtype=torch.int64))
    assert [one.words for one in task.decode(steps)] == [("a", "b"), ("c", "a")]
    monkeypatch.setattr(task.finer, "scores", lambda pyramid: steps)
    batch = labelled(rows, [torch.randn(9, 4), torch.randn(9, 4)], [["a", "b"], ["c", "b"]])
    output = task(batch)
    assert output.predictions is not None and unpad_targets(output.predictions) == [[0, 1], [2, 0]]
    assert output.stats["word_error_rate"] == (1, 4)
    with pytest.raises(ConfigError, match=r"task\.finer is not set"):
        config(decoder=decoder).build(hierarchy(1), rows, SYMBOLS)
    with pytest.raises(ValueError, match="lexicon others; drop one"):
        config(finer=FINER, decoder=decoder | {"lexicon": "words.txt"})


def test_spellings_are_letters_when_none_are_given(hierarchy: Make, rows: Tokenizer) -> None:
    task = config(finer={"level": "a"}).build(hierarchy(2), rows, ("blue", "red"))
    assert task.finer is not None
    assert task.finer.symbols == tuple("bdelru")
    assert "character_error_rate" in task.eval()(labelled(rows, [torch.randn(5, 4)], [[]])).stats


def test_a_symbol_that_is_not_spelled_is_told(hierarchy: Make, rows: Tokenizer) -> None:
    given = config(finer={"level": "a", "spellings": {"a": "X", "b": " "}})
    with pytest.raises(ConfigError, match=r"spellings lacks 'b', 'c'"):
        given.build(hierarchy(2), rows, SYMBOLS)
    assert given.stand_ins == ("a", "b")


def _over_all_paths(log_probs_NK: Tensor, target: list[int]) -> Tensor:
    count, width = log_probs_NK.shape
    paths = [
        path
        for path in product(range(width), repeat=count)
        if [symbol for symbol, _ in groupby(path) if symbol != width - 1] == target
    ]
    steps = torch.arange(count)
    return -torch.stack([log_probs_NK[steps, torch.tensor(path, dtype=torch.int64)].sum() for path in paths]).logsumexp(
        0
    )


def test_a_trained_head_is_read_as_errors(hierarchy: Make, rows: Tokenizer) -> None:
    """The head says what a step is: rows are the symbols themselves."""
    task = _reader(hierarchy, rows)
    batch = labelled(rows, [_spoken("aa-abb"), _spoken("--"), _spoken("ca-b")], [["a", "a", "b"], [], ["c", "b", "b"]])
    output = task(batch)
    assert output.predictions is not None
    assert output.predictions.tolist() == [[0, 0, 1], [NONE] * 3, [2, 0, 1]]
    metrics = _metrics(task, [batch])
    assert metrics["val/word_error_rate"] == pytest.approx(1 / 6)
    assert metrics["val/sentence_accuracy"] == pytest.approx(2 / 3)
    assert metrics["val/skipped"] == metrics["val/unknown"] == 0


def test_error_rates_add_up_over_batches(hierarchy: Make, rows: Tokenizer) -> None:
    """Of all edits over all symbols, whatever the batches are; a mean of means would differ."""
    task = _reader(hierarchy, rows)
    spelled, labels = ["a", "abcabc", "b-b"], [["b"], list("abcabc"), ["b"]]
    parts = [labelled(rows, [_spoken(text)], [label]) for text, label in zip(spelled, labels, strict=True)]
    whole = labelled(rows, [_spoken(text) for text in spelled], labels)
    apart, together = _metrics(task, parts), _metrics(task, [whole])
    assert apart == pytest.approx(together)
    assert together["val/word_error_rate"] == pytest.approx(2 / 8)


def test_characters_give_the_error_rate_of_words_too(hierarchy: Make, rows: Tokenizer) -> None:
    given = config(unit="characters")
    task = _reader(hierarchy, rows, given, ("a", "b", " "))
    samples = [Sample(_spoken("ab-cac"), list("ab a"), "s")]
    tokens = rows([samples[0].value])
    output = task(Batch.of(tokens, given.targets(samples, tokens, ("a", "b", " "))))
    assert output.stats["character_error_rate"] == (1, 4)
    assert output.stats["word_error_rate"] == (0, 2)


def test_an_unknown_symbol_counts_as_an_error_and_trains_nothing(hierarchy: Make, rows: Tokenizer) -> None:
    task = _reader(hierarchy, rows)
    batch = labelled(rows, [_spoken("a-b")], [["a", "zebra"]])
    assert batch.target is not None
    assert batch.target.tolist() == [[0, UNKNOWN]]
    output = task(batch)
    assert output.stats["word_error_rate"] == (1, 2)
    assert output.stats["unknown"] == (1, 2)
    assert output.loss == 0
    both = task(labelled(rows, [_spoken("a-b"), _spoken("c")], [["a", "zebra"], ["c"]]))
    alone = task(labelled(rows, [_spoken("c")], [["c"]]))
    assert torch.allclose(both.loss, alone.loss)


@pytest.mark.parametrize(
    ("length", "label", "fits"),
    [(3, "abc", True), (2, "abc", False), (3, "aab", False), (4, "aab", True), (0, "", True), (0, "a", False)],
)
def test_what_does_not_fit_is_a_bad_sample(rows: Tokenizer, length: int, label: str, fits: bool) -> None:
    if fits:
        labelled(rows, [torch.randn(length, 4)], [list(label)])
        return
    with pytest.raises(BadSample, match=rf"s0: has {len(label)} words.*{length} frames"):
        labelled(rows, [torch.randn(length, 4)], [list(label)])


def test_steps_are_counted_at_the_level_that_is_read(hierarchy: Make, rows: Tokenizer) -> None:
    model = hierarchy()
    labelled(rows, [torch.randn(9, 4)], [list("abc")], config(), model)
    with pytest.raises(BadSample, match="4 words, but 3 frames"):
        labelled(rows, [torch.randn(9, 4)], [list("abca")], config(), model)
    labelled(rows, [torch.randn(9, 4)], [list("abca")], config(level="b"), model)


def test_what_does_not_fit_into_learned_groups_is_left_out_and_counted(hierarchy: Make, rows: Tokenizer) -> None:
    """How many groups there are is known in the forward pass alone: no infinity, and the others train as ever."""
    task = config().build(hierarchy(2, LEARNED), rows, SYMBOLS)
    values = [torch.randn(1, 4).expand(7, 4).clone(), torch.randn(7, 4)]
    model = hierarchy(2, LEARNED)
    task.eval()
    batch = labelled(rows, values, [list("abcabca"), ["a"]], config(), model)
    output = task(batch)
    assert output.loss.isfinite()
    assert output.stats["skipped"] == (1, 2)
    alone = task(labelled(rows, values[1:], [["a"]])).stats["ctc"]
    assert [float(value) for value in output.stats["ctc"]] == pytest.approx([float(value) for value in alone])
    assert float(output.parts["ctc"]) == pytest.approx(float(alone[0]) / 8), "over what fits and what does not"
    output.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in task.parameters() if parameter.grad is not None)


def test_groups_that_nothing_fits_into_are_still_taught(hierarchy: Make, rows: Tokenizer) -> None:
    """A batch weighs as many symbols as it has, not as fit: else groups that are too long at first would stay so."""
    task = config().build(hierarchy(2, LEARNED), rows, SYMBOLS)
    model = hierarchy(2, LEARNED)
    alike = torch.randn(1, 4).expand(7, 4).clone()
    batch = labelled(rows, [alike, alike], [list("abcabca"), list("abcabc")], config(), model)
    output = task(batch)
    assert output.stats["skipped"] == (2, 2) and output.stats["ctc"] == (0, 0)
    weight = weight_of(output, batch)
    assert weight == 13
    (output.loss * weight).backward()
    (router,) = (module for module in task.modules() if isinstance(module, DifferenceRouter))
    assert router.here.weight.grad is not None and router.here.weight.grad.abs().max() > 0


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_shows(hierarchy: Make, rows: Tokenizer, broken: float) -> None:
    task = _reader(hierarchy, rows)
    with torch.no_grad():
        task.head.bias[0] = broken
    assert not task(labelled(rows, [_spoken("ab")], [["a", "b"]])).loss.isfinite()


@pytest.mark.parametrize("lengths", [[0], [0, 0], [0, 3], [1, 0, 2]])
def test_samples_without_steps_or_symbols(hierarchy: Make, rows: Tokenizer, lengths: list[int]) -> None:
    task = config().build(hierarchy(1), rows, SYMBOLS)
    output = task(labelled(rows, [torch.randn(length, 4) for length in lengths], [[] for _ in lengths]))
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in task.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("label", ["words", None, 3, [1, 2], [["a"]]])
def test_labels_are_lists_of_symbols(rows: Tokenizer, label: Any) -> None:
    with pytest.raises(BadSample, match=r"a list of symbols.*data\.label"):
        labelled(rows, [torch.randn(9, 4)], [label])


def test_symbols_are_needed(hierarchy: Make, rows: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="needs the symbols of the training set"):
        config().build(hierarchy(1), rows, None)


def test_the_monitor_is_named_after_the_unit(hierarchy: Make, rows: Tokenizer) -> None:
    task = config(unit="phonemes").build(hierarchy(1), rows, SYMBOLS)
    assert (task.monitor, task.monitor_mode) == ("phoneme_error_rate", "min")
    task = config(monitor="sentence_accuracy").build(hierarchy(1), rows, SYMBOLS)
    assert (task.monitor, task.monitor_mode) == ("sentence_accuracy", "max")


@pytest.mark.parametrize("groups", [None, [*LEARNED, {"type": "fixed", "stride": 2}]])
def test_steps_know_where_they_lie(hierarchy: Make, rows: Tokenizer, samples: list[Tensor], groups: Any) -> None:
    model = hierarchy(groups=groups)
    tokens = rows(samples)
    pyramid = Encoder(model, rows)(tokens)
    for level, name in enumerate("abc"):
        steps = frames_of(pyramid, model, level)
        assert torch.equal(steps.x_ND, pyramid[name].x)
        for (_, edges), sample in zip(steps.split(), samples, strict=True):
            assert edges[0, 0] == 0
            assert edges[-1, 1] == len(sample)
            assert torch.equal(edges[1:, 0], edges[:-1, 1])
        most = max_frames(model, level, tokens)
        counts = steps.spans.lengths.tolist()
        assert most == counts if groups is None else all(map(int.__ge__, most, counts))


class Clips(Tokenizer):
    """Grids of time, rows and columns."""

    axes = 3
    levels = ("patches",)

    def __init__(self, model: HierarchyConfig) -> None:
        self.blocks = blocks(model, 3)

    def __call__(self, values: Sequence[Any]) -> Tokens:
        orders = [nested_order(tuple(value.shape[:3]), self.blocks) for value in values]
        x = [value.flatten(0, 2)[order] for value, order in zip(values, orders, strict=True)]
        positions = [torch.cartesian_prod(*map(torch.arange, value.shape[:3])).float() for value in values]
        coords = torch.cat([index[order] for index, order in zip(positions, orders, strict=True)])
        grids = tuple(tuple(value.shape[:3]) for value in values)
        return Tokens(torch.cat(x), Spans.from_lengths([len(part) for part in x]), coords, grids)

    def embedding(self, dim: int) -> nn.Module:
        return nn.Identity()


def test_steps_of_grids_are_their_moments(hierarchy: Make) -> None:
    groups = [{"type": "fixed", "stride": (2, 2, 2)}, {"type": "fixed", "stride": (1, 2, 2)}]
    narrow = hierarchy(groups=groups)
    model = narrow.model_copy(update={"levels": tuple(level.model_copy(update={"dim": 12}) for level in narrow.levels)})
    clips = Clips(model)
    tokens = clips([torch.randn(5, 3, 4, 12), torch.randn(2, 2, 2, 12)])
    pyramid = Encoder(model, clips)(tokens)
    task = config().build(model, clips, SYMBOLS)
    for level, counts in enumerate([[5, 2], [3, 1], [3, 1]]):
        steps = frames_of(pyramid, model, level)
        assert steps.spans.lengths.tolist() == counts == max_frames(model, level, tokens)
        if level:
            assert steps.edges_N2.tolist() == [[0, 2], [2, 4], [4, 5], [0, 2]]
    # The first moment, by coordinates alone.
    first = (pyramid["a"].coords_TC[:, 0] == 0) & (tokens.spans.ids == 0)
    assert torch.allclose(frames_of(pyramid, model, 0).x_ND[0], pyramid["a"].x[first].mean(0), atol=1e-6)
    assert task.scores(pyramid).x_ND.shape == (4, 4)


def test_groups_that_are_no_grid_have_no_moments(hierarchy: Make) -> None:
    model = hierarchy(2, LEARNED)
    with pytest.raises(ConfigError, match="make no grid of its 3 axes"):
        config().build(model, Clips(hierarchy(1)), SYMBOLS)


def test_padding_holds_the_rows() -> None:
    x = torch.randn(6, 2)
    out = pad_frames(x, Spans.from_lengths([1, 0, 5]))
    assert out.shape == (3, 5, 2)
    assert torch.equal(out[0, 0], x[0])
    assert torch.equal(out[2], x[1:])
    assert not out[0, 1:].any()


def test_it_learns_what_is_said_without_times(hierarchy: Make, rows: Tokenizer) -> None:
    """Runs of unlike length of three symbols; a model that sees noise instead stays at chance."""
    torch.manual_seed(0)
    errors = {}
    for heard in (True, False):
        task = config(level="b").build(hierarchy(2), rows, SYMBOLS)
        optimizer = torch.optim.Adam(task.parameters(), 1e-2)
        for _ in range(120):
            task.train()(_sentences(rows, 16, heard)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        wrong, count = task.eval()(_sentences(rows, 64, heard)).stats["word_error_rate"]
        errors[heard] = float(wrong / count)
    assert errors[True] < 0.1
    assert errors[False] > 0.5


def _sentences(rows: Tokenizer, count: int, heard: bool) -> Batch:
    values, labels = [], []
    for length in torch.randint(1, 5, (count,)).tolist():
        positions = torch.randint(0, 3, (length,)).tolist()
        labels.append([SYMBOLS[index] for index in positions])
        spelled = "".join("--" + SYMBOLS[index] * int(torch.randint(3, 7, ())) for index in positions) + "--"
        values.append(_spoken(spelled) + 0.1 * torch.randn(len(spelled), 4))
        if not heard:
            values[-1] = torch.randn_like(values[-1])
    return labelled(rows, values, labels)


def _spoken(text: str) -> Tensor:
    """(T, 4) a row for each sign; ``-`` is silence."""
    return torch.eye(4)[["abc-".index(sign) for sign in text]]


class Said(nn.Module):
    def forward(self, tokens: Tokens) -> Tokens:
        return tokens.with_x(torch.nn.functional.pad(tokens.x, (0, 4)))


def _reader(
    hierarchy: Make, rows: Tokenizer, given: CTCConfig | None = None, symbols: tuple[str, ...] = SYMBOLS
) -> CTC:
    """A model whose steps are its input, and whose head says what they are."""
    task = (given or config()).build(hierarchy(1), rows, symbols).eval()
    task.encoder.embedding = Said()
    with torch.no_grad():
        task.head.weight.zero_()
        task.head.weight[:4, :4] = 5 * torch.eye(4)
    return task


def _metrics(task: CTC, batches: Sequence[Batch]) -> dict[str, float]:
    meters = Meters()
    for batch in batches:
        meters.add(task(batch), batch)
    return means(meters.sums(), "val")


def test_a_word_list_decides_what_is_written(hierarchy: Make, rows: Tokenizer, tmp_path: Path) -> None:
    """What was heard is no word; the nearest one of the list is, and errors are counted on it."""
    (tmp_path / "words").write_text("aa\ncb\n")
    spelled = _spoken("a-b")
    labels = [["c", "b"]]
    errors = {}
    for lexicon in (None, tmp_path / "words"):
        given = config(unit="characters", decoder={"type": "beam", "lexicon": lexicon})
        task = _reader(hierarchy, rows, given)
        with torch.no_grad():
            task.head.weight[2, 0] = 4.0  # "a" sounds much like "c"
        errors[lexicon is not None] = int(task(labelled(rows, [spelled], labels)).stats["character_error_rate"][0])
    assert errors == {False: 1, True: 0}
