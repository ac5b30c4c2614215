from __future__ import annotations

from pathlib import Path

import pytest

from hrt_modalities.joint.transcripts import TranscribedSpeechConfig


def test_sounds_come_with_what_is_said(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    speech = {"type": "synthetic_speech", "label": "text", "train": 3, "valid": 2, "test": 2, "cache": tmp_path}
    config = TranscribedSpeechConfig.model_validate({"type": "transcribed_speech", "speech": speech})
    data = config.build("train")
    assert len(data) == 3
    lines = config.speech.lines("train")
    for index in range(3):
        sample = data[index]
        assert sample.value["text"] == lines[index].text and sample.value["audio"].seconds > 0.3
        assert sample.name == data.name(index)


def test_other_labels_are_refused() -> None:
    speech = {"type": "synthetic_speech", "label": "words"}
    with pytest.raises(ValueError, match="needs label: text"):
        TranscribedSpeechConfig.model_validate({"type": "transcribed_speech", "speech": speech})
