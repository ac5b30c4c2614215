"""Words told anew: CTC finds where they are said, and a tagger tells each once more from all that lies there.

CTC learns from transcripts alone, and short sounds are hard for it: what parts b from d is over in two of its steps. A
tagger whose units are words (``audio/grid_words``) reads each as a whole, in the place where CTC heard it. It may tell
silence too, so that words which CTC made up are dropped and such as it took for silence are found. It needs good
places; see ``docs/design.md`` for what they are worth.

Shapes: S samples of sound, U units, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hrt_mm.core.errors import UserError
from hrt_mm.tasks.ctc.words import Heard
from hrt_modalities.speech.aligning import PAUSE

from ..audio.audio import Audio
from ..audio.intervals import SILENCE, Interval, segments_of

if TYPE_CHECKING:
    from hrt_mm.inference.trained import TrainedRun
    from hrt_modalities.speech.recognizer import Recognizer

UNIT = "words"
BREAK_S, LONGEST_S = 0.3, 20.0
"""Seconds between words that part utterances, and the longest one."""
BESIDE_S = 0.5
"""Seconds of sound before and behind an utterance that are read with it."""
LATEST_S = 30.0
"""Words that come later than this many seconds after they were said stay as they were heard."""


class Rereader:
    """Tells the words of an utterance from the segments in which they were heard.

    Args:
        run: with task ``tagging``, of units ``words``.

    Raises:
        UserError: the run is another one; says what it must be.
    """

    def __init__(self, run: TrainedRun) -> None:
        from hrt_mm.tasks import Tagging

        from ..audio.tokenizer import AudioTokenizer

        if not isinstance(run.task, Tagging) or run.task.unit != UNIT or not isinstance(run.tokenizer, AudioTokenizer):
            raise UserError(
                f"{run.folder} does not tell words in given places; train a run of sound with task.type: tagging and "
                "task.unit: words, such as audio/grid_words"
            )
        self.task, self.tokenizer, self.classes = run.task, run.tokenizer, run.classes or ()

    @torch.no_grad()
    def __call__(self, audio: Audio, heard: Sequence[Heard]) -> list[Heard]:
        """The words of a sound.

        Args:
            audio: the utterance, with some silence around it.
            heard: words in it, in order of time; seconds count from its beginning.
        """
        found = [Interval(word.start, word.end, word.label) for word in heard]
        parts = segments_of(found, audio.seconds, PAUSE)
        starts = tuple(part.start for part in parts)
        tokens = self.tokenizer([Audio(audio.waveform_S, audio.rate, {UNIT: starts})])
        probs_UK = self.task.logits(tokens).float().softmax(-1).cpu()
        if len(probs_UK) != len(parts):
            # Two of them begin on one token, which no tagger can part.
            return list(heard)
        scores, places = probs_UK.max(-1)
        return [
            Heard(self.classes[place], part.start, part.end, score)
            for part, place, score in zip(parts, places.tolist(), scores.tolist(), strict=True)
            if self.classes[place] != SILENCE
        ]


class RereadStream:
    """Words of a stream, told anew when their utterance has ended; memory is that of an utterance.

    Args:
        recognizer: finds the words first.
        rereader: tells them anew.
        rate: samples a second of the chunks.
    """

    def __init__(self, recognizer: Recognizer, rereader: Rereader, rate: int) -> None:
        self.recognizer, self.rereader, self.rate = recognizer, rereader, rate
        self._waiting: list[Heard] = []
        self._sound: list[Tensor] = []
        self._first = self._count = 0
        """Samples of the stream before those that are kept, and those that came."""
        self._told_s = 0.0
        """Where what was told ends."""

    @property
    def unit(self) -> str:
        """What it gives."""
        return UNIT

    def feed(self, chunk_S: Tensor) -> list[Heard]:
        """Takes in a chunk of any size, and gives the words of utterances that have ended.

        Raises:
            BadSample: the chunk cannot be used; says why.
        """
        heard = self.recognizer.feed(chunk_S)
        self._sound.append(chunk_S)
        self._count += len(chunk_S)
        found = self._told(heard, min(self._count / self.rate - self.recognizer.late_s, self.recognizer.pending))
        self._forget()
        return found

    def flush(self) -> list[Heard]:
        """The words that the end of the stream finishes."""
        return self._told(self.recognizer.flush(), math.inf)

    def _told(self, heard: Sequence[Heard], known_s: float) -> list[Heard]:
        """Tells the utterances that have ended, where all words up to a time are known."""
        self._waiting += heard
        found: list[Heard] = []
        while count := self._ended():
            found += self._tell(count, self._waiting[count].start)
        if self._waiting and known_s >= self._waiting[-1].end + BREAK_S:
            found += self._tell(len(self._waiting), min(known_s, self._count / self.rate))
        return found

    def _ended(self) -> int:
        """Words of the first utterance, where another word follows it; 0 where it may go on."""
        gaps = [second.start - first.end for first, second in pairwise(self._waiting)]
        for place, gap in enumerate(gaps, 1):
            if gap >= BREAK_S:
                return place
        if gaps and self._waiting[-1].end - self._waiting[0].start > LONGEST_S:
            return 1 + max(range(len(gaps)), key=gaps.__getitem__)
        return 0

    def _tell(self, count: int, end_s: float) -> list[Heard]:
        """Tells the first words that wait, from sound that reaches to ``end_s`` at most."""
        words, self._waiting = self._waiting[:count], self._waiting[count:]
        sound_S = torch.cat(self._sound)
        first = max(self._first, round(self.rate * max(self._told_s, words[0].start - BESIDE_S)))
        last = min(self._count, round(self.rate * min(end_s, words[-1].end + BESIDE_S)))
        self._told_s = words[-1].end
        if last <= first:
            return words
        begin = first / self.rate
        own = Audio(sound_S[first - self._first : last - self._first], self.rate)
        moved = [Heard(word.label, word.start - begin, word.end - begin, word.score) for word in words]
        return [
            Heard(word.label, word.start + begin, word.end + begin, word.score) for word in self.rereader(own, moved)
        ]

    def _forget(self) -> None:
        """Drops sound that no utterance reaches any more; at most a minute or so is kept."""
        begin = self._count / self.rate - min(LATEST_S, self.recognizer.late_s) - LONGEST_S
        if self._waiting:
            begin = min(begin, self._waiting[0].start)
        while self._sound and self._first + len(self._sound[0]) <= self.rate * (begin - BESIDE_S):
            self._first += len(self._sound.pop(0))
