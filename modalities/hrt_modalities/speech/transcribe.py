"""``hrt-mm transcribe``: words with times, as they are finished, from a file or pipe of any length."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from torch import Tensor

from hrt_mm.core.errors import BadSample, UserError
from hrt_mm.data.registry import Command

from ..audio.live import ENCODINGS, live, raw_layout, read_layout
from .transcripts import FORMATS

PIPE = "-"
_FILE_S, _PIPE_S = 10.0, 0.2
"""Seconds per chunk: large for files, small for live sound."""


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="RUN", type=Path, help="a run folder of task ctc; model.causal: true for streams"
    )
    parser.add_argument("file", metavar="FILE", help="a sound of any length, or - for a pipe: wav, or raw with --rate")
    parser.add_argument("overrides", metavar="a.b=c", nargs="*", help="override a key of the run's configuration")
    text = "text: one word per line; ctm, json and textgrid: alignments; srt: captions (text)"
    parser.add_argument("--format", choices=tuple(FORMATS), default="text", help=text)
    parser.add_argument("--out", type=Path, metavar="FILE", help="where it goes; to the terminal when absent")
    parser.add_argument("--rate", type=int, metavar="HZ", help="the pipe has raw samples, so many a second")
    parser.add_argument("--encoding", choices=tuple(ENCODINGS), default="s16", help="of raw samples (s16)")
    parser.add_argument("--channels", type=int, default=1, metavar="N", help="of raw samples (1)")
    parser.add_argument("--chunk-ms", type=float, metavar="MS", help="sound that goes in at once (10000, of pipes 200)")
    parser.add_argument(
        "--window", type=float, metavar="S", help="seconds that a model which is not causal reads at once (6)"
    )
    parser.add_argument("--growing", action="store_true", help="allow models whose memory grows with the sound")
    parser.add_argument("--step", type=int, help="a checkpoint by its step; the best when absent")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def _run(args: Namespace) -> int:
    """Writes the words, and shows on standard error how far it is."""
    from hrt_mm.inference.trained import load_task
    from hrt_modalities.speech.recognizer import Recognizer

    _check(args)
    trained = load_task(
        args.folder, "best" if args.step is None else args.step, overrides=args.overrides, inputs="files"
    )
    chunks, rate, seconds = _opened(args)
    recognizer = Recognizer(trained.task, trained.tokenizer, window=args.window, growing=args.growing, rate=rate)
    progress = Progress(seconds, silent=args.quiet)
    name = "pipe" if args.file == PIPE else Path(args.file).stem
    with _output(args.out) as out:
        transcript = FORMATS[args.format](out, name, recognizer.unit)
        samples, broken = 0, None
        try:
            for chunk in chunks:
                for word in recognizer.feed(chunk):
                    transcript.add(word)
                samples += len(chunk)
                progress.show(samples / rate)
        except BadSample as error:
            broken = error
        if samples:
            # Write the words before the damage; the error follows.
            for word in recognizer.flush():
                transcript.add(word)
            transcript.end(samples / rate)
    progress.end(samples / rate)
    if broken is not None:
        raise broken
    return 0


def _check(args: Namespace) -> None:
    if args.file != PIPE and args.rate is not None:
        raise UserError("--rate is for raw samples from a pipe (FILE -); a file says its own")
    if args.chunk_ms is not None and not 0 < args.chunk_ms <= 600_000:
        raise UserError(f"--chunk-ms {args.chunk_ms:g} must be above 0, and 600000 at most")
    if args.window is not None and not 0 < args.window <= 600:
        raise UserError(f"--window {args.window:g} must be above 0 seconds, and 600 at most")


def _opened(args: Namespace) -> tuple[Iterator[Tensor], int, float | None]:
    """Chunks, their rate, and how long they last together where that is known."""
    from ..audio.files import blocks, read_header

    if args.file == PIPE:
        source: BinaryIO = sys.stdin.buffer
        if args.rate is not None:
            layout = raw_layout(args.rate, args.channels, args.encoding)
        else:
            layout = read_layout(source, "standard input")
        length = args.chunk_ms / 1000 if args.chunk_ms is not None else _PIPE_S
        return live(source, layout, "standard input", length), layout.rate, None
    path = Path(args.file)
    header = read_header(path, args.file)
    length = args.chunk_ms / 1000 if args.chunk_ms is not None else _FILE_S
    chunks = (audio.waveform_S for audio in blocks(path, args.file, length))
    return chunks, header.rate, header.samples / header.rate


@contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    try:
        with path.open("w", encoding="utf-8") as out:
            yield out
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


class Progress:
    """How far a transcription is, on standard error: a line that is written over on a terminal, one at the end.

    Args:
        seconds: of the whole sound, where that is known.
        silent: show nothing.
    """

    def __init__(self, seconds: float | None, *, silent: bool = False) -> None:
        self.seconds, self.silent = seconds, silent
        self._live = not silent and sys.stderr.isatty() and not sys.stdout.isatty()
        self._began = self._shown = time.monotonic()

    def show(self, done: float) -> None:
        """So many seconds of sound are done."""
        now = time.monotonic()
        if self._live and now - self._shown > 0.5:
            self._shown = now
            share = f" of {self.seconds / 60:.1f}" if self.seconds else ""
            print(f"\r{done / 60:.1f}{share} min, {self._speed(done)}", end="", file=sys.stderr, flush=True)

    def end(self, done: float) -> None:
        """The sound has ended."""
        if not self.silent:
            lead = "\r" if self._live else ""
            print(f"{lead}{done:.1f} s of sound, {self._speed(done)}", file=sys.stderr, flush=True)

    def _speed(self, done: float) -> str:
        return f"{done / max(1e-9, time.monotonic() - self._began):.1f} times as fast as it is spoken"


TRANSCRIBE = Command("transcribe", "write the words of a sound with their times, as they are heard", _arguments, _run)
