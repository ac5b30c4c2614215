from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
import torch

from modalities.audio import Audio, AudioConfig, AudioModality


@pytest.mark.parametrize("features", ["log_mel", "waveform"])
@pytest.mark.parametrize("frames", [1, 4])
def test_each_token_is_a_unit_cell(features: str, frames: int) -> None:
    config = AudioConfig.model_validate({"type": "audio", "features": features, "stem": {"frames": frames}})
    tokenizer = config.build(lambda axes: ())
    tokens = tokenizer([Audio(torch.randn(8000), 16000)])
    figure, axes = plt.subplots()
    AudioModality.figures()(axes, tokenizer, tokens)
    assert axes.get_xlim() == (0, -(-50 // frames))
    if features == "log_mel":
        assert axes.images[0].get_array().shape == (80, -(-50 // frames) * frames)  # type: ignore[union-attr]
    figure.canvas.draw()
    plt.close(figure)
