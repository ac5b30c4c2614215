from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
import torch

from hrt_modalities.audio import Audio, AudioConfig, AudioModality


@pytest.mark.parametrize("features", ["log_mel", "waveform"])
@pytest.mark.parametrize("frames", [1, 4])
def test_each_token_is_a_unit_cell(features: str, frames: int) -> None:
    config = AudioConfig.model_validate({"type": "audio", "features": features, "stem": {"frames": frames}})
    tokenizer = config.build()
    tokens = tokenizer([Audio(torch.randn(8000), 16000)])
    figure, axes = plt.subplots()
    AudioModality.figures()(axes, tokenizer, tokens)
    assert axes.get_xlim() == (0, -(-50 // frames))
    if features == "log_mel":
        assert axes.images[0].get_array().shape == (80, -(-50 // frames) * frames)  # type: ignore[union-attr]
    figure.canvas.draw()
    plt.close(figure)


def test_what_is_known_in_time_leaves_silence_out() -> None:
    starts = {"words": (0.0, 0.2, 0.5), "phonemes": (0.0,), "beats": (0.0, 0.1)}
    labels = {"words": ("sil", "bin", "blue"), "phonemes": ("b",), "beats": ("one",)}
    result = AudioModality.timeline(Audio(torch.zeros(8000), 8000, starts, labels))
    assert result == {"words": [(0.2, 0.5, "bin"), (0.5, 1.0, "blue")], "phonemes": [(0.0, 1.0, "b")]}
