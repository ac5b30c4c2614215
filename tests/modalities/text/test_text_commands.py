from __future__ import annotations

import json
from pathlib import Path

import pytest

from hrt_mm.cli.main import main
from hrt_modalities.text import TextConfig
from hrt_modalities.text.commands import _texts
from hrt_modalities.text.corpus import documents
from hrt_modalities.text.subwords import SubwordTokenizer


def failure(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["text", "subwords", *argv]) == 2
    out, err = capsys.readouterr()
    assert not out and "Traceback" not in err
    return err


def test_subwords_are_learnt_from_files_folders_and_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d").mkdir()
    for index in range(3):
        (tmp_path / "d" / f"{index}.txt").write_bytes("größer und größer\n".encode() * 50 + b"\xff")
    (tmp_path / "d" / "other.md").write_text("zzzz " * 500)
    (tmp_path / "lines.jsonl").write_text(json.dumps({"body": "größer und größer " * 50}) + "\n")
    out = tmp_path / "t.json"
    folder = [str(tmp_path / "d"), "--suffix", ".txt"]
    for files in (folder, [str(tmp_path / "d" / "0.txt")], [str(tmp_path / "lines.jsonl"), "--text-key", "body"]):
        assert main(["text", "subwords", *files, "--out", str(out), "--vocabulary", "300", "--force"]) == 0
        assert f"{out}: " in capsys.readouterr().out
        tokenizer = TextConfig(type="text", subwords=out).build()
        assert isinstance(tokenizer, SubwordTokenizer)
        pieces = {tokenizer.raw(token) for token in range(tokenizer.vocabulary)}
        assert " größer".encode() in pieces and b"zz" not in pieces


def test_a_large_file_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrt_modalities.text.commands._PIECE", 64)
    file = tmp_path / "a.txt"
    file.write_text("".join(f"line {index} of größe\n" for index in range(200)) + "y" * 500)
    assert main(["text", "subwords", str(file), "--out", str(tmp_path / "t.json"), "--vocabulary", "290"]) == 0
    tokenizer = SubwordTokenizer(tmp_path / "t.json")
    assert " größe".encode() in {tokenizer.raw(token) for token in range(tokenizer.vocabulary)}


def test_mistakes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "t.json"
    assert "nowhere: no such file or folder" in failure(capsys, str(tmp_path / "nowhere"), "--out", str(out))
    (tmp_path / "a.txt").write_text("abab" * 100)
    file = str(tmp_path / "a.txt")
    assert "has no room beside 256 bytes" in failure(capsys, file, "--out", str(out), "--vocabulary", "200")
    assert not out.exists()
    out.write_text("mine")
    assert f"{out} is there already" in failure(capsys, file, "--out", str(out))
    assert out.read_text() == "mine"


def test_pieces_of_a_large_file_cut_no_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrt_modalities.text.commands._PIECE", 64)
    text = "人工智能是研究和开发用于模拟延伸和扩展人的智能的理论a" * 40
    (tmp_path / "a.txt").write_text(text)
    assert "".join(pieces := list(_texts(documents([tmp_path / "a.txt"])))) == text and len(pieces) > 40
