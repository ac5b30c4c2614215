"""Streaming: a file of an hour transcribed by a causal run, chunk by chunk: equality, memory, speed, lateness, errors.

The sounds of the run's test split are joined to files of growing length, which ``hrt-mm transcribe`` reads in processes
of their own. Before anything is timed, what the model gives in chunks must equal what it gives for a sound at once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from hrt_mm.data.sample import Sample
from hrt_mm.data.time_span import TimeSpan
from hrt_mm.data.tokenizer import Tokenizer
from hrt_mm.inference.streaming import Stream
from hrt_mm.inference.streaming.stream import joined
from hrt_mm.inference.trained import TrainedRun, load_task
from hrt_mm.tasks import CTC
from hrt_mm.train.build import build_dataset
from hrt_modalities.audio import Audio, AudioModality, AudioTokenizer
from hrt_modalities.speech.recognizer import Recognizer, ctc_task

from .checks import CheckFailed, must_equal
from .command import main, parser
from .markdown import markdown
from .results import Bar, Measured, Result, Row, environment
from .watched import watched

NAME = "streaming"
CHUNKS_MS = (10, 37, 160, 1000)
MINUTES = (1.0, 10.0, 60.0)
BOUND = 1e-4
"""How far chunks may be from the whole."""
SPEED = 0.5
"""Seconds of computing for a second of sound that are well under 1."""
GROWTH = 1.1
"""How much more memory the longest file may take than the shortest."""


@dataclass(frozen=True, eq=False)
class Talk:
    """Sounds of the test split, one after another.

    Args:
        samples: the sounds with their words.
        rate: samples a second.
    """

    samples: Sequence[Sample]
    rate: int

    @classmethod
    def of(cls, run: TrainedRun, most: int) -> Talk:
        """The first sounds of a run's test split."""
        dataset = build_dataset(run.config, "test")
        samples = [dataset[index] for index in range(min(len(dataset), most))]
        return cls(samples, samples[0].value.rate)

    def turns(self, minutes: float) -> Iterator[Sample]:
        """Sounds in an order that is drawn anew each time all were heard, until there are so many minutes."""
        generator, left = np.random.default_rng(0), minutes * 60
        while left > 0:
            for index in generator.permutation(len(self.samples)):
                if left <= 0:
                    return
                yield self.samples[index]
                left -= self.samples[index].value.seconds

    def waveform(self, minutes: float) -> Tensor:
        """(S,) the sounds joined."""
        return torch.cat([sample.value.waveform_S for sample in self.turns(minutes)])

    def write(self, path: Path, minutes: float) -> tuple[float, list[str]]:
        """Writes them as a flac file, one after another; gives how long it is and what is said."""
        words: list[str] = []
        with soundfile.SoundFile(path, "w", self.rate, 1) as file:
            for sample in self.turns(minutes):
                file.write(sample.value.waveform_S.numpy())
                words += sample.label
        return soundfile.info(path).duration, words


