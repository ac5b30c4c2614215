"""Vectors of classifiers: means of their coarsest level, as files, splits and queries."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hrt_mm import ConfigError, load_config, load_run, train
from hrt_mm.cli.main import main
from hrt_mm.retrieval import Embedder
from hrt_mm.retrieval.collection import Collection

MODEL = """
modality: {type: vision, channels: 1, patch: 4}
model:
  levels:
    - {name: patches, dim: 16, heads: 2, depth: 1, group: {type: fixed, stride: 2}}
    - {name: image, dim: 24, heads: 2, depth: 1}
task: {type: classification}
data: {type: image_folder, root: ROOT}
train: {steps: 2, batch_size: 4, eval_every: null, test: false, num_threads: 1, precision: fp32}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pooled")
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in "ab":
            (folder / "data" / split / label).mkdir(parents=True)
            for number in range(3):
                pixels = random.integers(0, 256, (16, 16), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "data" / split / label / f"{number}.png")
    (folder / "config.yaml").write_text(MODEL.replace("ROOT", str(folder / "data")))
    train(load_config(str(folder / "config.yaml"), [f"run.dir={folder / 'run'}"]))
    return folder


def test_files_a_split_and_queries_have_the_same_vectors(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted((folder / "data" / "test").rglob("*.png"))
    pooled_ND = torch.nn.functional.normalize(load_run(folder / "run").embed(files), dim=1).numpy()
    run = str(folder / "run")
    assert main(["embed", run, str(folder / "data" / "test"), "--out", str(tmp_path / "files")]) == 0
    assert main(["embed", run, "--split", "test", "--out", str(tmp_path / "split")]) == 0
    assert "6 of vision" in capsys.readouterr().out
    for name in ("files", "split"):
        collection = Collection(tmp_path / name)
        np.testing.assert_allclose(collection.vectors_ND, pooled_ND, atol=1e-5)
        assert {row.tower for row in collection.rows()} == {"vision"}
    assert [row.info["label"] for row in Collection(tmp_path / "split").rows()] == list("aaabbb")
    embedded = Embedder.of(folder / "run", device="cpu").embed([files[0], Image.open(files[1])])
    np.testing.assert_allclose(embedded, pooled_ND[:2], atol=1e-5)
    assert main(["index", "build", str(tmp_path / "index"), str(tmp_path / "files")]) == 0
    capsys.readouterr()
    assert main(["search", str(tmp_path / "index"), "--image", str(files[2]), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert results[0]["id"] == str(files[2]) and results[0]["score"] == pytest.approx(1, abs=1e-3)


def test_the_level_of_the_vectors_is_that_of_pieces(folder: Path, tmp_path: Path) -> None:
    embedder = Embedder.of(folder / "run", device="cpu")
    assert embedder.towers == ("vision",) and list(embedder.levels("vision")) == ["image"]
    outcome = embedder.embed_folder(folder / "data" / "test" / "a", tmp_path / "c", levels=["image"])
    # Four tokens of the coarsest level beside each of three pictures.
    assert outcome.counts == {"vision": 3 + 3 * 4}


def test_what_needs_training_to_compare_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="vectors of width 24 alone"):
        Embedder.of(folder / "run", dim=8)
    assert main(["mine", str(folder / "run"), "--out", str(tmp_path / "n.tsv")]) == 2
    assert "was trained on task classification; this needs task contrastive" in capsys.readouterr().err
