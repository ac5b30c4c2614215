"""Packing ragged samples, and splitting them again."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import default_collate

from hrt_mm.core.errors import UserError
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens


def samples(*lengths: int, width: int = 3) -> list[Tensor]:
    return [torch.randn(length, width) for length in lengths]


@pytest.mark.parametrize("lengths", [(1,), (0,), (5, 0, 1), (4, 4), (7, 2, 9, 1)], ids=str)
def test_split_gives_back_what_was_packed(lengths: tuple[int, ...]) -> None:
    parts = samples(*lengths)
    tokens = Tokens.pack(parts)
    assert len(tokens) == len(lengths)
    assert tokens.axes == 1
    for part, back in zip(parts, tokens.split(), strict=True):
        assert torch.equal(part, back)
    assert tokens.coords_TC.dtype == torch.float32
    assert tokens.coords_TC.flatten().tolist() == [index for length in lengths for index in range(length)]


def test_ids_pack_as_well() -> None:
    tokens = Tokens.pack([torch.tensor([5, 6]), torch.tensor([7])])
    assert tokens.x.tolist() == [5, 6, 7]


def test_given_coords_and_boundaries_are_kept() -> None:
    coords = [torch.tensor([[0.0, 2.0], [1.0, 5.0]]), torch.tensor([[3.0, 3.0]])]
    starts = [torch.tensor([True, False]), torch.tensor([True])]
    tokens = Tokens.pack(samples(2, 1), coords=coords, boundaries={"words": starts})
    assert tokens.axes == 2
    assert torch.equal(tokens.coords_TC, torch.cat(coords))
    assert tokens.boundaries["words"].tolist() == [True, False, True]
    assert tokens.with_x(torch.zeros(3, 8)).boundaries is tokens.boundaries


def test_pickles() -> None:
    tokens = Tokens.pack(samples(3, 2))
    tokens.spans.coarsen(tokens.spans.cut(2))
    back = pickle.loads(pickle.dumps(tokens))
    assert torch.equal(back.x, tokens.x)
    assert back.spans.lengths.tolist() == [3, 2]


def test_same_device_moves_nothing() -> None:
    tokens = Tokens.pack(samples(3))
    moved = tokens.to("cpu")
    assert moved.spans is tokens.spans
    assert moved.x is tokens.x


def bare(x: Tensor, lengths: list[int], **kwargs: object) -> Tokens:
    spans = Spans.from_lengths(lengths)
    return Tokens(x, spans, torch.zeros(spans.total, 1), **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tokens.pack([]), "cannot pack an empty list of samples; give at least one"),
        (
            lambda: Tokens.pack([torch.zeros(2, 3), torch.zeros(2, 4)]),
            r"sample 1 has features of shape \(4,\), sample 0 has \(3,\)",
        ),
        (lambda: bare(torch.zeros(4, 2), [3]), r"spans cover 3 tokens, but x has shape \(4, 2\)"),
        (
            lambda: Tokens(torch.zeros(3, 2), Spans.from_lengths([3]), torch.zeros(3)),
            r"coords_TC \(3,\); expected \(3, ...\) and \(3, axes\)",
        ),
        (lambda: bare(torch.zeros(3, 2), [3], grids=((3,), (3,))), "2 grids for 1 samples; give one per sample"),
        (
            lambda: bare(torch.zeros(3, 2), [3], boundaries={"words": torch.ones(3)}),
            r"boundary 'words' must be bool of shape \(3,\) on the CPU, got torch.float32 \(3,\)",
        ),
        (
            lambda: bare(torch.zeros(3, 2), [3], boundaries={"words": torch.ones(2, dtype=torch.bool)}),
            r"boundary 'words' must be bool of shape \(3,\)",
        ),
        (
            lambda: Tokens.pack(samples(3, 2), coords=[torch.zeros(2, 1), torch.zeros(3, 1)]),
            r"sample 0 has 3 tokens, but 2 coordinates",
        ),
        (
            lambda: Tokens.pack(samples(3, 2), boundaries={"w": [torch.ones(5, dtype=torch.bool)]}),
            r"got boundary 'w' for 1 samples, there are 2",
        ),
        (
            lambda: Tokens.pack(
                samples(1, 2), boundaries={"w": [torch.ones(2, dtype=torch.bool), torch.ones(1, dtype=torch.bool)]}
            ),
            r"sample 0 has 1 tokens, but 2 of boundary 'w'",
        ),
    ],
    ids=[
        "no-samples", "widths", "x", "coords", "grids", "dtype", "mask-length", "coords-swapped", "mask-count",
        "mask-swapped",
    ],
)  # fmt: skip
def test_misfits_are_named(make: Callable[[], Tokens], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_a_grid_must_have_the_cells_that_its_sample_has() -> None:
    spans = Spans.from_lengths([6, 4])
    with pytest.raises(UserError, match=r"sample 1 is a grid of \(2, 3\) cells but has 4 tokens"):
        Tokens(torch.zeros(10, 2), spans, torch.zeros(10, 2), grids=((2, 3), (2, 3)))
    with pytest.raises(UserError, match=r"sample 0 is a grid of \(6,\) cells, but coordinates have 2 axes"):
        Tokens(torch.zeros(10, 2), spans, torch.zeros(10, 2), grids=((6,), (4,)))


def ragged(boundary: bool = True) -> list[Tokens]:
    lengths = ([3, 0], [5], [1, 2, 2])
    return [
        Tokens.pack(
            samples(*each),
            boundaries={"words": [torch.rand(length) < 0.5 for length in each]} if boundary else None,
        )
        for each in lengths
    ]


def test_collated_tokens_are_those_of_all_samples() -> None:
    parts = ragged()
    whole = default_collate(parts)
    assert isinstance(whole, Tokens) and len(whole) == 6
    assert whole.spans.lengths.tolist() == [3, 0, 5, 1, 2, 2]
    assert torch.equal(whole.x, torch.cat([part.x for part in parts]))
    assert torch.equal(whole.coords_TC, torch.cat([part.coords_TC for part in parts]))
    assert torch.equal(whole.boundaries["words"], torch.cat([part.boundaries["words"] for part in parts]))
    tokens, labels = default_collate([(part, index) for index, part in enumerate(parts)])
    assert len(tokens) == 6 and labels.tolist() == [0, 1, 2]


def test_concatenated_grids_stay_grids_and_far_positions_exact() -> None:
    grid = Tokens(torch.zeros(6, 2), Spans.from_lengths([6]), torch.zeros(6, 2), grids=((2, 3),))
    assert Tokens.concat([grid, grid]).grids == ((2, 3), (2, 3))
    far = Tokens.pack([torch.zeros(1, 2)], coords=[torch.tensor([[2**24 + 1]])])
    both = Tokens.concat([Tokens.pack([torch.zeros(1, 2)]), far])
    assert both.coords_TC.tolist() == [[0.0], [2.0**24 + 1]]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: Tokens.pack([torch.zeros(2, 7)]), r"tokens 1 have features of shape torch.Size\(\[7\]\), tokens 0"),
        (lambda: Tokens.pack(samples(2), coords=[torch.zeros(2, 3)]), "tokens 1 have axes 3, tokens 0 1"),
        (lambda: ragged()[0], r"tokens 1 have boundaries \['words'\], tokens 0 \[\]"),
    ],
)
def test_tokens_that_differ_are_not_concatenated(other: Callable[[], Tokens], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Tokens.concat([Tokens.pack(samples(2)), other()])
    with pytest.raises(UserError, match="give at least one"):
        Tokens.concat([])


def test_moving_changes_the_dtype_of_features_alone() -> None:
    tokens = ragged()[0]
    half = tokens.to(torch.bfloat16)
    assert half.x.dtype == torch.bfloat16 and half.coords_TC.dtype == torch.float32
    assert tokens.to("cpu", torch.float64).x.dtype == torch.float64
    ids = Tokens.pack([torch.tensor([1, 2])])
    assert ids.to(torch.bfloat16).x.dtype == torch.int64
    meta = tokens.to("meta")
    assert meta.device.type == meta.spans.device.type == meta.coords_TC.device.type == "meta"
    assert meta.boundaries["words"].device.type == "cpu"
    assert tokens.cpu().device.type == tokens.spans.cpu().device.type == "cpu"


def test_saved_tokens_are_loaded_as_data(tmp_path: Path) -> None:
    tokens = ragged()[2]
    torch.save({"batch": tokens}, tmp_path / "batch.pt")
    loaded = torch.load(tmp_path / "batch.pt", weights_only=True)["batch"]
    assert torch.equal(loaded.x, tokens.x) and torch.equal(loaded.spans.host, tokens.spans.host)
    assert torch.equal(loaded.boundaries["words"], tokens.boundaries["words"]) and len(loaded) == 3
