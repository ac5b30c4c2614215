"""Streams of tar shards over ranks and workers: is each good sample read once an epoch, across a kill and a resumption?

Some samples are no images, one shard is cut, and one is missing. Two ranks with two workers each train until all of
their processes are killed in the middle of the first epoch. The run then resumes on one rank and on four, and what they
read is compared with what there is. A table of batches by tokens follows: how equal the shares of ranks are.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import tarfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from hrt_mm.config import load_config
from hrt_mm.data.shards import ShardWriter
from hrt_mm.data.stream import shard_and_row
from hrt_mm.train.callbacks import Callback
from hrt_mm.train.loop import train
from hrt_mm.train.sampler import Sampler, shares
from hrt_mm.train.streamed import READERS

from .checks import CheckFailed
from .command import main, parser
from .markdown import markdown
from .results import Measured, Result, Row, environment

NAME = "sharded_data"
BAD_EVERY = 100
"""One sample in so many is no image."""
PATIENCE = 600
"""Seconds without a step after which a run counts as hanging."""
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["hrt_mm.train.loop", "hrt_mm.config"])


@dataclass(frozen=True)
class Corpus:
    """Shards of images.

    Args:
        pattern: of their paths.
        names: by shard, those of the samples that can be read, in order.
        bad: names of samples that are no images.
        broken: names of shards.
    """

    pattern: str
    names: list[list[str]]
    bad: set[str]
    broken: set[str]

    @property
    def rows(self) -> Counter[tuple[int, int]]:
        """Shard and row of each sample that can be read."""
        return Counter((shard, row) for shard, names in enumerate(self.names) for row in range(len(names)))


def write_corpus(folder: Path, samples: int, per_shard: int) -> Corpus:
    """Writes shards, of which the third is cut in the middle and the sixth is missing."""
    folder.mkdir()
    pictures = []
    for number in range(64):
        pixels, buffer = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8), io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png")
        pictures.append(buffer.getvalue())
    # A sample is a header and a block for each of its two members.
    writer = ShardWriter(folder, "train", per_shard * 4 * 512)
    bad = set[str]()
    for number in range(samples):
        picture = pictures[number % len(pictures)]
        if number % BAD_EVERY == BAD_EVERY // 3:
            bad.add(f"{number:08}")
            picture = picture[: len(picture) // 2]
        writer.add({"png": picture, "cls": b"ab"[number % 2 : number % 2 + 1]})
    writer.close()
    shards = sorted(folder.iterdir())
    cut = shards[2].stat().st_size * 6 // 10
    names = []
    for index, shard in enumerate(shards):
        ends: dict[str, int] = {}
        with tarfile.open(shard) as archive:
            for member in archive:
                ends[member.name.partition(".")[0]] = member.offset_data + member.size
        names.append([] if index == 5 else [name for name, end in ends.items() if index != 2 or end <= cut])
    with shards[2].open("r+b") as file:
        file.truncate(cut)
    shards[5].unlink()
    pattern = f"{folder}/train-{{000000..{len(shards) - 1:06}}}.tar"
    return Corpus(pattern, names, bad, {shards[2].name, shards[5].name})


class Recorder(Callback):
    """Writes what each step read, one line of JSON a step.

    Args:
        file: of this rank.
        halt: step after which the run waits to be killed; never if ``None``.
    """

    def __init__(self, file: Path, halt: int | None) -> None:
        self.file, self.halt = file, halt
        self.loaded: list[Any] = []

    def on_start(self, run: Any) -> None:
        run.stream._loaded = self._recorded(run.stream._loaded)

    def _recorded(self, batches: Iterator[Any]) -> Iterator[Any]:
        for loaded in batches:
            self.loaded.append(loaded)
            yield loaded

    def on_step(self, run: Any) -> None:
        line = {
            "step": run.state.step,
            "read": [
                [epoch, *shard_and_row(index)]
                for loaded in self.loaded
                for epoch, index in zip(loaded.plan.epochs, loaded.plan.indices, strict=True)
            ],
            "good": sum(len(loaded.batch) for loaded in self.loaded),
            "bad": [sample.name for loaded in self.loaded for sample in loaded.bad],
        }
        self.loaded = []
        with self.file.open("a") as file:
            print(json.dumps(line), file=file)
        while self.halt == run.state.step:
            time.sleep(0.05)


def _rank(folder: Path, words: Sequence[str], halt: int | None, environment: dict[str, str]) -> None:
    os.setpgrp()
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    recorder = Recorder(folder / f"read-{environment['RANK']}.jsonl", halt)
    train(load_config(folder / "config.json", [f"run.dir={folder / 'run'}", *words]), resume=True, callbacks=[recorder])


def run_ranks(folder: Path, world_size: int, words: Sequence[str], halt: int | None = None) -> None:
    """Trains on several ranks until the end, or until all processes are killed after step ``halt``.

    Raises:
        CheckFailed: a rank fails, or hangs.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = []
    for rank in range(world_size):
        variables = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        ranks.append(_processes.Process(target=_rank, args=(folder, words, halt, variables)))
        ranks[-1].start()
    if halt is not None:
        _wait_for_step(folder / "read-0.jsonl", halt, ranks)
        for process in ranks:
            # The workers are of its group.
            os.killpg(process.pid or 0, signal.SIGKILL)
    for process in ranks:
        process.join(PATIENCE)
    expected = 0 if halt is None else -signal.SIGKILL
    if any(process.exitcode != expected for process in ranks):
        raise CheckFailed(f"{world_size} ranks ended with {[process.exitcode for process in ranks]}")


