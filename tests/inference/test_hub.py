"""Runs, encoders and hierarchies as folders and repositories of the Hugging Face Hub; without a network."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from hrt_mm import ConfigError, Hierarchy, UserError, create_model, load_config, load_run, train
from hrt_mm.cli.main import main
from hrt_mm.data.hub import resolve
from hrt_mm.inference import PretrainedEncoder, TrainedRun, from_pretrained, push_to_hub, save_pretrained
from hrt_mm.retrieval import Index

huggingface_hub = pytest.importorskip("huggingface_hub")

SMALL = ["train.steps=2", "train.batch_size=8", "train.eval_every=null", "train.test=false", "train.workers=0"]
PLAIN = {
    "levels": [
        {"name": "fine", "dim": 8, "heads": 2, "depth": 1, "group": {"type": "fixed", "stride": 2}},
        {"name": "coarse", "dim": 8, "heads": 2, "depth": 1},
    ]
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    return load_run(train(load_config("vision/digits", [*SMALL, f"run.dir={folder}"])))


def test_a_run_comes_back(digits: TrainedRun, tmp_path: Path) -> None:
    folder = save_pretrained(digits, tmp_path / "digits", license="apache-2.0")
    images = list(torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8))
    loaded = from_pretrained(folder)
    assert isinstance(loaded, TrainedRun) and loaded.predict(images) == digits.predict(images)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert not any("optimizer" in name or name.endswith((".bin", ".pt")) for name in names)
    assert "started_in" not in loaded.checkpoint.state
    (weights,) = folder.rglob("*.safetensors")
    with safe_open(weights, "pt") as file:
        assert file.metadata() == {"format": "pt"}, "transformers and others read no file without it"
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: hrt-mm\nlicense: apache-2.0\n")
    assert "hrt-mm train config.yaml" in card and "10 classes: 0, 1, 2" in card and "torch" in card
    with pytest.raises(UserError, match="not an empty folder"):
        save_pretrained(digits, folder, license="apache-2.0")


def test_an_encoder_comes_back(digits: TrainedRun, tmp_path: Path) -> None:
    task: Any = digits.task
    encoder = PretrainedEncoder(task.encoder, digits.tokenizer, digits.config.single.modality)
    loaded = from_pretrained(save_pretrained(encoder, tmp_path / "encoder", license="mit"))
    assert isinstance(loaded, PretrainedEncoder)
    images = [torch.rand(1, 8, 8)]
    with torch.no_grad():
        assert torch.equal(
            loaded.encoder(loaded.tokenizer(images)).pooled(), encoder.encoder(encoder.tokenizer(images)).pooled()
        )


def test_a_hierarchy_of_plain_data_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hierarchy = Hierarchy(PLAIN, axes=1)
    with caplog.at_level(logging.WARNING):
        folder = save_pretrained(hierarchy, tmp_path / "hierarchy")
        loaded = from_pretrained(folder)
    assert caplog.text.count("states no license") == 2
    assert isinstance(loaded, Hierarchy) and loaded.config == hierarchy.config
    for name, value in hierarchy.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    with pytest.raises(ConfigError, match=r"levels\.0\.dim"):
        Hierarchy({"levels": [{"name": "fine", "dim": -8, "heads": 2}]})


def test_huggingface_hubs_mixin_takes_a_hierarchy_of_plain_data(tmp_path: Path) -> None:
    class Model(Hierarchy, huggingface_hub.PyTorchModelHubMixin):  # type: ignore[misc, name-defined]
        pass

    model: Any = Model(PLAIN, axes=2)
    model.save_pretrained(tmp_path / "model")
    loaded = Model.from_pretrained(str(tmp_path / "model"))
    assert loaded.config == model.config and loaded.axes == 2
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])


def test_what_is_not_ours_is_refused(tmp_path: Path) -> None:
    folder = save_pretrained(Hierarchy(PLAIN), tmp_path / "ours", license="mit")

    def changed(name: str, **values: Any) -> Path:
        copy = shutil.copytree(folder, tmp_path / name)
        config = json.loads((copy / "config.json").read_text()) | values
        (copy / "config.json").write_text(json.dumps(config))
        return copy

    pickled = changed("pickled")
    (pickled / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"pytorch_model\.bin, a pickle"):
        from_pretrained(pickled)
    with pytest.raises(UserError, match=r"another library: library_name is 'timm', not 'hrt-mm'; it is a model resnet"):
        from_pretrained(changed("other", library_name="timm", architecture="resnet"))
    with pytest.raises(UserError, match="format 9"):
        from_pretrained(changed("newer", format=9))
    wide = json.loads(json.dumps(PLAIN).replace('"dim": 8', '"dim": 16'))
    with pytest.raises(UserError, match=r"model\.safetensors is not of this model: .* has shape"):
        from_pretrained(changed("wide", hierarchy=wide))
    with pytest.raises(UserError, match=r"has no config\.json"):
        from_pretrained(shutil.copytree(folder, tmp_path / "bare", ignore=lambda *names: ["config.json"]))
    with pytest.raises(UserError, match="give a folder, or a repository as owner/name"):
        from_pretrained(tmp_path / "missing")
    with pytest.raises(UserError, match="outside of its folder"):
        load_run(changed("escaping", kind="run", files={"modality.subwords": "../secret.json"}))


class Hub:
    """Repositories in a folder, in place of huggingface_hub's network calls."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.downloads = folder, 0
        monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", self.files)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)
        monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", self.create)
        monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", self.upload)

    def files(self, repo: str, **options: Any) -> list[str]:
        root = self.folder / repo
        if not root.is_dir():
            raise FileNotFoundError(f"404: {repo} not found")
        return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]

    def download(self, repo: str, **options: Any) -> str:
        """A snapshot of links to the files, as in the hub's cache."""
        self.downloads += 1
        snapshot = self.folder / "cache" / repo
        if options.get("local_files_only"):
            if not snapshot.is_dir():
                raise FileNotFoundError(f"{repo} is not in the cache")
            return str(snapshot)
        shutil.rmtree(snapshot, ignore_errors=True)
        for name in self.files(repo):
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            (snapshot / name).symlink_to(self.folder / repo / name)
        return str(snapshot)

    def create(self, repo_id: str, **options: Any) -> Any:
        (self.folder / repo_id).mkdir(parents=True, exist_ok=True)
        return type("Address", (), {"repo_id": repo_id})

    def upload(self, *, repo_id: str, folder_path: Path, **options: Any) -> str:
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)
        return f"https://huggingface.co/{repo_id}"


