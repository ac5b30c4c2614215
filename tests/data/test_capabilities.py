"""What the installed modalities can do, and what is said of those that cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from hrt_mm.core.errors import ConfigError
from hrt_mm.data import capabilities
from hrt_mm.data.capabilities import SizeAdapting, positions_at, read_file, seconds_per_token, steps_at, writing
from hrt_mm.data.extents import Extents
from hrt_mm.data.modality import Modality
from hrt_mm.data.tokenizer import Tokenizer
from hrt_modalities.audio import AudioConfig, AudioModality
from hrt_modalities.text import TextConfig, TextModality
from hrt_modalities.video import VideoConfig, VideoModality
from hrt_modalities.vision import Vision, VisionConfig
from tests.train.toy_training import ToyTokenizer

TOKENIZERS = {
    "text": TextConfig(type="text").build(),
    "audio": AudioConfig(type="audio").build(),
    "vision": VisionConfig(type="vision").build(),
    "video": VideoConfig(type="video").build(),
    "toy": ToyTokenizer(),
}
MODALITIES = {"text": TextModality, "audio": AudioModality, "vision": Vision, "video": VideoModality}

OF_TOKENIZERS = {
    "Discrete": {"text"},
    "Continuous": {"audio", "vision", "video"},
    "Reconstructing": set(),
    "VocabularyFiles": set(),
    "Sized": {"text", "audio", "vision", "video", "toy"},
    "Contextual": {"text", "audio", "video"},
    "SizeAdapting": {"audio", "vision", "video"},
    "CausalBoundaries": {"text"},
    "Generative": {"text"},
    "ByteCounting": {"text"},
    "Streamable": {"audio"},
    "Timed": {"audio"},
    "Locating": {"text", "video"},
    "BoxLocating": {"vision"},
}
OF_MODALITIES = {
    "FileReading": {"text", "audio", "vision", "video"},
    "LimitedReading": {"audio"},
    "Lasting": {"audio", "video"},
    "Divisible": {"audio", "video"},
    "Textual": {"text"},
    "Renderable": {"audio", "vision", "video"},
    "Drawing": {"text", "audio", "vision", "video"},
    "Timelined": {"audio"},
}


@pytest.mark.parametrize("capability", OF_TOKENIZERS)
def test_tokenizers_have_the_capabilities_of_their_modality(capability: str) -> None:
    kind = getattr(capabilities, capability)
    assert {name for name, item in TOKENIZERS.items() if isinstance(item, kind)} == OF_TOKENIZERS[capability]


@pytest.mark.parametrize("capability", OF_MODALITIES)
def test_modalities_have_theirs(capability: str) -> None:
    kind = getattr(capabilities, capability)
    assert {name for name, item in MODALITIES.items() if issubclass(item, kind)} == OF_MODALITIES[capability]


def test_the_contracts_are_short() -> None:
    for contract, most in ((Tokenizer, 8), (Modality, 5)):
        members = {name for name in (*contract.__annotations__, *vars(contract)) if not name.startswith("_")}
        assert len(members - {"__call__"}) <= most, members


def test_positions_default_to_steps_or_seconds() -> None:
    toy, audio = TOKENIZERS["toy"], TOKENIZERS["audio"]
    assert seconds_per_token(toy) is None and seconds_per_token(audio) == 0.01
    assert list(steps_at(toy, None, [3.0])) == [3.0] and list(positions_at(toy, None, [3.0])) == [3.0]
    assert list(steps_at(audio, None, [0.5])) == [50.0] and list(positions_at(audio, None, [50.0])) == [0.5]


def test_settings_are_copied_not_changed() -> None:
    video = TOKENIZERS["video"]
    assert isinstance(video, SizeAdapting)
    extents = Extents((4,), (4,), (1.0, 1.0))
    assert video.with_extents(extents).extents is extents and video.extents is None
    given = TOKENIZERS["video"].with_boundaries(["frames"])
    assert given.requested_boundaries == {"frames"} and not TOKENIZERS["video"].requested_boundaries


def test_what_is_lacking_is_named() -> None:
    class Plain(Modality):
        name = "plain"

    with pytest.raises(ConfigError, match="ToyTokenizer does not write text"):
        writing(TOKENIZERS["toy"])
    with pytest.raises(ConfigError, match="the modality plain does not read files"):
        read_file(Plain, Path("a.txt"), TOKENIZERS["toy"])
