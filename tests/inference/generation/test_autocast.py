"""Decoding under autocast, the precision that models are trained in, gives what the forward pass gives there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.data.capabilities import writing
from hrt_mm.inference.generation import Cache, Sampling, Session, generate, prefill, step
from tests.inference.generation.test_generate import built
from tests.inference.generation.test_saving import LEARNED
from tests.inference.generation.test_stepping import batch, beginning, build

LENGTHS = [24, 9, 17]
MODELS: dict[str, dict[str, Any]] = {
    "fixed groups": {"group": "fixed", "way": "both"},
    "given groups, growing": {"group": "given", "way": "down", "window": None},
    "uncapped groups": {"group": "uncapped", "way": "top_down"},
    "attention pooling": {"pool": "attention", "group": "given", "way": "both"},
    "first tokens": {"pool": "select", "group": "fixed", "way": "both"},
}


def compared(model: Hierarchy, prompt: Sequence[int], dtype: torch.dtype) -> float:
    """The largest difference of any step from the forward pass, both under autocast."""
    tokens = batch(LENGTHS)
    tokens = tokens.with_x(tokens.x.float())
    worst = 0.0
    with torch.no_grad(), torch.autocast("cpu", dtype):
        whole = model(tokens)[0].split()
        pyramid, cache = prefill(model, beginning(tokens, prompt))
        for item, ours, count in zip(whole, pyramid[0].split(), prompt, strict=True):
            worst = max(worst, float((item[:count] - ours).abs().max()))
        positions = list(prompt)
        alive = list(range(len(LENGTHS)))
        while alive := _going_on(cache, alive, positions):
            rows = torch.tensor([int(tokens.spans.host[sample]) + positions[sample] for sample in alive])
            result: Tensor = step(model, tokens.x[rows], cache, {"words": tokens.boundaries["words"][rows].numpy()})
            for sample, x_D in zip(alive, result, strict=True):
                worst = max(worst, float((whole[sample][positions[sample]] - x_D).abs().max()))
                positions[sample] += 1
    return worst


def _going_on(cache: Cache, alive: list[int], places: list[int]) -> list[int]:
    going = [row for row, sample in enumerate(alive) if places[sample] < LENGTHS[sample]]
    if len(going) < len(alive):
        cache.select(going)
    return [alive[row] for row in going]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_prompts_and_steps_equal_the_forward_pass(name: str, dtype: torch.dtype) -> None:
    model = build(**{"pool": "mean", **MODELS[name]}).float()
    # Tokens are normed, so a rounding of bfloat16 is some 2^-8 of 1, and several add up.
    assert compared(model, [7, 1, 12], dtype) < (0.15 if dtype == torch.bfloat16 else 0.02)


def test_learned_groups() -> None:
    model = build("mean", "learned", "both").float()
    assert compared(model, [7, 1, 12], torch.float16) < 0.02


@pytest.mark.parametrize("group", [{"type": "fixed", "stride": 3}, LEARNED], ids=["fixed", "learned"])
def test_a_session_is_saved_with_autocast_and_goes_on_without(group: dict[str, Any], tmp_path: Path) -> None:
    model = built(group)
    prompts = writing(model.tokenizer).prompts(["ab cd", "e"])
    with torch.autocast("cpu", torch.bfloat16):
        session = Session(model, prompts)
        session.step(torch.tensor([3, 5]))
        session.save(tmp_path / "s.safetensors")
        expected = session.step(torch.tensor([4, 4]))
    again = Session.load(model, tmp_path / "s.safetensors")
    torch.testing.assert_close(
        again.step(torch.tensor([4, 4])), expected.to(again.logits_BV.dtype), atol=0.05, rtol=0.05
    )


def test_texts_are_written() -> None:
    model = built(LEARNED)
    with torch.autocast("cpu", torch.bfloat16):
        pieces = list(generate(model, ["ab cd", "e"], max_tokens=6, sampling=Sampling(0.0)))
    assert {piece.sample for piece in pieces if piece.ended} == {0, 1}
