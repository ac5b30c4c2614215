from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from hrt_mm.cli.main import main, parse
from hrt_mm.config import load_config, packaged_configs
from hrt_mm.train import loop

SMALL = """\
# A run that is over at once.
modality: {type: vision, channels: 1, patch: 4}
model: {levels: [{name: image, dim: 16, heads: 2, depth: 1}]}
task: {type: classification}
data: {type: digits}
train: {steps: 2, batch_size: 8, eval_batches: 1}
"""


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return str(path)


def failure(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What a command line that ends with 2 says."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert not out
    assert "Traceback" not in err
    assert err.startswith("error: ")
    return err


def test_show_prints_what_loads_again(small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", small, "optim.lr=1e-5"]) == 0
    (tmp_path / "resolved.yaml").write_text(capsys.readouterr().out)
    assert load_config(tmp_path / "resolved.yaml") == load_config(small, ["optim.lr=1e-5"])


def test_validate_says_ok_or_why_not(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "validate", small]) == 0
    assert capsys.readouterr().out.startswith(f"{small}: ok (1,295 train, 143 val, 359 test samples")
    assert "task.levle: unknown key; did you mean 'level'?" in failure(
        capsys, "config", "validate", small, "task.levle=image"
    )
    assert "unknown level 'words'; one of image" in failure(capsys, "config", "validate", small, "task.level=words")


def test_a_wrong_name_is_one_line_and_lists_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    name = packaged_configs()[0]
    message = failure(capsys, "train", name[:-1])
    assert f"did you mean {name!r}?" in message
    assert message.count("\n") == 1


def test_traceback_on_request(small: str) -> None:
    with pytest.raises(ValueError, match="unknown key"):
        main(["config", "show", small, "modell.x=1", "--traceback"])


@pytest.mark.parametrize(
    ("given", "split"), [("val", "val"), ("dev", "val"), ("Validation", "val"), ("held-out", "held-out")]
)
def test_splits_go_by_their_usual_names(given: str, split: str) -> None:
    assert parse(["eval", "runs/digits", "--split", given]).split == split
    assert parse(["data", "show", "vision/digits", "--split", given]).split == split


def test_overrides_may_stand_after_options() -> None:
    args = parse(["train", "vision/digits", "a.b=1", "--resume", "c.d=2"])
    assert args.resume
    assert args.overrides == ["a.b=1", "c.d=2"]


@pytest.mark.parametrize("argv", [["train"], ["train", "x", "--rsume"], ["doctor", "extra"], ["nonsense"], []])
def test_wrong_usage_ends_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(argv)
    assert caught.value.code == 2
    assert "usage: hrt-mm" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (ValueError("odd"), 2, "error: odd (--traceback shows where)\n"),
        (OSError(28, "No space left on device", "x"), 2, "No space left on device"),
    ],
)
def test_errors_become_exit_codes(
    error: BaseException,
    code: int,
    reason: str,
    small: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(loop, "train", fail)
    assert main(["train", small]) == code
    assert reason in capsys.readouterr().err


def test_our_own_mistakes_keep_their_traceback(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise AssertionError

    monkeypatch.setattr(loop, "train", fail)
    with pytest.raises(AssertionError):
        main(["train", small])


def test_help_lists_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "modalities: audio, text, video, vision;" in out
    assert "vision/digits" in out and "transcribe" in out
    assert re.search(r"\n +data +show, listops, pathfinder\n", out)
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "tasks:" not in capsys.readouterr().out, "the options of a command do not scroll away"


def test_commands_of_modalities_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["--help"], ["text", "--help"]):
        with pytest.raises(SystemExit):
            parse(argv)
        assert "subwords" in capsys.readouterr().out


def test_a_text_may_begin_with_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    args = parse(["search", "index", "--text", "-foo", "--json"])
    assert (args.text, args.json) == (["-foo"], True)
    assert parse(["generate", "run", "--prompt", "--x", "--stop", "-", "--stop", "\n"]).stop == ["-", "\n"]
    with pytest.raises(SystemExit):
        parse(["search", "index", "--text", "--json"])
    assert "--text=-1" in capsys.readouterr().err


def test_home_is_found_in_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse(["embed", "~/run", "~/a", "--out=~/x"]).out == tmp_path / "x"
    assert parse(["embed", "~/run", "~/a", "--out=~/x"]).files == [tmp_path / "a"]


def test_modalities_lists_them_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["modalities"]) == 0
    out = capsys.readouterr().out
    assert "vision (hrt-mm " in out
    for name in ("digits", "classification", "haar"):
        (line,) = [line for line in out.splitlines() if line.split()[1:2] == [name]]
        assert len(line.split()) > 4, "a summary follows the name"


def test_schema_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema", "--builtin"]) == 0
    assert "VisionConfig" in json.loads(capsys.readouterr().out)["$defs"]


def test_doctor_prints_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if line.startswith("torch ")] == [["torch", version("torch")]]
    attention = [line.split()[1] for line in lines if line.startswith("attention ")]
    assert attention == ["float32:", "bfloat16:"]


def test_describe_prints_every_level(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", small]) == 0
    assert "image" in capsys.readouterr().out


def test_a_closed_pipe_is_no_error() -> None:
    reader = subprocess.run(
        f"set -o pipefail; '{sys.executable}' -m hrt_mm config schema | true",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
    )
    assert (reader.returncode, reader.stderr) == (0, "")


def test_train_eval_and_diagnose_from_the_shell(small: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for argv in (["train", small, f"run.dir={folder}"], ["eval", str(folder), "--json"], ["diagnose", str(folder)]):
        done = subprocess.run([sys.executable, "-m", "hrt_mm", *argv], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        if argv[0] == "eval":
            assert 0 <= json.loads(done.stdout)["test/accuracy"] <= 1
    assert "test/accuracy" in json.loads((folder / "summary.json").read_text())["metrics"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train"], "arguments are required: CONFIG\n"),
        (["data", "show"], "arguments are required: CONFIG\n"),
        (["train", "vision/digits", "--resmue"], "usage: hrt-mm train .*unrecognized arguments: --resmue"),
        (["config", "show", "x", "--resmue"], "usage: hrt-mm config show .*unrecognized arguments: --resmue"),
    ],
)
def test_mistakes_in_arguments_show_the_usage_of_the_command(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    assert re.search(message, capsys.readouterr().err, re.DOTALL)


def test_a_run_folder_is_told_from_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("extends: vision/digits")
    assert main(["describe", str(tmp_path)]) == 2
    assert f"{tmp_path} is a run folder, not a configuration" in capsys.readouterr().err


def test_times_are_explained_by_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "vision/digits", "train.time_limit=-1"]) == 2
    assert "expected a number above 0, or text such as 90s, 10m, 1.5h, or null" in capsys.readouterr().err
