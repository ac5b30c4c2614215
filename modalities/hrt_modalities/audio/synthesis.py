"""Speech from text by eSpeak NG, with the times of words and phonemes.

The engine is in the package espeakng-loader, an extra under the GPL, and no part of this package. It runs in a separate
process (``python -m hrt_modalities.audio.synthesis FOLDER``, with a plan on standard input), because it has global
state: its output depends slightly on what it said before.

Shapes: S samples.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.extras import needs_extra
from hrt_mm.data.time_span import TimeSpan

from .intervals import SILENCE

PACKAGE = "espeakng-loader"
_WORD, _PHONEME = 1, 7
_SYNCHRONOUS, _WITH_PHONEMES, _UTF8 = 2, 0x8001, 1
_RATE, _PITCH = 1, 3
_STRESS = "',%="
_SHORTEST = 0.02
"""Shortest silence in seconds at the end."""


@dataclass(frozen=True)
class Line:
    """A line to be spoken.

    Args:
        text: words separated by spaces.
        voice: of eSpeak, with a variant: ``en-us+f2``.
        words_per_minute: 80 to 450.
        pitch: 0 to 99.
    """

    text: str
    voice: str
    words_per_minute: int
    pitch: int


@dataclass(frozen=True)
class Utterance:
    """A spoken line.

    Args:
        samples_S: int16.
        rate: samples per second.
        words: with their times, including silences.
        phonemes: likewise, without stress.
    """

    samples_S: np.ndarray
    rate: int
    words: tuple[TimeSpan, ...]
    phonemes: tuple[TimeSpan, ...]


class _Name(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Name),
    ]


class Engine:
    """eSpeak NG in this process, of which there can be one.

    Raises:
        ConfigError: it is not installed, or does not start.
    """

    def __init__(self) -> None:
        engine_version()
        with needs_extra("speech"):
            import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
        self._callback = callback(self._receive)
        home = str(Path(espeakng_loader.get_data_path()).parent)
        self.rate = int(self._library.espeak_Initialize(_SYNCHRONOUS, 0, home.encode(), _WITH_PHONEMES))
        if self.rate <= 0:
            raise ConfigError(f"eSpeak NG does not start with its data in {home}; install {PACKAGE} anew")
        self._library.espeak_SetSynthCallback(self._callback)
        self._blocks: list[np.ndarray] = []
        self._events: list[tuple[int, int, int, int, str]] = []

    def say(self, line: Line) -> Utterance:
        """Speaks a line.

        Raises:
            ConfigError: there is no such voice, or it says nothing.
        """
        self._blocks, self._events = [], []
        if self._library.espeak_SetVoiceByName(line.voice.encode()):
            raise ConfigError(f"eSpeak NG has no voice {line.voice!r}; such as en-us, en+f2, en-gb-x-rp+m3")
        self._library.espeak_SetParameter(_RATE, line.words_per_minute, 0)
        self._library.espeak_SetParameter(_PITCH, line.pitch, 0)
        text = line.text.encode()
        self._library.espeak_Synth(
            text, ctypes.c_size_t(len(text) + 1), ctypes.c_uint(0), 1, ctypes.c_uint(0), _UTF8, None, None
        )
        self._library.espeak_Synchronize()
        if not self._blocks:
            raise ConfigError(f"eSpeak NG says nothing for {line.text!r}")
        samples_S = np.concatenate(self._blocks)
        words, phonemes = intervals(self._events, line.text, len(samples_S), self.rate)
        return Utterance(samples_S, self.rate, words, phonemes)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type:
            event = events[index]
            name = bytes(event.id.string).decode("utf-8", "replace") if event.type == _PHONEME else ""
            self._events.append((event.type, event.text_position, event.length, event.sample, name))
            index += 1
        return 0


def intervals(
    events: Sequence[tuple[int, int, int, int, str]], text: str, samples: int, rate: int
) -> tuple[tuple[TimeSpan, ...], tuple[TimeSpan, ...]]:
    """Times of words and phonemes.

    The first phoneme of a word starts with the word: eSpeak counts the closure before a stop to the word, but reports
    the phoneme at its burst.

    Args:
        events: kind, position in the text from 1, length in the text, sample, and phoneme.
        text: the spoken text.
        samples: number of samples.
        rate: samples per second.
    """
    words: list[tuple[int, str]] = []
    phonemes: list[tuple[int, str]] = []
    begins: int | None = None
    for kind, position, length, sample, name in events:
        if kind == _WORD:
            begins = sample
            words.append((sample, text[position - 1 : position - 1 + length]))
        elif kind == _PHONEME and name.startswith("_"):
            # Silence between the start of a word and its first phoneme is a closure.
            if begins is None:
                words.append((sample, SILENCE))
                phonemes.append((sample, SILENCE))
        elif kind == _PHONEME and name.strip(_STRESS):
            if begins is not None and phonemes and phonemes[-1][0] >= begins:
                # The word is linked to the one before, whose last phoneme is reported after the start of this word.
                begins = None
                words[-1] = sample, words[-1][1]
            phonemes.append((sample if begins is None else begins, name.strip(_STRESS)))
            begins = None
    return tuple(_closed(words, samples, rate)), tuple(_closed(phonemes, samples, rate))


def _closed(starts: Sequence[tuple[int, str]], samples: int, rate: int) -> Iterator[TimeSpan]:
    """Spans from each start to the next, with merged silences."""
    merged: list[tuple[int, str]] = [] if starts and starts[0][0] == 0 else [(0, SILENCE)]
    for start, label in starts:
        if merged and label == SILENCE == merged[-1][1]:
            continue
        if merged and start <= merged[-1][0] and merged[-1][1] == SILENCE:
            merged.pop()
        merged.append((start, label))
    if merged[-1][1] == SILENCE and samples - merged[-1][0] < _SHORTEST * rate:
        merged.pop()
    ends = [start for start, _ in merged[1:]] + [samples]
    for (start, label), end in zip(merged, ends, strict=True):
        yield TimeSpan(start / rate, end / rate, label)


def engine_version() -> str:
    """The version of the engine's package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return version(PACKAGE)
    except PackageNotFoundError as error:
        raise ConfigError(
            f"synthetic speech needs the package {PACKAGE} (GPL): pip install 'hrt-mm[speech]', or choose another "
            "data.type"
        ) from error