def _wait_for_step(file: Path, step: int, ranks: Sequence[Any]) -> None:
    patience = time.monotonic() + PATIENCE
    while not (file.exists() and len(file.read_text().splitlines()) >= step):
        if time.monotonic() > patience or any(process.exitcode is not None for process in ranks):
            raise CheckFailed(f"the run did not reach step {step}")
        time.sleep(0.05)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """What all ranks wrote."""
    files = sorted(folder.glob("read-*.jsonl"))
    return [json.loads(text) for file in files for text in file.read_text().splitlines()]


def counted(corpus: Corpus, lines: Sequence[dict[str, Any]], folder: Path) -> dict[str, int]:
    """Compares what was read in the first epoch with what there is.

    Raises:
        CheckFailed: a sample was read twice or not at all, or a bad sample or a broken shard was not named.
    """
    read = Counter((shard, row) for line in lines for epoch, shard, row in line["read"] if epoch == 0)
    if read != corpus.rows:
        twice, missing = sum((read - corpus.rows).values()), sum((corpus.rows - read).values())
        raise CheckFailed(f"{folder.name}: {twice} samples were read twice, and {missing} were not read")
    named = {Path(name).stem for line in lines for name in line["bad"]}
    readable = {name for names in corpus.names for name in names}
    if named != corpus.bad & readable:
        raise CheckFailed(f"{folder.name}: bad samples were not named: {sorted(named ^ (corpus.bad & readable))[:5]}")
    asked = sum(len(line["read"]) for line in lines)
    if asked != sum(line["good"] + len(line["bad"]) for line in lines):
        raise CheckFailed(f"{folder.name}: some samples were neither used nor named")
    summary = json.loads((folder / "run" / "summary.json").read_text())["bad_samples"]["train"]
    if set(summary["shards"]) != corpus.broken:
        raise CheckFailed(f"{folder.name}: broken shards were not named: {summary['shards']}")
    return {"read once": len(read), "bad": len(named), "broken shards": len(summary["shards"])}


