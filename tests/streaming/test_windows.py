"""Windows over a model that is not causal: of a local model they give what the whole gives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from hrt_mm.ctc import steps_of
from hrt_mm.encoder import Encoder
from hrt_mm.errors import UserError
from hrt_mm.levels import HierarchyConfig
from hrt_mm.streaming import Finished
from hrt_mm.streaming.windows import WindowStream
from modalities.audio import Audio, AudioConfig

LOCAL = {"window": 3, "reach": "sliding", "heads": 2, "depth": 1}
GROUPS: dict[str, dict[str, Any]] = {
    "fixed": {"type": "fixed", "stride": 3},
    "learned": {"type": "learned", "target": 3, "max": 4},
    "given": {"type": "given", "boundary": "words"},
}
TOKENIZER = AudioConfig.model_validate({"type": "audio", "mels": 16, "stem": {"ahead": 1}}).build(lambda axes: ())


def encoder(group: str) -> Encoder:
    levels = [{"name": "frames", "dim": 8, "group": GROUPS[group]} | LOCAL, {"name": "words", "dim": 12} | LOCAL]
    made = Encoder(HierarchyConfig.model_validate({"levels": levels, "cross_scale": {"up": True}}), TOKENIZER)
    generator = torch.Generator().manual_seed(2)
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / math.sqrt(parameter.shape[-1])
    return made.eval()


def streamed(made: Encoder, sound: Audio, window: int, chunk: int) -> Finished:
    stream = WindowStream(made, TOKENIZER, 1, window)
    return Finished.joined([*map(stream.feed, sound.waveform_S.split(chunk)), stream.flush()])


@pytest.mark.parametrize("group", ["fixed", "learned"])
@pytest.mark.parametrize(("window", "chunk"), [(160, 1000), (163, 40_000), (1000, 7777)])
@pytest.mark.parametrize("seconds", [0.005, 1.0, 5.03])
def test_steps_are_those_of_the_whole(group: str, window: int, chunk: int, seconds: float) -> None:
    made = encoder(group)
    sound = Audio(0.1 * torch.randn(round(16000 * seconds), generator=torch.Generator().manual_seed(0)), 16000)
    with torch.no_grad():
        whole = steps_of(made(TOKENIZER([sound])), made.hierarchy.config, 1)
    found = streamed(made, sound, window, chunk)
    assert np.array_equal(np.stack([found.first_N, found.last_N], 1), whole.edges_N2.numpy())
    assert (found.x_ND - whole.x_ND).abs().max() < 1e-4


def test_a_window_that_is_too_small_is_seen() -> None:
    """Control: the test above can fail."""
    made = encoder("fixed")
    sound = Audio(0.1 * torch.randn(32000, generator=torch.Generator().manual_seed(0)), 16000)
    with torch.no_grad():
        whole = steps_of(made(TOKENIZER([sound])), made.hierarchy.config, 1)
    assert (streamed(made, sound, 12, 32000).x_ND - whole.x_ND).abs().max() > 1e-3


def test_given_boundaries_are_refused() -> None:
    with pytest.raises(UserError, match="level 'frames' groups by boundaries that the data gives"):
        WindowStream(encoder("given"), TOKENIZER, 1, 100)
