"""Windows over a model that is not causal: of a local model they give what the whole gives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from hrt_mm.core.errors import UserError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.inference.streaming import Finished
from hrt_mm.tasks.ctc import frames_of
from hrt_mm.tasks.encoder import Encoder
from hrt_modalities.audio import Audio, AudioConfig
from hrt_modalities.speech.windows import WindowStream, period, reach

LOCAL = {"window": 3, "window_type": "sliding", "heads": 2, "depth": 1}
GROUPS: dict[str, dict[str, Any]] = {
    "fixed": {"type": "fixed", "stride": 3},
    "learned": {"type": "learned", "target": 3, "max": 4},
    "given": {"type": "given", "boundary": "words"},
}
TOKENIZER = AudioConfig.model_validate({"type": "audio", "mels": 16, "stem": {"ahead": 1}}).build()


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
        whole = frames_of(made(TOKENIZER([sound])), made.hierarchy.config, 1)
    result = streamed(made, sound, window, chunk)
    assert np.array_equal(np.stack([result.first_N, result.last_N], 1), whole.edges_N2.numpy())
    assert (result.x_ND - whole.x_ND).abs().max() < 1e-4


def test_a_window_that_is_too_small_is_seen() -> None:
    """Control: the test above can fail."""
    made = encoder("fixed")
    sound = Audio(0.1 * torch.randn(32000, generator=torch.Generator().manual_seed(0)), 16000)
    with torch.no_grad():
        whole = frames_of(made(TOKENIZER([sound])), made.hierarchy.config, 1)
    assert (streamed(made, sound, 12, 32000).x_ND - whole.x_ND).abs().max() > 1e-3


def test_given_boundaries_are_refused() -> None:
    with pytest.raises(UserError, match="level 'frames' groups by boundaries that the data gives"):
        WindowStream(encoder("given"), TOKENIZER, 1, 100)


def level(name: str, window: int | None, reach: str, stride: int | None = None) -> dict[str, Any]:
    result: dict[str, Any] = {"name": name, "dim": 8, "heads": 2, "depth": 2}
    result |= {} if window is None else {"window": window, "window_type": reach}
    return result | ({} if stride is None else {"group": {"type": "fixed", "stride": stride}})


BLOCKS: dict[str, tuple[list[dict[str, Any]], int, dict[str, Any]]] = {
    "block": ([level("a", 16, "block")], 0, {}),
    "shifted": ([level("a", 16, "shifted")], 0, {}),
    "odd blocks": ([level("a", 7, "block")], 0, {}),
    "block over groups": ([level("a", 4, "sliding", 4), level("b", 8, "block")], 1, {}),
    "blocks that do not nest": ([level("a", 6, "block", 4), level("b", 5, "shifted")], 1, {}),
    "groups above come back": ([level("a", 4, "sliding", 5), level("b", 2, "sliding")], 0, {"top_down": True}),
    "blocks above come back": ([level("a", 4, "block", 5), level("b", 3, "block")], 0, {"top_down": True}),
    "seen in cells": ([level("a", 3, "sliding", 2), level("b", 3, "sliding")], 0, {"cross_scale": {"down": True}}),
    "down and up": (
        [level("a", 4, "block", 3), level("b", 4, "shifted")],
        1,
        {"cross_scale": {"down": True, "up": True}},
    ),
    "three levels": (
        [level("a", 4, "shifted", 2), level("b", 3, "block", 3), level("c", 2, "sliding")],
        0,
        {"top_down": True},
    ),
}
PLAIN = AudioConfig.model_validate({"type": "audio", "mels": 16}).build()


@pytest.mark.parametrize("tokens", [160, 600])
@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_every_local_model_gives_what_it_gives_for_the_whole(name: str, tokens: int) -> None:
    levels, read, ways = BLOCKS[name]
    torch.manual_seed(0)
    made = Encoder(HierarchyConfig.model_validate({"levels": levels, **ways}), PLAIN).eval()
    for parameter in made.hierarchy.parameters():
        if parameter.ndim == 2:
            parameter.normal_(0, 0.7 / math.sqrt(parameter.shape[-1]))
        else:
            parameter.fill_(0.5)
    sound = 0.1 * torch.randn(16000 * 11 + 777, generator=torch.Generator().manual_seed(0))
    whole = frames_of(made(PLAIN([Audio(sound, 16000)])), made.hierarchy.config, read)
    stream = WindowStream(made, PLAIN, read, tokens, rate=16000)
    result = Finished.joined([*map(stream.feed, sound.split(5000)), stream.flush()])
    assert np.array_equal(np.stack([result.first_N, result.last_N], 1), whole.edges_N2.numpy())
    assert stream.exact
    assert stream.window <= max(2 * tokens, 4 * period(made.hierarchy.config))
    assert (result.x_ND - whole.x_ND).abs().max() < 1e-4


def test_what_is_not_local_is_known() -> None:
    def config(*levels: dict[str, Any], **ways: Any) -> HierarchyConfig:
        return HierarchyConfig.model_validate({"levels": levels, **ways})

    assert reach(config(level("a", None, ""))) is None
    assert reach(config(level("a", 4, "sliding", 2), level("b", None, ""), cross_scale={"down": True})) is None
    assert reach(config(level("a", 4, "sliding"))) == 8
    learned = {"type": "learned", "target": 3, "max": 4}
    mixed = config(level("a", 6, "block") | {"group": learned}, level("b", 4, "block"))
    assert reach(mixed) is None
    assert period(mixed) == 6
