"""Text written from a source: teacher forcing, the incremental pass against it, leaks, search, and bad samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from hrt_mm.core.errors import BadSample, ConfigError, UserError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import Tokenizer
from hrt_mm.metrics.texts import text_metrics
from hrt_mm.tasks import Batch, Generation, GenerationConfig
from hrt_mm.tasks.decoding import Continuation, search
from hrt_modalities.text.tokenizer import ByteTokenizer
from tests.tasks.conftest import Rows, hierarchy, unzero

TEXTS = ("red star rises", "a", "", "blue hearts grow, slowly and far away")
LENGTHS = (13, 1, 8, 30)
SPACES = {"type": "given", "boundary": "spaces", "max": 8, "typical": 4}
LEARNED = {"type": "learned", "target": 4, "max": 8}


def text_model(group: dict[str, Any] | None = None, **options: Any) -> HierarchyConfig:
    fine: dict[str, Any] = {"name": "bytes", "dim": 16, "depth": 1, "heads": 2, "mlp_ratio": 1.0}
    if group == {}:
        return HierarchyConfig.model_validate({"levels": [fine], "causal": True})
    fine |= {"window": 5, "window_type": "sliding", "group": group or SPACES, "pool": "attention"}
    words = {"name": "words", "dim": 24, "depth": 2, "heads": 2, "mlp_ratio": 1.0}
    return HierarchyConfig.model_validate({"levels": [fine, words], "causal": True, **(options or {"top_down": True})})


def tokenizers(group: dict[str, Any] | None = None) -> dict[str, Tokenizer]:
    text = ByteTokenizer()
    return {"rows": Rows(), "text": text.with_boundaries(["spaces"] if group in (None, SPACES) else [])}


def config(**options: Any) -> GenerationConfig:
    return GenerationConfig.model_validate({"type": "generation", "max_tokens": 48, **options})


def build(
    options: dict[str, Any] | None = None, group: dict[str, Any] | None = None, **model: Any
) -> tuple[GenerationConfig, Generation]:
    torch.manual_seed(0)
    task_config = config(**(options or {}))
    models = {"rows": hierarchy(2, cross_scale={"up": True}), "text": text_model(group, **model)}
    task_config.check_towers({}, models)
    task = task_config.build_towers(models, tokenizers(group), None)
    unzero(task)
    return task_config, task.double().eval()


def source(index: int) -> Tensor:
    generator = torch.Generator().manual_seed(index)
    return torch.randn(LENGTHS[index], 4, generator=generator).double()


def batch(
    task_config: GenerationConfig, indices: Sequence[int] = range(4), group: dict[str, Any] | None = None
) -> Batch:
    samples = [Sample({"rows": source(index), "text": TEXTS[index]}, None, f"s{index}") for index in indices]
    return task_config.collator({}, tokenizers(group), None)(samples)


READS: list[dict[str, Any]] = [
    {},
    {"read": {"words": ["b", "a"]}},
    {"read": {"bytes": ["a", "b"], "words": "b"}},
]


@pytest.mark.parametrize("options", READS, ids=["coarsest", "words alone", "two levels"])
@pytest.mark.parametrize("group", [SPACES, {"type": "fixed", "stride": 3}, LEARNED, {}], ids=str)
def test_steps_give_what_the_forward_pass_gives(options: dict[str, Any], group: dict[str, Any]) -> None:
    if group == {} and options:
        options = {"read": {"bytes": ["b", "a"]}}
    task_config, task = build(options, group)
    made = batch(task_config, group=group)
    tokens = made.towers["text"].tokens
    with torch.no_grad():
        reading = task.read(made)
        whole = tokens.spans.split(task.logits(task.encoder(tokens, reading)[0].x))
        # Prompts of different lengths, then a token at a time; finished samples leave.
        first = [min(2, len(ids) - 1) for ids in tokens.split()]
        prompts = tokenizers(group)["text"]
        assert isinstance(prompts, ByteTokenizer)
        state = Continuation(task, prompts.prompts([TEXTS[index][: first[index] - 1] for index in range(4)]), reading)
        alive, position = list(range(4)), list(first)
        for sample, logits in zip(alive, state.logits_BV, strict=True):
            torch.testing.assert_close(logits.double(), whole[sample][first[sample] - 1].double(), atol=2e-6, rtol=1e-5)
        while True:
            going = [row for row, sample in enumerate(alive) if position[sample] < len(whole[sample])]
            if not going:
                break
            if len(going) < len(alive):
                state.select(going)
                alive = [alive[row] for row in going]
            state.step(torch.stack([tokens.split()[sample][position[sample]] for sample in alive]))
            for row, sample in enumerate(alive):
                expected = whole[sample][position[sample]].double()
                torch.testing.assert_close(state.logits_BV[row].double(), expected, atol=2e-6, rtol=1e-5)
                position[sample] += 1


@pytest.mark.parametrize("model", [{"top_down": True}, {"cross_scale": {"down": True}}], ids=str)
def test_no_gradient_comes_from_later_tokens_and_some_from_every_source_token(model: dict[str, Any]) -> None:
    task_config, task = build({"read": {"bytes": "a", "words": ["a", "b"]}}, **model)
    made = batch(task_config, [0])
    tokens = made.towers["text"].tokens
    embedded = task.encoder.embedding(tokens)
    x = embedded.x.detach().requires_grad_()
    rows = made.towers["rows"].tokens
    feature = rows.x.clone().requires_grad_()
    pyramid = task.encoder_of("rows")(rows.with_x(feature))
    out = task.encoder.hierarchy(embedded.with_x(x), source=task.reader(pyramid))[0].x
    weight = torch.randn_like(out)
    for position, row in enumerate((out * weight).sum(-1)):
        grad, from_source = torch.autograd.grad(row, [x, feature], retain_graph=True)
        assert grad[position + 1 :].eq(0).all() and grad[position].abs().sum() > 0
        assert from_source.abs().sum(-1).gt(0).all()


def test_samples_see_their_own_source_alone() -> None:
    task_config, task = build({"read": {"bytes": ["a", "b"], "words": "a"}})
    made = batch(task_config)
    rows, text = made.towers["rows"].tokens, made.towers["text"].tokens
    feature = rows.x.clone().requires_grad_()
    reading = task.reader(task.encoder_of("rows")(rows.with_x(feature)))
    out = task.encoder(text, reading)[0].x
    for sample, part in enumerate(text.spans.split(out)):
        (grad,) = torch.autograd.grad((part * torch.randn_like(part)).sum(), feature, retain_graph=True)
        touched = [bool(own.any()) for own in rows.spans.split(grad)]
        assert touched == [other == sample for other in range(4)]


def test_a_batch_gives_what_its_samples_give_alone_in_any_order() -> None:
    _, task = build({"read": {"words": ["a", "b"], "bytes": "b"}, "max_tokens": 12})
    task_config = config()
    with torch.no_grad():
        together = task(batch(task_config))
        alone = [task(batch(task_config, [index])) for index in range(4)]
        other = task(batch(task_config, [2, 0, 3, 1]))
        written = task.write(batch(task_config))
        shuffled = task.write(batch(task_config, [2, 0, 3, 1]), beams=1)
        single = [task.write(batch(task_config, [index]))[0] for index in range(4)]
    total = sum(float(output.stats["cross_entropy"][0]) for output in alone)
    assert float(together.stats["cross_entropy"][0]) == pytest.approx(total, rel=1e-6)
    assert float(other.stats["cross_entropy"][0]) == pytest.approx(total, rel=1e-6)
    assert [text.ids for text in written] == [text.ids for text in single]
    assert [shuffled[1].ids, shuffled[3].ids, shuffled[0].ids, shuffled[2].ids] == [text.ids for text in written]


def test_the_loss_is_that_of_every_byte_and_of_the_end() -> None:
    task_config, task = build()
    output = task(batch(task_config))
    assert int(output.stats["cross_entropy"][1]) == sum(len(text) + 1 for text in TEXTS)
    assert int(output.stats["bits_per_byte"][1]) == sum(map(len, TEXTS))


def test_gradients_reach_every_parameter_of_the_source() -> None:
    task_config, task = build({"read": {"bytes": "a", "words": "b"}})
    task.train()
    task(batch(task_config)).loss.backward()
    assert not [name for name, value in task.named_parameters() if value.grad is None]
    grads = {name: value.grad for name, value in task.named_parameters() if "stages" in name}
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads.values())


class _Markov:
    """A decoder whose next token depends on the last one alone, so that all texts can be enumerated."""

    def __init__(self, logits_VV: Tensor) -> None:
        self.table = logits_VV

    def state(self, count: int) -> Any:
        return _MarkovState(self.table, torch.full((count,), len(self.table) - 1))


class _Ids:
    separator = 4
    vocabulary = 5

    def prompts(self, values: Sequence[Any]) -> Any:
        raise NotImplementedError

    def writer(self) -> Any:
        return str


class _MarkovState:
    def __init__(self, table: Tensor, last_B: Tensor) -> None:
        self.table, self.last_B, self.tokenizer = table, last_B, _Ids()

    @property
    def logits_BV(self) -> Tensor:
        return self.table[self.last_B]

    def __len__(self) -> int:
        return len(self.last_B)

    def step(self, ids_B: Tensor) -> None:
        self.last_B = ids_B

    def select(self, rows: list[int]) -> None:
        self.last_B = self.last_B[rows]


def _best(table: Tensor, length: int, penalty: float) -> tuple[tuple[int, ...], float]:
    """The best text that ends within some tokens, among all."""
    log_probs = table.double().log_softmax(-1)
    texts: dict[tuple[int, ...], float] = {(): 0.0}
    best: tuple[tuple[int, ...], float] = ((), -math.inf)
    for _ in range(length + 1):
        longer: dict[tuple[int, ...], float] = {}
        for ids, score in texts.items():
            last = ids[-1] if ids else 4
            end = score + float(log_probs[last, 4])
            if end / (len(ids) + 1) ** penalty > best[1]:
                best = (ids, end / (len(ids) + 1) ** penalty)
            longer |= {(*ids, token): score + float(log_probs[last, token]) for token in range(4)}
        texts = longer
    return best


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_text(penalty: float) -> None:
    for seed in range(5):
        table = torch.randn(5, 5, generator=torch.Generator().manual_seed(seed)) * 2
        ids, score = _best(table, 3, penalty)
        (written,) = search(_Markov(table).state(1), max_tokens=3, beams=300, length_penalty=penalty)
        assert written.ids == ids and written.score(penalty) == pytest.approx(score)
        (greedy,) = search(_Markov(table).state(1), max_tokens=3, length_penalty=penalty)
        assert greedy.score(penalty) <= score + 1e-9


def test_greedy_decoding_takes_the_likeliest_token_until_the_end() -> None:
    table = torch.full((5, 5), -5.0)
    for last, token in ((4, 2), (2, 0), (0, 3), (3, 4)):
        table[last, token] = 5
    written = search(_Markov(table).state(3), max_tokens=9)
    assert [text.ids for text in written] == [(2, 0, 3)] * 3 and all(text.ended for text in written)
    cut = search(_Markov(table).state(1), max_tokens=2)[0]
    assert cut.ids == (2, 0) and not cut.ended
    whole = search(_Markov(table).state(1), max_tokens=3)[0]
    assert whole.ids == (2, 0, 3) and whole.ended


def test_logits_that_are_not_finite_end_a_text_without_a_score() -> None:
    table = torch.zeros(5, 5)
    table[4] = math.nan
    (written,) = search(_Markov(table).state(1), max_tokens=3, beams=2)
    assert written.ids == () and math.isnan(written.log_prob)


@pytest.mark.parametrize("bad", [{"max_tokens": 0}, {"beams": 0}, {"length_penalty": -1.0}], ids=str)
def test_search_refuses_values_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(bad))):
        search(_Markov(torch.zeros(5, 5)).state(1), **{"max_tokens": 3, **bad})


def test_beams_of_a_model_are_no_worse_than_greedy_decoding() -> None:
    _, task = build({"max_tokens": 12})
    made = batch(config(max_tokens=48))
    greedy, beams = task.write(made), task.write(made, beams=4)
    assert [text.score() for text in beams] >= [text.score() for text in greedy]
    assert all(len(text.ids) <= 12 for text in (*greedy, *beams))


def test_evaluation_decodes_a_share_of_the_samples_and_scores_them() -> None:
    _, task = build({"decode_share": 1.0, "max_tokens": 12})
    made = batch(config(max_tokens=48))
    rows = task(made).rows
    metrics = task.summarize(rows)
    written = [task.text(text.ids, ended=text.ended) for text in task.write(made)]
    assert metrics == pytest.approx(text_metrics(written, list(TEXTS)))
    _, silent = build({"decode_share": 0.0})
    assert not silent(made).rows and silent.summarize({}) == {}


def test_metrics_of_texts() -> None:
    metrics = text_metrics(["the cat sat", "no"], ["the cat sat", "yes"])
    assert metrics["exact_match"] == 0.5 and metrics["rouge_l"] == pytest.approx(0.5)
    assert metrics["character_error_rate"] == pytest.approx(3 / 14)
    assert metrics["word_error_rate"] == pytest.approx(1 / 4)


def test_it_learns_to_copy() -> None:
    torch.manual_seed(0)
    task_config = config(read={"bytes": "a"}, max_tokens=8)
    models = {"rows": hierarchy(1), "text": text_model({})}
    task = task_config.build_towers(models, tokenizers({}), None)
    collator = task_config.collator(models, tokenizers({}), None)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(task.parameters(), 1e-2)

    def made(count: int) -> tuple[Batch, list[str]]:
        letters = [torch.randint(4, (3,), generator=generator) for _ in range(count)]
        texts = ["".join("abcd"[letter] for letter in word.tolist()) for word in letters]
        rows = [torch.nn.functional.one_hot(word, 4).float() for word in letters]
        samples = [Sample({"rows": row, "text": text}, None, text) for row, text in zip(rows, texts, strict=True)]
        return collator(samples), texts

    for _ in range(100):
        optimizer.zero_grad()
        task(made(24)[0]).loss.backward()
        optimizer.step()
    task.eval()
    held_out, texts = made(16)
    assert [task.text(text.ids) for text in task.write(held_out)] == texts


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"text": "a caption"}, "has a text, but no rows"),
        ({"rows": torch.zeros(2, 4)}, "has no text to learn from"),
        ({"rows": torch.zeros(2, 4), "text": "x" * 49}, r"49 tokens, more than task.max_tokens 48"),
        ("words", "mapping by name"),
    ],
)
def test_samples_that_cannot_be_used(value: Any, message: str) -> None:
    with pytest.raises(BadSample, match=message) as error:
        config().collator({}, tokenizers(), None)([Sample(value, None, "row 3")])
    assert "row 3" in str(error.value)


def test_a_source_is_enough_to_generate() -> None:
    towers = config().collator({}, tokenizers(), None).towers([Sample({"rows": torch.zeros(2, 4)}, None, "s")])
    assert list(towers) == ["rows"]


@pytest.mark.parametrize(
    ("options", "models", "message"),
    [
        ({"target": "words"}, {}, "names a tower 'words'"),
        ({}, {"more": hierarchy(1)}, "reads one tower and writes another"),
        ({}, {"text": hierarchy(2, top_down=True)}, "causal: true"),
        ({"read": {"words": "c"}}, {}, "task.read.words: unknown level 'c'"),
        ({"read": {"lines": "a"}}, {}, "task.read.lines: unknown level"),
        ({"read": {"words": ["a", "a"]}}, {}, "names a level twice"),
        ({"shared": {"text": "rows"}}, {}, "task.shared"),
    ],
    ids=str,
)
def test_configurations_that_cannot_work(options: dict[str, Any], models: dict[str, Any], message: str) -> None:
    towers = {"rows": hierarchy(2), "text": text_model(), **models}
    with pytest.raises(ConfigError, match=message):
        config(**options).check_towers({}, towers)


def test_levels_that_nothing_reads_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"towers.rows: level 'b' lies above all that the task reads"):
        config(read={"words": "a"}).build_towers({"rows": hierarchy(2), "text": text_model()}, tokenizers(), None)
    with pytest.raises(ConfigError, match=r"monitor: bleu needs decoded texts"):
        config(monitor="bleu", decode_share=0).build_towers(
            {"rows": hierarchy(2), "text": text_model()}, tokenizers(), None
        )
