"""A wheel of the tree is complete: it trains from an empty folder, with the sources out of sight."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the tree, unpacked as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_has_everything_and_nothing_else(unpacked: Path) -> None:
    assert {path.name.partition("-")[0] for path in unpacked.iterdir()} == {"hrt_mm", "hrt_modalities"}
    assert (unpacked / "hrt_mm" / "py.typed").is_file()
    assert (unpacked / "hrt_modalities" / "py.typed").is_file()
    configs = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.*")}
    assert {
        path.relative_to(unpacked / "hrt_mm/_configs") for path in (unpacked / "hrt_mm/_configs").rglob("*.*")
    } == configs
    assert list(unpacked.glob("*.dist-info/licenses/LICENSE"))


def test_it_trains_from_an_empty_folder(unpacked: Path, tmp_path: Path) -> None:
    # Without the site module the .pth file of an editable installation is not read: the tree is not on the path.
    paths = [str(unpacked), *(path for path in sys.path if path.endswith(("site-packages", "dist-packages")))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    start = [sys.executable, "-S", "-c"]
    where = subprocess.run(
        [*start, "import hrt_mm; print(hrt_mm.__file__)"], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert where.stdout.startswith(str(unpacked)), where.stderr
    train = "import sys; from hrt_mm.cli.main import main; sys.exit(main())"
    command = [*start, train, "train", "vision/digits", "train.steps=2", "run.dir=out"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "test/accuracy" in json.loads((tmp_path / "out" / "summary.json").read_text())["metrics"]
