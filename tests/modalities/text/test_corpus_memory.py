"""A corpus that is larger than what is read of it: the memory of the process does not grow with it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hrt_modalities.text import ByteTokenizer
from hrt_modalities.text.corpus import CorpusConfig
from tests.processes import forkserver

STATM = Path("/proc/self/statm")
MB = 1 << 20
pytestmark = pytest.mark.skipif(not STATM.exists(), reason="the memory of the process is read from /proc")


def resident() -> int:
    """Bytes that the process holds in memory."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def fresh(function: Callable[..., int], *arguments: object) -> int:
    """Calls a function in a new process: one that ran other tests reuses what they freed, and may not grow at all."""
    with forkserver.Pool(1) as pool:
        return pool.apply(function, arguments)


def held_by_a_buffer(size: int) -> int:
    """Bytes by which the process grows with a buffer of ``size`` bytes."""
    before = resident()
    buffer = bytearray(os.urandom(MB)) * (size // MB)
    return resident() - before if buffer else 0


def test_the_measure_sees_what_is_held() -> None:
    assert 60 * MB < fresh(held_by_a_buffer, 64 * MB) < 70 * MB


def sampled(config: CorpusConfig, size: int) -> int:
    """Bytes by which the process grew at most, while it opened a corpus and read 1000 windows of it."""
    ByteTokenizer()([b"warm"])
    before = most = resident()
    corpus = config.build("train")
    assert corpus.total > size
    tokens = 0
    for number, index in enumerate(torch.linspace(0, len(corpus) - 1, 1000).long().tolist()):
        tokens += len(ByteTokenizer()([corpus[index].value]).x)
        if number % 20 == 0:
            most = max(most, resident())
    assert tokens == 1000 * config.context
    return most - before


def test_a_file_of_200_mb(tmp_path: Path) -> None:
    """It takes no room on the disk, but for a text here and there."""
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(200 * MB)
        for index in range(0, 200, 20):
            file.seek(index * MB)
            file.write(b"some text " * 1000)
    config = CorpusConfig(type="corpus", files=(tmp_path / "large.txt",), val=None, test=None, raw_bytes=True)
    assert fresh(sampled, config, 200 * MB) < 24 * MB
    assert b"some text" in config.build("train")[0].value.content


def test_lines_of_json_of_40_mb(tmp_path: Path) -> None:
    line = json.dumps({"text": "words of a document " * 500}) + "\n"
    with (tmp_path / "large.jsonl").open("w") as file:
        for _ in range(4200):
            file.write(line)
    config = CorpusConfig(type="corpus", files=(tmp_path / "large.jsonl",), val=None, test=None, context=2048)
    assert fresh(sampled, config, 40 * MB) < 24 * MB