def test_repositories(digits: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(tmp_path, monkeypatch)
    assert push_to_hub(digits, "someone/digits", license="mit") == "https://huggingface.co/someone/digits"
    images = list(torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8))
    loaded = load_run("hub:someone/digits")
    assert loaded.predict(images) == digits.predict(images)
    assert torch.equal(loaded.embed(images), digits.embed(images))
    assert [list(levels) for levels in loaded.levels(images)] == [list(levels) for levels in digits.levels(images)]
    assert isinstance(from_pretrained("someone/digits"), TrainedRun)
    assert resolve("runs/digits") == Path("runs/digits")
    with pytest.raises(UserError, match="someone/nothing cannot be read: 404"):
        resolve("hub:someone/nothing")
    with pytest.raises(UserError, match="needs a license"):
        push_to_hub(digits, "someone/digits", license="")
    with pytest.raises(UserError, match="give owner/name"):
        push_to_hub(digits, "digits", license="mit")
    downloads = hub.downloads
    (tmp_path / "someone/digits/weights.pkl").write_bytes(b"")
    with pytest.raises(UserError, match=r"weights\.pkl, a pickle"):
        resolve("hub:someone/digits")
    assert hub.downloads == downloads


def test_without_a_network_the_cache_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Hub(tmp_path, monkeypatch)
    push_to_hub(Hierarchy(PLAIN), "someone/plain", license="mit")
    folder = resolve("hub:someone/plain")

    http_error = huggingface_hub.utils.HfHubHTTPError.__bases__[0]

    def unreachable(*args: Any, **options: Any) -> Any:
        raise http_error("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", unreachable)
    assert resolve("hub:someone/plain") == folder
    assert "someone/plain is the copy that was downloaded before" in caplog.text
    with pytest.raises(UserError, match="someone/other cannot be read: Name or service not known; check its name and"):
        resolve("hub:someone/other")


def test_commands_take_repositories(
    digits: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As they take the run folder, with the same results; nothing is written into the cache."""
    Hub(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    push_to_hub(digits, "someone/digits", license="mit")
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save("eight.png")

    def output(*command: str) -> str:
        assert main(command) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    for command in (["eval", "RUN", "--json"], ["predict", "RUN", "eight.png"]):
        local, remote = (
            output(*(run if word == "RUN" else word for word in command))
            for run in (str(digits.folder), "hub:someone/digits")
        )
        assert local == remote
    cached = sorted((tmp_path / "cache").rglob("*"))

    output("embed", "hub:someone/digits", "--out", "vectors")
    output("index", "build", "index", "vectors")
    assert Index(Path("index")).model.run == "hub:someone/digits"
    results = json.loads(output("search", "index", "--image", "eight.png", "-k", "3", "--json"))
    given = json.loads(
        output("search", "index", "--image", "eight.png", "-k", "3", "--json", "--run", "hub:someone/digits")
    )
    assert len(results["results"]) == 3 and results == given

    (backbone,) = create_model("hub:someone/digits", features_only=True, out_indices=(0,))(torch.zeros(1, 1, 8, 8))
    task: Any = digits.task
    assert backbone.shape[1] == task.encoder.hierarchy.config.levels[0].dim
    output("train", "vision/digits", *SMALL, "train.init_from=hub:someone/digits", "train.steps=1", "run.dir=tuned")

    output("diagnose", "hub:someone/digits", "--out", "report")
    assert "# Report of someone/digits" in Path("report/report.md").read_text()
    for command in (["diagnose", "hub:someone/digits"], ["export", "hub:someone/digits", "--pt2"]):
        assert main(command) == 2
        assert re.search(r"hub:someone/digits is a repository, .* with --out", capsys.readouterr().err)
    assert sorted((tmp_path / "cache").rglob("*")) == cached