def check_streams(folder: Path, samples: int, per_shard: int, batch: int) -> list[Row]:
    """Trains, kills, resumes and compares.

    Args:
        folder: for shards and runs.
        samples: of the corpus.
        per_shard: samples per shard.
        batch: samples per batch.

    Raises:
        CheckFailed: see :func:`counted`; or the losses depend on the number of ranks.
    """
    corpus = write_corpus(folder / "shards", samples, per_shard)
    epoch = samples // batch
    # Until the reader with most shards has read them all.
    steps = -(-len(corpus.names) // READERS) * per_shard * READERS // batch + 2
    config = {
        "modality": {"type": "vision", "patch": 2},
        "model": {"levels": [{"name": "all", "dim": 8, "depth": 1, "heads": 2}]},
        "task": {"type": "classification"},
        "data": {"type": "webdataset", "shards": corpus.pattern, "streaming": True, "classes": ["a", "b"]},
        "train": {
            "steps": steps, "batch_size": batch, "workers": 2, "eval_every": None, "test": False,
            "log_every": 1, "save_every": max(1, epoch // 10), "max_bad_share": 0.2, "tensorboard": False,
            "num_threads": 1, "device": "cpu",
        },
    }  # fmt: skip
    killed = folder / "killed"
    killed.mkdir()
    (killed / "config.json").write_text(json.dumps(config))
    run_ranks(killed, 2, (), halt=epoch // 2 + 1)
    rows, losses = [], []
    for world_size in (1, 4):
        resumed = folder / f"resumed-{world_size}"
        shutil.copytree(killed, resumed)
        first = [json.loads(line) for line in (resumed / "run" / "metrics.jsonl").read_text().splitlines()]
        run_ranks(resumed, world_size, ())
        # Steps after the last checkpoint were lost with the kill, and done again.
        lines = lines_of(resumed)
        before = lines_of(killed)
        after = lines[:]
        for line in before:
            after.remove(line)
        saved = min(line["step"] for line in after) - 1
        together = [line for line in before if line["step"] <= saved] + after
        counts = counted(corpus, together, resumed)
        sizes: dict[str, int | float | str] = {
            "samples": samples, "shards": len(corpus.names), "ranks": f"2, then {world_size}", "workers": 2,
            "killed after step": len(first), "resumed from step": saved,
        }  # fmt: skip
        scores: dict[str, float | None] = {name: float(value) for name, value in counts.items()}
        rows.append(Row(sizes=sizes, contenders={"stream": Measured(seconds=None, scores=scores)}, ratios={}))
        logged = [json.loads(line) for line in (resumed / "run" / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["train/loss"] for line in logged])
    largest = max(abs(a - b) for a, b in zip(*losses, strict=True))
    if not largest < 1e-4:
        raise CheckFailed(f"losses on 1 and on 4 ranks differ by {largest:.1e}")
    return rows


def token_spread(samples: int, world_size: int, window: int | None, tokens: int) -> dict[str, float]:
    """How equal the shares of ranks are, for log-normal lengths of 16 to 1,024 tokens.

    Returns:
        Mean and largest ``max / mean`` of tokens over ranks, the mean fill of batches, and the mean spread of lengths
        within a batch (largest over smallest).
    """
    generator = random.Random(0)
    sizes = [min(1024, max(16, int(generator.lognormvariate(5, 0.8)))) for _ in range(samples)]
    batches = Sampler(samples, seed=0, batch_tokens=tokens, sizes=sizes, bucket_window=window).batches(0)
    spreads, fills, widths = [], [], []
    for batch in batches:
        of_rank = [sum(sizes[index] for index in share) for share in shares(batch, sizes, world_size)]
        spreads.append(max(of_rank) * world_size / sum(of_rank))
        fills.append(sum(of_rank) / tokens)
        widths.append(max(sizes[index] for index in batch) / min(sizes[index] for index in batch))
    return {
        "mean": sum(spreads) / len(spreads),
        "largest": max(spreads),
        "fill": sum(fills) / len(fills),
        "longest/shortest": sum(widths) / len(widths),
    }


def run(options: argparse.Namespace) -> Result:
    """Checks streams, then measures the shares of batches by tokens."""
    samples, per_shard, batch = (480, 24, 24) if options.quick else (50_000, 500, 250)
    with TemporaryDirectory() as folder:
        rows = check_streams(Path(folder), samples, per_shard, batch)
    for world_size in (2, 4, 8):
        for window in (None, 4096):
            spread: dict[str, float | None] = dict(token_spread(samples, world_size, window, 32768))
            sizes: dict[str, int | float | str] = {
                "samples": samples, "batch_tokens": 32768, "ranks": world_size, "bucket_window": window or "none",
            }  # fmt: skip
            rows.append(Row(sizes=sizes, contenders={"tokens": Measured(seconds=None, scores=spread)}, ratios={}))
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"bad every": BAD_EVERY, "batch_size": batch},
        checks={},
        rows=rows,
        **environment(options.device),
    )


def tables(result: Result) -> str:
    """The result as Markdown."""
    parts = []
    for kind in ("stream", "tokens"):
        rows = [row for row in result.rows if kind in row.contenders]
        scores = rows[0].contenders[kind].scores
        digits = 0 if kind == "stream" else 3
        body = [
            [
                *(f"{size:,}" if isinstance(size, int) else str(size) for size in row.sizes.values()),
                *(f"{score or 0:,.{digits}f}" for score in row.contenders[kind].scores.values()),
            ]
            for row in rows
        ]
        parts.append(markdown([*rows[0].sizes, *scores], body))
    return "\n\n".join(parts)


if __name__ == "__main__":
    raise SystemExit(main(parser(NAME, __doc__ or ""), run, tables))
