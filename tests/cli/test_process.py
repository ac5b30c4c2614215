from __future__ import annotations

import io
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from hrt_mm.cli.main import main
from hrt_mm.cli.process import as_process, ending_on_sigterm, printable_output
from hrt_mm.config import load_config
from hrt_mm.core.errors import Stopped
from hrt_mm.tasks.batch import Batch
from hrt_mm.train.run import Run
from hrt_mm.train.store import CheckpointStore

SMALL = """\
modality: {type: vision, channels: 1, patch: 4}
model: {levels: [{name: image, dim: 16, heads: 2, depth: 1}]}
task: {type: classification}
data: {type: digits}
train: {steps: 3, batch_size: 8, eval_batches: 1, tensorboard: false, num_threads: 1}
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_exits_with_the_code_of_its_signal_once_it_is_saved(
    number: signal.Signals,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    command = ["train", str(tmp_path / "small.yaml"), f"run.dir={tmp_path / 'run'}"]
    count_step = Run.count_step

    def stop(self: Run, batches: Sequence[Batch], values: dict[str, float]) -> None:
        count_step(self, batches, values)
        signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "count_step", stop)
        assert main(command) == code
    assert f"stopped by {number.name} at step 1; resume (--resume)" in capsys.readouterr().err
    assert CheckpointStore(tmp_path / "run").steps() == [1]
    assert main([*command, "--resume"]) == 0


def test_a_time_limit_is_a_normal_end(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    options = [f"run.dir={tmp_path / 'run'}", "train.steps=100000", "train.time_limit=0.0001"]
    assert main(["train", str(tmp_path / "small.yaml"), *options]) == 0
    assert (tmp_path / "run" / "summary.json").exists()


def test_sigterm_ends_other_commands_too_and_what_is_temporary_goes() -> None:
    cleared = []

    def command() -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            cleared.append(True)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    assert as_process(command) == 143
    assert cleared
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_stop_that_no_one_catches_ends_the_process_with_its_code() -> None:
    with pytest.raises(SystemExit) as caught, ending_on_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 143
    assert str(caught.value) == "stopped by SIGTERM"
    assert isinstance(caught.value, Stopped)


@pytest.mark.parametrize(
    ("encoding", "text", "shown"),
    [
        ("ascii", "Löwe → 猫", "L?we -> ?"),
        ("cp1252", "Löwe → 猫", "Löwe -> ?"),
        ("utf-8", "a\udce9b 猫", "a\\udce9b 猫"),
    ],
)
def test_what_an_encoding_lacks_is_replaced(
    encoding: str, text: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
    printable_output()
    print(text, end="", flush=True)
    assert raw.getvalue().decode(encoding) == shown


def test_an_error_handler_of_the_users_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii", "xmlcharrefreplace"))
    printable_output()
    print("→", end="", flush=True)
    assert raw.getvalue() == b"&#8594;"


COMMANDS = [
    ["--help"],
    ["train", "--help"],
    ["modalities"],
    ["describe", "{config}"],
    ["config", "show", "{config}"],
    ["config", "validate", "{config}"],
    ["doctor"],
    ["config", "validate", "nowhere-→.yaml"],
]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_configuration_is_printed_so_that_it_loads_again(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding))
    assert main(["config", "show", str(tmp_path / "small.yaml"), "run.dir=naïve/猫"]) == 0
    sys.stdout.flush()
    (tmp_path / "again.yaml").write_bytes(out.getvalue())
    assert load_config(tmp_path / "again.yaml").run.dir == Path("naïve/猫")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_commands_print_on_any_terminal(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "naïve-→.yaml"
    config.write_text(SMALL, encoding="utf-8")
    out, err = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(err, encoding))
    for command in COMMANDS:
        try:
            code: object = main([part.replace("{config}", str(config)) for part in command])
        except SystemExit as end:
            code = end.code
        assert code == (2 if "nowhere" in command[-1] else 0), command
    sys.stdout.flush()
    sys.stderr.flush()
    shown = out.getvalue().decode(encoding)
    assert f"na{'ï' if encoding == 'cp1252' else '?'}ve-->.yaml: ok" in shown
    assert "----" in shown, "the line of the table"
    assert "nowhere-->.yaml" in err.getvalue().decode(encoding)
