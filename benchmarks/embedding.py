"""Embedding files one by one and in batches, and starting commands, a server and the search page.

The model is that of a packaged configuration after one step, as weights do not change speed. Pictures are PNG files of
noise. Seconds are processor time, of all processes, on one thread each; those of the server's answers too.

- **check**: vectors of batches equal those of single files.
- **commands**: each in a new process, the fastest of several runs. ``import torch`` is the part of PyTorch alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
from PIL import Image

from hrt_mm.config import load_config
from hrt_mm.retrieval import reading
from hrt_mm.retrieval.collecting import embed_files
from hrt_mm.retrieval.collection import Collection
from hrt_mm.retrieval.embed import Embedder
from hrt_mm.retrieval.index import Index
from hrt_mm.train.loop import train

from .checks import CheckFailed
from .command import main, parser, positive
from .markdown import markdown
from .results import Measured, Result, Row, environment

NAME = "embedding"
CONFIG = "retrieval/glyphs"
TOLERANCE = 1e-4
ANSWERS = 20


def trained(folder: Path) -> Path:
    """A run of one step."""
    overrides = [f"run.dir={folder / 'run'}", "train.steps=1", "train.eval_every=1", "train.num_threads=1"]
    small = ["data.scripts=[braille]", "train.test=false", "train.batch_size=32", "train.tensorboard=false"]
    return train(load_config(CONFIG, [*overrides, *small]))


def pictures(folder: Path, count: int, side: int) -> list[Path]:
    """PNG files of noise."""
    folder.mkdir()
    pixels_NHW = np.random.default_rng(0).integers(0, 255, (count, side, side), np.uint8)
    for number, pixels_HW in enumerate(pixels_NHW):
        Image.fromarray(pixels_HW).save(folder / f"{number:05}.png")
    return sorted(folder.iterdir())


def embedded(embedder: Embedder, files: Sequence[Path], out: Path, chunk: int) -> tuple[float, np.ndarray]:
    """Processor seconds of a collection written ``chunk`` files at a time, and its vectors."""
    whole = reading.CHUNK
    reading.CHUNK = chunk
    try:
        start = time.process_time()
        embed_files(embedder, "image", files, out)
        return time.process_time() - start, np.array(Collection(out).vectors_ND)
    finally:
        reading.CHUNK = whole


def command_seconds(argv: Sequence[str], repeats: int) -> float:
    """The fewest processor seconds of a command in a new process.

    Raises:
        CheckFailed: the command failed.
    """
    best = float("inf")
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, check=False)
        if done.returncode:
            raise CheckFailed(f"{' '.join(argv)} failed: {done.stderr}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


@contextmanager
def serving(argv: Sequence[str]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server, whose first line names its address: the address and the process."""
    # A page opens in the browser that the environment names.
    environ = {**os.environ, "BROWSER": "true"}
    process = subprocess.Popen([sys.executable, *argv], stdout=subprocess.PIPE, text=True, env=environ)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"http://[\w.:]+", line)
        if address is None:
            raise CheckFailed(f"{' '.join(argv)} printed no address: {line!r}")
        yield address[0], process
    finally:
        process.terminate()
        process.wait()