def speak(lines: Mapping[str, Sequence[Line]], rate: int, folder: Path) -> None:
    """Speaks lines in a separate process: ``SPLIT.wav`` with all lines, and ``SPLIT.jsonl`` with their times.

    Args:
        lines: by split.
        rate: of the files, in samples per second.
        folder: an existing folder for the files.

    Raises:
        ConfigError: the engine is not installed, has no such voice or fails.
    """
    engine_version()
    plan = {
        "rate": rate,
        "splits": {split: [asdict(line) for line in split_lines] for split, split_lines in lines.items()},
    }
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(folder.resolve())],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ConfigError(f"synthetic speech could not be made: {last}")


def _main() -> None:
    with needs_extra("audio"):
        import soundfile
    import torch

    from .resample import resampled

    folder, plan = Path(sys.argv[1]), json.load(sys.stdin)
    engine = Engine()
    for split, lines in plan["splits"].items():
        done = 0
        with (
            soundfile.SoundFile(folder / f"{split}.wav", "w", plan["rate"], 1, "PCM_16") as sound,
            (folder / f"{split}.jsonl").open("w", encoding="utf-8") as index,
        ):
            for line in lines:
                spoken = engine.say(Line(**line))
                wave = resampled(
                    torch.from_numpy(spoken.samples_S.astype(np.float32) / 32768), engine.rate, plan["rate"]
                )
                sound.write(wave.clamp(-1, 1).numpy())
                row = {
                    "offset": done / plan["rate"],
                    "duration": len(wave) / plan["rate"],
                    **line,
                    "words": [[interval.start, interval.label] for interval in spoken.words],
                    "phonemes": [[interval.start, interval.label] for interval in spoken.phonemes],
                }
                index.write(json.dumps(row) + "\n")
                done += len(wave)


if __name__ == "__main__":
    _main()
