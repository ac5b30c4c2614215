"""Texts that no one wants, through training and through ``hrt-mm generate``: each works, or is named and left out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hrt_mm.cli.main import main
from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.errors import ConfigError
from hrt_mm.train.loop import train

MIXED = (
    "abc \u05d0\u05d1\u05d2 123 \u202e\u05e2\u05d1\u05e8\u202c English \u0639\u0631\u0628 \u2067\u05e0\u05e1\u2069. "
)
ODD = {
    "invalid UTF-8": b"caf\xe9 \xff\xfe\xc3( word " * 40,
    "NUL bytes": b"a\x00b \x00\x00 c. " * 40,
    "mixed directions": (MIXED * 12).encode(),
    "one word of 1 MB": b"x" * 1_000_000,
    "10 MB": b"All work and no play. " * 460_000,
}


def settings(folder: Path, data: str, *overrides: str, task: str, group: str, causal: bool) -> RunConfig:
    file = folder / "run.yaml"
    fine = f"{{name: fine, dim: 8, depth: 1, heads: 2, window: 4, window_type: sliding, group: {group}}}"
    way = "causal: true, top_down: true" if causal else "top_down: false"
    file.write_text(
        f"""
modality: {{type: text}}
model: {{levels: [{fine}, {{name: coarse, dim: 8, depth: 1, heads: 2, window: 16, window_type: sliding}}], {way}}}
task: {task}
data: {data}
optim: {{warmup_steps: 1}}
train: {{steps: 2, batch_size: 2, eval_every: null, test: false, tensorboard: false, precision: fp32, num_threads: 1}}
run: {{dir: {folder}/run}}
"""
    )
    return load_config(file, overrides)


def raw(name: str) -> str:
    """Whether a text must be taken as bytes of any kind."""
    return "true" if name == "NUL bytes" else "false"


def summary(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "run" / "summary.json").read_text())
    return result


@pytest.mark.parametrize("group", ["{type: given, boundary: spaces, max: 8}", "{type: learned, target: 4, max: 8}"])
@pytest.mark.parametrize("name", ODD)
def test_a_language_model_trains_on_it(name: str, group: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(ODD[name])
    (tmp_path / "b.txt").write_bytes(b"")
    files = f"[{tmp_path}/a.txt, {tmp_path}/b.txt]"
    data = f"{{type: corpus, files: {files}, val: null, test: null, context: 64, raw_bytes: {raw(name)}}}"
    train(settings(tmp_path, data, task="{type: language}", group=group, causal=True))
    assert summary(tmp_path)["samples"] == 4
    assert summary(tmp_path)["bad_samples"]["train"]["bad"] == 0


@pytest.mark.parametrize("name", [name for name in ODD if name != "10 MB"])
def test_documents_are_classified(name: str, tmp_path: Path) -> None:
    for label, content in (("a", ODD[name]), ("b", b"plain words")):
        (tmp_path / "data" / "train" / label).mkdir(parents=True)
        (tmp_path / "data" / "train" / label / "1.txt").write_bytes(content)
    task, group = "{type: classification, level: coarse}", "{type: given, boundary: words, max: 8}"
    data = f"{{type: documents, root: {tmp_path}/data, raw_bytes: {raw(name)}}}"
    train(settings(tmp_path, data, "train.steps=1", task=task, group=group, causal=False))
    assert summary(tmp_path)["bad_samples"]["train"]["bad"] == 0


def test_what_cannot_be_used_is_skipped_counted_and_named(tmp_path: Path) -> None:
    rows = [{"text": f"text {index}", "label": "ab"[index % 2], "split": "train"} for index in range(12)]
    rows[3]["text"], rows[4]["text"], rows[5]["text"] = "", "a lone \ud800 surrogate", "long " * 2_000_000
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = f"{{type: documents, file: {tmp_path}/rows.jsonl, split_by: hash, val: 0.01}}"
    more = ["train.max_bad_share=0.5", "train.steps=6", "modality.max_bytes=1000000"]
    task, group = "{type: classification, level: coarse}", "{type: given, boundary: sentences, max: 8}"
    train(settings(tmp_path, data, *more, task=task, group=group, causal=False))
    assert summary(tmp_path)["bad_samples"]["train"]["bad"] == 3
    reasons = " ".join(summary(tmp_path)["bad_samples"]["train"]["names"].values())
    for reason in ("is empty", "has a lone surrogate", "has 10,000,000 bytes, more than modality.max_bytes 1,000,000"):
        assert reason in reasons


def test_a_file_of_subwords_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text " * 50)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model": "no"}')
    data = f"{{type: corpus, files: [{tmp_path}/a.txt], val: null, test: null}}"
    subwords = f"modality.subwords={tmp_path}/tokenizer.json"
    config = settings(tmp_path, data, subwords, task="{type: language}", group="{type: fixed, stride: 4}", causal=True)
    with pytest.raises(ConfigError, match=r"tokenizer.json is no tokenizer.json .*hrt-mm text subwords"):
        train(config)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("odd")
    (home / "a.txt").write_bytes(b"some text " * 50)
    data = f"{{type: corpus, files: [{home}/a.txt], val: null, test: null, context: 64}}"
    group = "{type: given, boundary: spaces, max: 8}"
    return train(settings(home, data, task="{type: language}", group=group, causal=True))


@pytest.mark.parametrize("name", [name for name in ODD if name != "10 MB"])
def test_a_prompt_is_continued(
    name: str, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "prompt").write_bytes(ODD[name])
    assert main(["generate", str(run_folder), "--file", str(tmp_path / "prompt"), "--max-tokens", "3"]) == 0
    shown = ODD[name].decode("utf-8", "replace")
    assert capsys.readouterr().out.startswith(shown)
    # All of them are longer than the texts of training, which works and is said.
    assert "more than the 64 of the texts that the model was trained on" in caplog.text


def test_an_empty_prompt_starts_a_document(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt").write_bytes(b"")
    assert main(["generate", str(run_folder), "--file", str(tmp_path / "prompt"), "--max-tokens", "3"]) == 0


def test_prompts_that_cannot_be_are_named(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompt").write_bytes(ODD["10 MB"])
    words = ["generate", str(run_folder), "--file", str(tmp_path / "prompt"), "modality.max_bytes=1000000"]
    assert main(words) == 2
    assert "has 10,120,000 bytes, more than modality.max_bytes 1,000,000" in capsys.readouterr().err
    assert main(["generate", str(run_folder), "--prompt", "a\ud800"]) == 2
    assert "lone surrogate" in capsys.readouterr().err


def test_bytes_of_the_command_line_are_taken_as_they_are(run_folder: Path) -> None:
    words: list[str | bytes] = [sys.executable, "-m", "hrt_mm", "generate", str(run_folder), "--max-tokens", "3"]
    words += ["--prompt", b"a\xff"]
    done = subprocess.run(words, capture_output=True, check=True)
    assert done.stdout.decode().startswith("a\ufffd")