def processor_seconds(pid: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def answered(address: str) -> None:
    """One search by a server."""
    _post(f"{address}/search", json.dumps({"text": "six dots"}).encode(), "application/json")


def answered_by_page(address: str) -> None:
    """One search by the page."""
    _post(f"{address}/api/search?tower=text", b"six dots", "text/plain")


def _post(url: str, body: bytes, kind: str) -> None:
    with urlopen(Request(url, body, {"Content-Type": kind}), timeout=600) as response:
        response.read()


def starts(index: Path, repeats: int) -> dict[str, Measured]:
    """Commands, and a server and the page until they answer."""
    cli = ["-m", "hrt_mm"]
    commands = {
        "import torch": ["-c", "import torch"],
        "hrt-mm --help": [*cli, "--help"],
        "hrt-mm search --help": [*cli, "search", "--help"],
        "hrt-mm index show": [*cli, "index", "show", str(index)],
        "hrt-mm search": [*cli, "search", str(index), "--text", "six dots"],
    }
    measured = {name: Measured(seconds=command_seconds(argv, repeats)) for name, argv in commands.items()}
    with serving([*cli, "serve", str(index), "--port", "0"]) as (address, process):
        answered(address)
        measured["hrt-mm serve, until the first answer"] = Measured(seconds=processor_seconds(process.pid))
        argv = [*cli, "search", "--server", address, "--text", "six dots"]
        measured["hrt-mm search --server"] = Measured(seconds=command_seconds(argv, repeats))
        before = processor_seconds(process.pid)
        for _ in range(ANSWERS):
            answered(address)
        seconds = (processor_seconds(process.pid) - before) / ANSWERS
        measured["an answer of the server"] = Measured(seconds=seconds)
    with serving(["-m", "demos.search_page", str(index), "--port", "0"]) as (address, process):
        answered_by_page(address)
        measured["search page, until the first answer"] = Measured(seconds=processor_seconds(process.pid))
        before = processor_seconds(process.pid)
        for _ in range(ANSWERS):
            answered_by_page(address)
        seconds = (processor_seconds(process.pid) - before) / ANSWERS
        measured["an answer of the page"] = Measured(seconds=seconds)
    return measured


def run(options: argparse.Namespace) -> Result:
    """Measures.

    Raises:
        CheckFailed: vectors of batches differ from those of single files, or a command failed.
    """
    count = 8 if options.quick else options.files
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        embedder = Embedder.of(trained(folder), device="cpu")
        files = pictures(folder / "pictures", count, options.side)
        embedded(embedder, files[:2], folder / "warm", 2)
        measured, vectors = {}, {}
        for name, chunk in (("one by one", 1), ("batches", reading.CHUNK)):
            seconds, vectors[name] = embedded(embedder, files, folder / name.replace(" ", "-"), chunk)
            measured[name] = Measured(seconds=seconds, scores={"files/s": count / seconds})
        difference = float(np.abs(vectors["one by one"] - vectors["batches"]).max())
        if difference > TOLERANCE:
            raise CheckFailed(f"vectors of batches differ by {difference:g}; {TOLERANCE:g} is allowed")
        ratio = measured["one by one"].seconds, measured["batches"].seconds
        rows = [
            Row(
                sizes={"files": count, "side": options.side, "what": "embedding"},
                contenders=measured,
                ratios={"one by one/batches": float(ratio[0] or 0) / float(ratio[1] or 1)},
            )
        ]
        Index.build(folder / "index", [Collection(folder / "batches")])
        started = starts(folder / "index", 1 if options.quick else options.repeats)
        rows.append(Row(sizes={"what": "start"}, contenders=started, ratios={}))
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"config": CONFIG, "tolerance": TOLERANCE},
        checks={"vectors of batches and of single files": difference},
        rows=rows,
        **environment(options.device),
    )


def tables(result: Result) -> str:
    """The result as Markdown."""
    embedding, start = result.rows
    body = [
        [name, f"{own.seconds or 0:.2f} s", f"{own.scores['files/s'] or 0:,.0f}"]
        for name, own in embedding.contenders.items()
    ]
    sizes = f"{embedding.sizes['files']:,} pictures of {embedding.sizes['side']} x {embedding.sizes['side']}"
    ratio = embedding.ratios["one by one/batches"]
    commands = [[name, f"{own.seconds or 0:.3f} s"] for name, own in start.contenders.items()]
    return "\n\n".join(
        [
            f"{sizes}, processor time; batches are {ratio:.1f} times as fast.",
            markdown(["files", "time", "files/s"], body),
            markdown(["what", "processor time"], commands),
        ]
    )


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--files", type=positive, default=512)
    options.add_argument("--repeats", type=positive, default=3, help="runs of each command")
    options.add_argument("--side", type=positive, default=64, help="of the pictures, in pixels")
    return options


if __name__ == "__main__":
    sys.exit(main(arguments(), run, tables))
