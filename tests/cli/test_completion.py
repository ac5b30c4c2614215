"""Shells complete the commands and options that there are."""

from __future__ import annotations

import subprocess

import pytest

from hrt_mm.cli.main import main


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_completion_names_commands_of_the_package_and_of_plug_ins(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("train", "predict", "transcribe", "--resume"):
        assert word in script, word


def test_bash_completes(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    ask = 'COMP_WORDS=(hrt-mm transc); COMP_CWORD=1; _shtab_hrt_mm; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True)
    assert done.stdout.split() == ["transcribe"], done.stderr
