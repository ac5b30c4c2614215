from __future__ import annotations

from pathlib import Path

import torch

from hrt_modalities.audio.audio import Audio
from hrt_modalities.corpora.spoken_written_digits import SpokenWrittenConfig


def test_a_recorded_query_is_one_word_without_its_quiet_ends() -> None:
    config = SpokenWrittenConfig(type="spoken_written_digits", sounds=Path("a"), pictures=Path("b"), trim_db=30.0)
    waveform_S = torch.zeros(8000)
    waveform_S[3000:5000] = torch.randn(2000)
    audio = config.prepare("audio", Audio(waveform_S, 8000))
    assert audio.boundaries == {"words": (0.0,)}
    assert 2000 <= len(audio.waveform_S) <= 2400
    whole = config.model_copy(update={"trim_db": None}).prepare("audio", Audio(waveform_S, 8000))
    assert torch.equal(whole.waveform_S, waveform_S) and whole.boundaries == {"words": (0.0,)}
    assert config.prepare("text", "four") == "four"
