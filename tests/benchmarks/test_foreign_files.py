from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
from PIL import Image

from benchmarks import foreign_files
from benchmarks.foreign_files import Outcome, main, outcome
from tests.modalities.audio.sounds import wave


def test_table_counts_what_is_used_and_what_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "good.png")
    (folder / "bad.png").write_bytes(b"no image")
    soundfile.write(folder / "tone.wav", wave(0.3, 16000)[0], 16000)
    (folder / "notes.txt").write_text("not looked at")
    assert main([str(folder), "--skips"]) == 0
    printed = capsys.readouterr()
    assert "| mixed | audio | 1 | 1 | 0 | 0 | 0 |" in printed.out
    assert "| mixed | image | 2 | 1 | 1 | 0 | 0 |" in printed.out
    assert "bad.png as image: bad.png: not an image that can be read" in printed.err


def test_other_errors_are_crashes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(path: Path) -> str | None:
        raise MemoryError

    monkeypatch.setitem(foreign_files.CHECKS, "image", broken)
    assert outcome("image", tmp_path / "a.png") == Outcome("crashed", "MemoryError: ")
    monkeypatch.setitem(foreign_files.CHECKS, "image", lambda path: "its pixels are others than Pillow's")
    assert outcome("image", tmp_path / "a.png").kind == "wrong"
