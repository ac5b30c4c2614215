"""Synthetic speech with what is said as text, for transcription. It needs eSpeak NG (the extra ``speech``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import model_validator

from hrt_mm.data.dataset import Dataset, DatasetConfig
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import Tokenizer

from ..audio.synthetic import SyntheticConfig
from ..common.media import limit_towers


class TranscribedSpeechConfig(DatasetConfig):
    """Synthetic speech as ``audio``, and what is said as ``text``."""

    type: Literal["transcribed_speech"]
    parts: ClassVar[tuple[str, ...]] = ("audio", "text")
    lists_quickly: ClassVar[bool] = False
    speech: SyntheticConfig = SyntheticConfig(type="synthetic_speech", label="text")
    """What is said, and by which voices. Its label must be ``text``."""

    @model_validator(mode="after")
    def _label_is_text(self) -> TranscribedSpeechConfig:
        if self.speech.label != "text" or self.speech.join > 1:
            raise ValueError("speech needs label: text and join: 1, as a text is written for each sound")
        return self

    def build(self, split: str) -> TranscribedSpeech:
        """The lines of a split. The first call generates the speech of all splits.

        Raises:
            ConfigError: the engine is not installed or has no such voice, or the cache cannot be written.
        """
        return TranscribedSpeech(self.speech.build(split))


class TranscribedSpeech(Dataset):
    """Sounds with their labels as texts.

    Args:
        sounds: labelled with text.
    """

    def __init__(self, sounds: Dataset) -> None:
        self.sounds = sounds

    def __len__(self) -> int:
        return len(self.sounds)

    def __getitem__(self, index: int) -> Sample:
        """A sound and its text."""
        sample = self.sounds[index]
        return Sample({"audio": sample.value, "text": sample.label}, None, sample.name)

    def limit_towers(self, tokenizers: Mapping[str, Tokenizer]) -> None:
        """Limits the sounds."""
        limit_towers({"audio": self.sounds}, tokenizers)

    def name(self, index: int) -> str:
        """The name of the sound."""
        return self.sounds.name(index)