def check_equal(run: TrainedRun, talk: Talk, seconds: float) -> dict[str, float]:
    """By size of the chunks, how far what the run gives is from the whole, over all levels.

    Raises:
        CheckFailed: too far.
    """
    task, tokenizer = ctc_task(run.task), run.tokenizer
    sound = Audio(talk.waveform(seconds / 60), talk.rate)
    with torch.inference_mode():
        pyramid = task.encoder(tokenizer([sound]))
    errors = {}
    for size in CHUNKS_MS:
        stream = Stream(task.encoder, tokenizer, rate=talk.rate)
        chunks = sound.waveform_S.split(max(1, talk.rate * size // 1000))
        got = joined([*(stream.feed(chunk) for chunk in chunks), stream.flush()])
        pairs = [(got[name].x_ND, pyramid[name].x) for name in pyramid.names]
        name = f"chunks of {size} ms against the whole"
        must_equal(name, [streamed for streamed, _ in pairs], [expected for _, expected in pairs], BOUND)
        errors[name] = max(float((streamed - expected).abs().max()) for streamed, expected in pairs)
        if errors[name] > BOUND:
            raise CheckFailed(f"{name}: {errors[name]:.1e} apart, more than {BOUND:g}")
    return errors


def error_rate(predicted: Sequence[str], true: Sequence[str]) -> float:
    """Words to insert, leave out and replace, over true words; in rows of numpy, for sequences of thousands."""
    ids = {word: index for index, word in enumerate({*predicted, *true})}
    true_N = np.array([ids[word] for word in true])
    ramp = np.arange(len(true) + 1)
    row = ramp.copy()
    for word in predicted:
        best = np.minimum(row + 1, np.append(row[0] + 1, row[:-1] + (true_N != ids[word])))
        # Words that are left out: the least of all to the left, each step costing one.
        row = np.minimum.accumulate(best - ramp) + ramp
    return float(row[-1]) / max(1, len(true))


def lateness(run: TrainedRun, talk: Talk, minutes: float, chunk_ms: int) -> tuple[list[float], list[float], float]:
    """Seconds of sound from the end of each word until it was given, seconds of computing a chunk, and of all."""
    recognizer = Recognizer(run.task, run.tokenizer, rate=talk.rate)
    size = max(1, talk.rate * chunk_ms // 1000)
    late, latencies, fed = [], [], 0
    for chunk in talk.waveform(minutes).split(size):
        began = time.perf_counter()
        words = recognizer.feed(chunk)
        latencies.append(time.perf_counter() - began)
        fed += len(chunk)
        late += [fed / talk.rate - word.end for word in words]
    return late, latencies, sum(latencies) / (fed / talk.rate)


def placed(run: TrainedRun, talk: Talk) -> dict[str, float | None]:
    """How far words begin from where they truly do, over sounds of which all words are found and whose times are known.

    The middle of all distances is how late the model is; the spread is the mean distance from it.
    """
    apart: list[float] = []
    for sample in talk.samples:
        recognizer = Recognizer(run.task, run.tokenizer, rate=talk.rate)
        predicted: list[TimeSpan] = [*recognizer.feed(sample.value.waveform_S), *recognizer.flush()]
        annotated = AudioModality.timeline(sample.value).get("words", [])
        if predicted and [word.label for word in predicted] == [label for *_, label in annotated]:
            apart += [word.start - start for word, (start, *_) in zip(predicted, annotated, strict=True)]
    if not apart:
        return {"start_late_s": None, "start_spread_s": None}
    middle = statistics.median(apart)
    return {"start_late_s": middle, "start_spread_s": statistics.fmean(abs(offset - middle) for offset in apart)}


def run(options: argparse.Namespace) -> Result:
    """Measures a run.

    Raises:
        UserError: it is no causal run of task ctc over sounds.
        CheckFailed: chunks give something else than the whole.
    """
    quick = options.quick
    trained = load_task(options.run)
    task = ctc_task(trained.task)
    talk = Talk.of(trained, 5 if quick else 1000)
    threads = torch.get_num_threads()
    checks = check_equal(trained, talk, 3.0 if quick else 10.0)
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            _length(options.run, talk, minutes, Path(folder), threads)
            for minutes in ((0.05, 0.1) if quick else options.minutes)
        ]
    rows += [_chunks(trained, talk, 0.05 if quick else 1.0, size) for size in CHUNKS_MS]
    return Result(
        name=NAME,
        command=options.command,
        quick=quick,
        settings={
            "data": trained.config.data.type,
            "parameters": sum(parameter.numel() for parameter in task.parameters()),
            "levels": [level.model_dump(mode="json") for level in trained.config.single.model.levels],
            "late_steps_s": _stated(trained.tokenizer, Recognizer(task, trained.tokenizer, rate=talk.rate), task),
        },
        checks=checks,
        rows=rows,
        bars=[] if quick else _bars(rows),
        details=placed(trained, talk),
        **environment(options.device),
    )


def _stated(tokenizer: Tokenizer, recognizer: Recognizer, task: CTC) -> float | None:
    """Seconds until a step is finished after its end, at most."""
    assert isinstance(tokenizer, AudioTokenizer)
    late = recognizer.late
    return None if late is None else late * tokenizer.seconds_per_token + tokenizer.lookahead_seconds


def _length(run: Path, talk: Talk, minutes: float, folder: Path, threads: int) -> Row:
    path, out = folder / f"{minutes:g}.flac", folder / f"{minutes:g}.json"
    length, words = talk.write(path, minutes)
    words_of_command = ["transcribe", str(run), str(path), "--format", "json", "--out", str(out)]
    seconds, processor, peak = watched(words_of_command, out.with_suffix(".log"), threads)
    heard = [part["label"] for part in next(iter(json.loads(out.read_text()).values()))]
    scores: dict[str, float | None] = {
        "word_error_rate": error_rate(heard, words),
        "words": len(words),
        "processor_seconds": processor,
    }
    print(f"{minutes:g} min: {seconds:.1f} s, {peak / 2**20:.0f} MiB, {scores}", file=sys.stderr)
    measured = Measured(seconds=seconds, bytes=peak, scores=scores)
    ratios = {"seconds a second": seconds / length, "processor seconds a second": processor / length}
    return Row(sizes={"what": "file", "minutes": minutes}, contenders={"stream": measured}, ratios=ratios)


def _chunks(run: TrainedRun, talk: Talk, minutes: float, size: int) -> Row:
    late, latencies, speed = lateness(run, talk, minutes, size)
    quartiles = np.percentile(latencies, [25, 75])
    measured = Measured(
        seconds=statistics.median(latencies),
        quartiles=(float(quartiles[0]), float(quartiles[1])),
        scores={
            "late_median_s": statistics.median(late) if late else None,
            "late_most_s": max(late, default=None),
            "slowest_chunk_s": max(latencies),
        },
    )
    print(f"chunks of {size} ms: {speed:.3f} s a second, {measured.scores}", file=sys.stderr)
    sizes: dict[str, int | float | str] = {"what": "chunks", "chunk_ms": size, "minutes": minutes}
    return Row(sizes=sizes, contenders={"stream": measured}, ratios={"seconds a second": speed})


def _bars(rows: Sequence[Row]) -> list[Bar]:
    files = [row for row in rows if row.sizes["what"] == "file"]
    peaks = [row.contenders["stream"].bytes or 0 for row in files]
    growth, speed = peaks[-1] / peaks[0], files[-1].ratios["seconds a second"]
    lengths = f"{files[0].sizes['minutes']:g} to {files[-1].sizes['minutes']:g} minutes"
    return [
        Bar(
            claim=f"peak memory of the process, from {lengths} of sound",
            goal=f"at most {GROWTH:g}x",
            measured=f"{growth:.2f}x",
            met=growth <= GROWTH,
        ),
        Bar(
            claim=f"real-time factor, {files[-1].sizes['minutes']:g} minutes",
            goal=f"at most {SPEED:g}",
            measured=f"{speed:.3f}",
            met=speed <= SPEED,
        ),
    ]


def tables(result: Result) -> str:
    """The result as Markdown."""
    settings = result.settings
    files = [row for row in result.rows if row.sizes["what"] == "file"]
    body = [
        [
            f"{row.sizes['minutes']:g}",
            f"{(row.contenders['stream'].bytes or 0) / 2**20:,.0f}",
            f"{row.contenders['stream'].seconds:,.1f}",
            f"{row.ratios['seconds a second']:.3f}",
            f"{row.ratios['processor seconds a second']:.3f}",
            f"{row.contenders['stream'].scores['word_error_rate']:.2%}",
        ]
        for row in files
    ]
    head = ["minutes of sound", "peak MiB of the process", "seconds", "real-time factor"]
    parts = [
        f"{settings['parameters'] / 1e6:.1f} M parameters, data {settings['data']}. A step is finished at most "
        f"{1000 * settings['late_steps_s']:.1f} ms after its end.",
        "`hrt-mm transcribe`, a process of its own, its start and the loading of the model included:",
        markdown([*head, "processor seconds a second", "word error rate"], body),
        "In this process, by the size of the chunks:",
        markdown(
            ["chunk, ms", "ms a chunk", "slowest", "real-time factor", "word given after its end, s: median", "most"],
            [_chunk_row(row) for row in result.rows if row.sizes["what"] == "chunks"],
        ),
        "Largest difference from the whole sound at once: "
        + ", ".join(f"{value:.1e} ({name.removesuffix(' against the whole')})" for name, value in result.checks.items())
        + ".",
    ]
    if result.details.get("start_late_s") is not None:
        parts.append(
            f"Words begin {1000 * result.details['start_late_s']:.0f} ms late in the middle, and "
            f"{1000 * result.details['start_spread_s']:.0f} ms from that on average."
        )
    return "\n\n".join(parts)


def _chunk_row(row: Row) -> list[str]:
    stream = row.contenders["stream"]
    assert stream.seconds is not None
    late, most, slowest = (stream.scores[key] for key in ("late_median_s", "late_most_s", "slowest_chunk_s"))
    return [
        str(row.sizes["chunk_ms"]),
        f"{1000 * stream.seconds:.2f}",
        f"{1000 * (slowest or 0):.0f}",
        f"{row.ratios['seconds a second']:.3f}",
        "" if late is None else f"{late:.2f}",
        "" if most is None else f"{most:.2f}",
    ]


def _minutes(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument(
        "run", type=Path, metavar="RUN", help="run folder of audio/grid_stream, or another causal one of task ctc"
    )
    options.add_argument("--minutes", type=_minutes, default=MINUTES, help="of the files; 1,10,60 when absent")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
