"""The hot path plans on the host alone. Meta tensors cannot be read, so a pass over them, gradients too, proves it."""

from __future__ import annotations

import pytest
import torch

from hrt_mm import Hierarchy, HierarchyConfig, Spans, Tokens
from hrt_mm.core.grids import nested_coords
from hrt_mm.core.pooling import POOLINGS

FIXED = {"type": "fixed", "stride": 4}
GIVEN = {"type": "given", "boundary": "words", "max": 6}
LEARNED = {"type": "learned", "target": 3, "max": 6}


def _hierarchy(pool: str, group: dict[str, object], *, causal: bool) -> Hierarchy:
    window_type = "sliding" if causal else "shifted"
    levels = [
        {"name": "fine", "dim": 16, "heads": 2, "window": 8, "window_type": window_type, "group": group, "pool": pool},
        {"name": "mid", "dim": 24, "heads": 2, "depth": 1, "group": {"type": "fixed", "stride": 2}, "pool": pool},
        {"name": "top", "dim": 32, "heads": 4, "depth": 1},
    ]
    config = HierarchyConfig.model_validate(
        {
            "levels": levels,
            "cross_scale": {"up": True, "down": True},
            "top_down": True,
            "causal": causal,
            "alignment": 0.1,
            "reconstruction": 0.1,
        }
    )
    return Hierarchy(config).to("meta")


def _tokens() -> Tokens:
    samples = [torch.randn(length, 16) for length in (21, 1, 13, 8)]
    starts = {"words": [torch.arange(len(sample)) % 3 == 0 for sample in samples]}
    return Tokens.pack(samples, boundaries=starts).to("meta")


@pytest.mark.parametrize("causal", [False, True], ids=["encoder", "causal"])
@pytest.mark.parametrize("group", [FIXED, GIVEN], ids=["fixed", "given"])
@pytest.mark.parametrize("pool", sorted(POOLINGS))
def test_forward_and_backward_read_nothing(pool: str, group: dict[str, object], causal: bool) -> None:
    pyramid = _hierarchy(pool, group, causal=causal)(_tokens())
    torch.stack([*pyramid.losses.values(), pyramid[0].x.sum()]).sum().backward()


def test_a_grid_reads_nothing() -> None:
    group = {"type": "fixed", "stride": 2}
    levels = [{"name": "a", "dim": 16, "heads": 2, "window": 4, "group": group}, {"name": "b", "dim": 16, "heads": 2}]
    hierarchy = Hierarchy(HierarchyConfig.model_validate({"levels": levels}), axes=2)
    grids = ((5, 7), (1, 1), (4, 4))
    spans = Spans.from_lengths([height * width for height, width in grids])
    coords_TC = torch.cat([nested_coords(shape, hierarchy.blocks) for shape in grids])
    tokens = Tokens(torch.randn(spans.total, 16), spans, coords_TC, grids=grids)
    assert hierarchy.to("meta")(tokens.to("meta")).pooled().shape == (3, 16)


def test_the_check_sees_a_read() -> None:
    """Learned groups do read the device: their number is not known before."""
    with pytest.raises(NotImplementedError, match="meta"):
        _hierarchy("mean", LEARNED, causal=False)(_tokens())
