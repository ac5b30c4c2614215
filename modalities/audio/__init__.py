"""Speech and other sound: frames, phonemes, words, utterances."""

from __future__ import annotations

from collections.abc import Callable

from hrt_mm.modality import Modality

from .audio import Audio
from .corpora import LibriSpeechConfig, SpeechCommandsConfig
from .digits import FsddConfig
from .folders import FolderConfig, ManifestConfig
from .grid import GridConfig
from .synthetic import SyntheticConfig
from .tokenizer import AudioConfig, AudioTokenizer


class AudioModality(Modality):
    """Sounds of any and mixed lengths and rates."""

    name = "audio"
    tokenizer = AudioConfig
    datasets = (
        FolderConfig,
        ManifestConfig,
        FsddConfig,
        GridConfig,
        LibriSpeechConfig,
        SpeechCommandsConfig,
        SyntheticConfig,
    )

    @classmethod
    def figures(cls) -> Callable[..., None]:
        """Draws spectrograms."""
        from .figures import draw_audio

        return draw_audio


__all__ = ["Audio", "AudioConfig", "AudioModality", "AudioTokenizer"]
