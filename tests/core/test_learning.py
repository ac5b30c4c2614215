"""A hierarchy learns what needs local detail and far context together; its fine level alone cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.tokens import Tokens

SYMBOLS, DIM = 4, 32


def draw(generator: torch.Generator, samples: int = 8) -> tuple[Tokens, Tensor]:
    """The label of a token: whether it repeats the one before, and which of two marks its sample began with."""
    ids, labels = [], []
    for length in torch.randint(40, 80, (samples,), generator=generator).tolist():
        one = torch.randint(SYMBOLS, (length,), generator=generator)
        mark = torch.randint(2, (1,), generator=generator)
        one[0] = SYMBOLS + mark
        repeats = torch.cat([torch.zeros(1, dtype=torch.bool), one[1:] == one[:-1]])
        ids.append(one)
        labels.append(2 * mark + repeats.long())
    return Tokens.pack(ids), torch.cat(labels)


def accuracy(config: HierarchyConfig, steps: int) -> float:
    """Of labels far from the start of their sample, after training."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    embed, body, head = nn.Embedding(SYMBOLS + 2, DIM), Hierarchy(config), nn.Linear(DIM, 4)
    model = nn.ModuleList([embed, body, head])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)

    def logits(tokens: Tokens) -> Tensor:
        pyramid = body(tokens.with_x(embed(tokens.x)))
        scores: Tensor = head(pyramid["fine"].x)
        return scores

    for _ in range(steps):
        tokens, labels = draw(generator)
        loss = nn.functional.cross_entropy(logits(tokens), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    tokens, labels = draw(generator, 40)
    far = tokens.spans.positions > 20
    with torch.no_grad():
        return float((logits(tokens).argmax(-1) == labels)[far].float().mean())


FINE: dict[str, Any] = {"name": "fine", "dim": DIM, "heads": 2, "depth": 1, "window": 4, "window_type": "sliding"}


@pytest.mark.parametrize(("causal", "steps"), [(False, 150), (True, 100)], ids=["full", "causal"])
def test_both_scales_are_needed_and_learned(causal: bool, steps: int) -> None:
    levels = (
        FINE | {"group": {"type": "fixed", "stride": 4}, "pool": "mean"},
        {"name": "mid", "dim": DIM, "heads": 2, "depth": 1, "window": 4, "window_type": "sliding", "pool": "mean"}
        | {"group": {"type": "fixed", "stride": 4}},
        {"name": "coarse", "dim": DIM, "heads": 2, "depth": 1},
    )
    config = HierarchyConfig.model_validate(
        {"levels": levels, "top_down": True, "cross_scale": {"down": causal}, "causal": causal}
    )
    result = accuracy(config, steps)
    assert result > 0.9, f"{result:.1%}"


def test_the_fine_level_alone_guesses_the_far_half() -> None:
    result = accuracy(HierarchyConfig.model_validate({"levels": (FINE | {"depth": 3},)}), 100)
    assert 0.4 < result < 0.6, f"{result:.1%}"
