"""Speech and other sound: frames, phonemes, words, utterances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from hrt_mm.data.capabilities import Stretch
from hrt_mm.data.modality import Modality
from hrt_mm.data.tokenizer import Tokenizer

from .audio import Audio
from .files import SUFFIXES
from .folders import AudioFolderConfig, AudioHuggingFaceConfig, AudioManifestConfig, AudioShardsConfig
from .intervals import SILENCE
from .kaldi import KaldiConfig
from .nemo import NemoConfig
from .synthetic import SyntheticConfig
from .tokenizer import AudioConfig, AudioTokenizer


class AudioModality(Modality):
    """Sounds of any and mixed lengths and rates."""

    name = "audio"
    extra = "audio"
    tokenizer = AudioConfig
    datasets = (
        AudioFolderConfig,
        AudioManifestConfig,
        AudioHuggingFaceConfig,
        AudioShardsConfig,
        KaldiConfig,
        NemoConfig,
        SyntheticConfig,
    )
    suffixes = SUFFIXES

    @classmethod
    def timeline(cls, value: Any) -> Mapping[str, Sequence[tuple[float, float, str]]]:
        """The labelled groups of a sound, such as words and phonemes, without silences."""
        assert isinstance(value, Audio)
        segments = {}
        for name, starts in value.boundaries.items():
            labels = value.labels.get(name, ())
            if len(labels) == len(starts) and starts:
                parts = zip(pairwise([*starts, value.seconds]), labels, strict=True)
                segments[name] = [(start, end, label) for (start, end), label in parts if label not in ("", SILENCE)]
        return segments

    @classmethod
    def read(cls, path: Path) -> Audio:
        """The sound of a file.

        Raises:
            BadSample: the file is missing, no sound, or broken.
        """
        from .files import read_audio

        return read_audio(path, path.name)

    @classmethod
    def read_for(cls, path: Path, tokenizer: Tokenizer) -> Audio:
        """The sound of a file. Reading stops at the tokenizer's limit.

        Raises:
            BadSample: the file is missing, no sound, broken, or longer than ``modality.max_seconds``.
        """
        from .files import read_audio

        assert isinstance(tokenizer, AudioTokenizer)
        return read_audio(path, path.name, longest=tokenizer.config.max_seconds)

    @classmethod
    def seconds(cls, path: Path) -> float:
        """Duration of a file, from its packets.

        Raises:
            BadSample: the file is missing, no sound, or broken.
        """
        from .files import read_header

        header = read_header(path, path.name)
        return header.samples / header.rate

    @classmethod
    def stretches(cls, path: Path, tokenizer: Tokenizer, seconds: float) -> Iterator[Stretch] | None:
        """Stretches of a file that is longer than any in training. They have this length, whatever ``seconds`` is.

        Raises:
            BadSample: the file is missing, no sound, or broken.
        """
        from .stretches import stretches

        assert isinstance(tokenizer, AudioTokenizer)
        return stretches(path, tokenizer)

    @classmethod
    def render(cls, value: Any, span: tuple[float, float] | None = None) -> tuple[str, bytes]:
        """The sound, or a part of it in seconds, as a wav file of 16 bits."""
        from .files import wav

        return ".wav", wav(value, span)

    @classmethod
    def figures(cls) -> Callable[..., None]:
        """Draws spectrograms."""
        from .figures import draw_audio

        return draw_audio


__all__ = ["Audio", "AudioConfig", "AudioModality", "AudioTokenizer"]
