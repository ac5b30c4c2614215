"""Runs of 300 tokens, stepped through from the first: over all groupings and poolings, saved and loaded on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.pooling import POOLINGS
from hrt_mm.inference.generation import Cache
from tests.inference.generation.test_saving import ahead, through_a_file
from tests.inference.generation.test_stepping import GROUPS, SMOOTH, awake, batch, build, stepped

LENGTHS, SAVED_AT = [300, 116, 257], 100
CASES = [
    *(
        (pool, group, levels)
        for pool in sorted(POOLINGS)
        for group in ("fixed", "given", "learned")
        for levels in (2, 3)
    ),
    *((pool, group, 3) for pool in ("attention", "select") for group in ("uncapped", "smooth")),
]


def model_of(pool: str, group: str, levels: int) -> Hierarchy:
    model = build(pool, group, "both", second=group)
    if levels == len(model.config.levels):
        return model
    settings = model.config.model_dump()
    settings["levels"] = [settings["levels"][0], settings["levels"][-1]]
    return awake(Hierarchy(HierarchyConfig.model_validate(settings)))


@pytest.mark.parametrize(("pool", "group", "levels"), CASES)
def test_every_position_of_a_ragged_batch(
    pool: str, group: str, levels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(GROUPS, "smooth", SMOOTH)
    torch.set_num_threads(1)
    model, tokens = model_of(pool, group, levels), batch(LENGTHS)
    with torch.no_grad():
        whole, cache = model(tokens)[0].split(), Cache(model, len(LENGTHS))
        first = ahead(model, tokens, [0] * len(LENGTHS), cache, SAVED_AT).transpose(0, 1)
        loaded = through_a_file(cache, model, tmp_path)
        rest = stepped(model, tokens, [SAVED_AT] * len(LENGTHS), cache=cache)
        for sample, item in enumerate(whole):
            assert (item - torch.cat([first[sample], rest[sample]])).abs().max() < 1e-7
        more = ahead(model, tokens, [SAVED_AT] * len(LENGTHS), loaded, min(LENGTHS) - SAVED_AT)
        for sample, part in enumerate(more.transpose(0, 1)):
            assert torch.equal(part, rest[sample][: len(part)])
