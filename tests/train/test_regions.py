from __future__ import annotations

import pytest
import torch

from hrt_mm import Hierarchy, HierarchyConfig, Level, Tokens
from hrt_mm.train.regions import compile_regions


def ragged(*lengths: int) -> Tokens:
    return Tokens.pack([torch.randn(length, 8) for length in lengths])


# Dynamo looks at the .grad of what it resumes with.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_blocks_are_compiled_once_for_all_lengths() -> None:
    from torch._dynamo.utils import counters

    hierarchy = Hierarchy(HierarchyConfig(levels=(Level(name="only", dim=8, depth=2, heads=2, window=4),)))
    batches = [ragged(8, 8), ragged(7, 5, 11), ragged(3, 9), ragged(1, 2, 30)]
    expected = [hierarchy(tokens)[-1].x for tokens in batches]
    graphs = []
    with torch._dynamo.config.patch(recompile_limit=8):
        compile_regions(hierarchy, "eager")
        for tokens, x_TD in zip(batches, expected, strict=True):
            torch.testing.assert_close(hierarchy(tokens)[-1].x, x_TD)
            graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert len(set(graphs[2:])) == 1
