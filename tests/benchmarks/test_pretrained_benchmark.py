from __future__ import annotations

import torch

from benchmarks import pretrained
from benchmarks.results import Measured, Result, Row, environment


def test_the_table_has_every_contender() -> None:
    contenders = {
        name: Measured(seconds=0.1 * (1 + index), bytes=(1 + index) << 20, scores={"images/s": 1.0})
        for index, name in enumerate(pretrained.CONTENDERS)
    }
    ratios = {f"encoder frozen/{pretrained.FILLED}": 4.0}
    row = Row(sizes={"images": 2, "rounds": 3}, contenders=contenders, ratios=ratios)
    facts = environment(torch.device("cpu"))
    settings = {"model": "vit"}
    result = Result(name="pretrained", command="x", quick=False, settings=settings, checks={}, rows=[row], **facts)
    text = pretrained.tables(result)
    assert "1/4 of the time" in text and "| encoder trained | 50.0 ms | 1 MiB |" in text
    assert all(name in text for name in pretrained.CONTENDERS)
