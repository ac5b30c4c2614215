"""Contrast of pieces whose places are given, such as words with words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.sample import Piece, Sample
from hrt_mm.data.tokenizer import Tokenizer
from hrt_mm.tasks import Batch, Contrastive, ContrastiveConfig
from hrt_mm.tasks.contrastive_views import LevelPair
from hrt_mm.tasks.pieces import Pieces
from hrt_modalities.text import TextConfig
from hrt_modalities.video import Video, VideoConfig

Make = Callable[..., HierarchyConfig]
GIVEN = {"levels": {"rows": "a", "ids": "a"}, "align": "given", "pieces": "words"}
NAME = "rows_a_ids_a_given"


def config(*also: dict[str, Any], **options: Any) -> ContrastiveConfig:
    return ContrastiveConfig.model_validate({"type": "contrastive", "dim": 8, "also": also or (GIVEN,), **options})


def samples() -> list[Sample]:
    """Samples of 3, 4 and 5 rows with 2, 1 and 3 words; the last word of all is not in the ids."""
    torch.manual_seed(1)
    positions = [[("a", (0, 2), (0, 1)), ("b", (2, 3), (1, 2))], [("a", (1, 4), (0, 2))]]
    positions += [[("c", (0, 1), (0, 1)), ("", (1, 2), (1, 2)), ("b", (2, 5), None)]]  # type: ignore[list-item]
    result = []
    for number, item in enumerate(positions):
        pieces = tuple(
            Piece(label, {"rows": rows} | ({"ids": ids} if ids is not None else {})) for label, rows, ids in item
        )
        value = {"rows": torch.randn(3 + number, 4), "ids": torch.tensor([number, number + 4])}
        result.append(Sample(value, f"g{number}", f"s{number}", {"words": pieces}))
    return result


@pytest.fixture
def towers(rows: Tokenizer, ids: Tokenizer) -> dict[str, Tokenizer]:
    return {"rows": rows, "ids": ids}


@pytest.fixture
def build(
    towers: Mapping[str, Tokenizer], hierarchy: Make, unzero: Callable[[Any], None]
) -> Callable[..., Contrastive]:
    def make(made: ContrastiveConfig) -> Contrastive:
        torch.manual_seed(0)
        task = made.build_towers({"rows": hierarchy(2), "ids": hierarchy(2)}, towers, None)
        unzero(task)
        return task

    return make


def test_means_are_over_the_tokens_inside_or_the_nearest() -> None:
    x = torch.arange(7.0)[:, None]
    tokens = Tokens.pack([x[:4], x[4:]])
    pieces = Pieces(torch.tensor([[0, 2], [1.6, 4], [2.1, 2.2], [0, 3]]), Spans.from_lengths([3, 1]), torch.arange(4))
    # The third lies within one token, whose middle is not in it; the fourth is of the second sample.
    assert pieces.means(tokens)[:, 0].tolist() == [0.5, 2.5, 2, 5]
    coarse = Tokens.pack([torch.tensor([[10.0], [20.0]])], coords=[torch.tensor([[0.5], [2.5]])])
    assert Pieces(torch.tensor([[2.0, 4.0]]), Spans.from_lengths([1]), torch.arange(1)).means(coarse).item() == 20
    assert pieces.some(1, 2).means(Tokens.pack([x[4:]]))[:, 0].tolist() == [5]
    assert Pieces(torch.zeros(0, 2), Spans.from_lengths([0, 0]), torch.zeros(0)).means(tokens).shape == (0, 1)


def test_the_gradient_of_a_piece_reaches_its_own_tokens_alone() -> None:
    x = torch.randn(6, 3, requires_grad=True)
    tokens = Tokens(x, Spans.from_lengths([4, 2]), torch.tensor([0.0, 1, 2, 3, 0, 1])[:, None])
    pieces = Pieces(torch.tensor([[1.0, 3.0]]), Spans.from_lengths([1, 0]), torch.arange(1))
    pieces.means(tokens).sum().backward()
    assert x.grad is not None
    assert x.grad[:, 0].tolist() == [0, 0.5, 0.5, 0, 0, 0]


def test_the_loss_is_that_of_the_formula(build: Callable[..., Contrastive], towers: Mapping[str, Tokenizer]) -> None:
    made = config()
    task, batch = build(made), made.collator({}, towers, None)(samples())
    result, _ = task.encode(batch)
    x, y = result[1]["rows"], result[1]["ids"]
    assert [len(x.x), len(y.x)] == [6, 5], "what is not in a tower is missing there"
    right = x.groups[:, None] == y.groups[None]
    # Both words "a" are positives of each other; the one without a label is like its own alone.
    pairs = [(0, 0), (0, 2), (1, 1), (2, 0), (2, 2), (3, 3), (4, 4), (5, 1)]
    assert right.nonzero().tolist() == [list(pair) for pair in pairs]
    logits = x.x @ y.x.T / task.losses[1].temperature()  # type: ignore[operator]
    target = right / right.sum(1, keepdim=True)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, (right / right.sum(0)).T)) / 2
    assert torch.allclose(task(batch).parts[NAME], expected, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 2])
def test_the_gradient_in_chunks_is_that_of_the_whole_batch(
    build: Callable[..., Contrastive], towers: Mapping[str, Tokenizer], chunk: int
) -> None:
    result = []
    for size in (None, chunk):
        made = config(chunk=size)
        task, batch = build(made), made.collator({}, towers, None)(samples())
        task(batch).loss.backward()
        result.append({name: parameter.grad for name, parameter in task.named_parameters()})
    for name, gradient in result[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(result[1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_a_missing_modality_has_no_pieces(build: Callable[..., Contrastive], towers: Mapping[str, Tokenizer]) -> None:
    made = config()
    task, whole = build(made), samples()
    alone = Sample({"rows": torch.randn(3, 4)}, "g9", "s9", {"words": (Piece("z", {"rows": (0, 2), "ids": (0, 1)}),)})
    result, _ = task.encode(made.collator({}, towers, None)([*whole, alone]))
    assert [len(result[1][tower].x) for tower in ("rows", "ids")] == [7, 5]
    only = [Sample({"rows": sample.value["rows"]}, None, sample.name, sample.pieces) for sample in whole]
    output = task(made.collator({}, towers, None)(only))
    output.loss.backward()
    assert output.loss.item() == 0


def test_pieces_are_ranked_over_a_split(build: Callable[..., Contrastive], towers: Mapping[str, Tokenizer]) -> None:
    made = config()
    task, batch = build(made).eval(), made.collator({}, towers, None)(samples())
    with torch.no_grad():
        rows = task(batch).rows
    metrics = task.summarize(rows)
    assert metrics[f"{NAME}/rows_to_ids/queries"] == 6
    assert metrics[f"{NAME}/rows_to_ids/answers"] == 5
    assert metrics[f"{NAME}/ids_to_rows/queries"] == 5
    whole = [metrics[f"{way}/R@1"] for way in ("rows_to_ids", "ids_to_rows")]
    assert metrics["R@1"] == pytest.approx(sum(whole) / 2), "the best weights are chosen by whole samples"


def test_every_pair_of_levels_counts_in_the_loss(
    build: Callable[..., Contrastive], towers: Mapping[str, Tokenizer]
) -> None:
    """Levels of one name in several pairs were once counted as one."""
    made = config(GIVEN, {**GIVEN, "align": "soft", "pieces": None}, {**GIVEN, "align": "pooled", "pieces": None})
    output = build(made)(made.collator({}, towers, None)(samples()))
    names = ["rows_ids", NAME, "rows_a_ids_a_soft", "rows_a_ids_a_pooled"]
    assert [name for name in output.parts if "/" not in name] == names
    assert output.loss.item() == pytest.approx(sum(output.parts[name].item() for name in names))


def test_learning_brings_pieces_together(build: Callable[..., Contrastive], towers: Mapping[str, Tokenizer]) -> None:
    made = config()
    task, batch = build(made), made.collator({}, towers, None)(samples())
    optimizer = torch.optim.AdamW(task.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        task(batch).loss.backward()
        optimizer.step()
    with torch.no_grad():
        metrics = task.summarize(task.eval()(batch).rows)
    assert metrics[f"{NAME}/rows_to_ids/R@1"] == metrics[f"{NAME}/ids_to_rows/R@1"] == 1


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ({}, "s0: carries no pieces 'words', which task.also compares; it has none"),
        ({"phones": ()}, "it has phones"),
        ({"words": (Piece("a", {"rows": (2, 2)}),)}, "has a piece 'a' from 2 to 2 of rows"),
        ({"words": (Piece("a", {"rows": (-1, 2)}),)}, "from -1 to 2 of rows"),
        ({"words": (Piece("a", {"rows": (0, float("inf"))}),)}, "from 0 to inf"),
    ],
)
def test_bad_pieces_are_told(
    towers: Mapping[str, Tokenizer], pieces: dict[str, tuple[Piece, ...]], message: str
) -> None:
    sample = samples()[0]
    with pytest.raises(BadSample, match=message):
        config().collator({}, towers, None)([Sample(sample.value, "g", "s0", pieces)])


def test_impossible_pairs_are_refused(build: Callable[..., Contrastive]) -> None:
    with pytest.raises(ValidationError, match="align: given needs pieces"):
        LevelPair.model_validate({**GIVEN, "pieces": None})
    with pytest.raises(ValidationError, match="pieces has no effect with align: soft"):
        LevelPair.model_validate({**GIVEN, "align": "soft"})
    with pytest.raises(ConfigError, match=f"task.also has {NAME} twice"):
        build(config(GIVEN, GIVEN))


def test_batches_keep_their_pieces_on_the_way(towers: Mapping[str, Tokenizer]) -> None:
    batch = config().collator({}, towers, None)(samples())
    moved = batch.to("cpu")
    assert isinstance(moved, Batch)
    assert moved.towers["rows"].pieces["words"].edges_P2.tolist() == [[0, 2], [2, 3], [1, 4], [0, 1], [1, 2], [2, 5]]


def test_modalities_say_where_their_units_lie() -> None:
    text = TextConfig(type="text").build()
    assert text.steps("bin blue", [0, 4, 8]) == [0, 4, 8]
    video = VideoConfig(type="video", patch=8, tube=2, rate=25).build()
    film = Video.of(torch.zeros(8, 1, 8, 8), 25)
    assert video.steps(film, [0.0, 0.08, 0.2]) == pytest.approx([0, 1, 2.5])
