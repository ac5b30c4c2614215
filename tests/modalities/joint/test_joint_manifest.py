from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image, ImageDraw
from pydantic import ValidationError
from torch import Tensor

from hrt_mm.config import load_config
from hrt_mm.core.errors import BadSample, ConfigError, UserError
from hrt_mm.inference.trained import evaluate_run, load_task
from hrt_mm.train.build import build_data
from hrt_mm.train.loop import train
from hrt_modalities.audio import Audio
from hrt_modalities.audio.files import wav
from hrt_modalities.joint.columns import FilmSource, without_words
from hrt_modalities.joint.manifest import JointManifestConfig, JointRows
from hrt_modalities.video.clips import Clip
from hrt_modalities.video.players import mp4
from hrt_modalities.video.video import Video
from tests.modalities.video.streams import KINDS, encode

SOURCES: dict[str, Any] = {"image": {"type": "image", "column": "path"}, "text": {"type": "text", "column": "title"}}

WINDOWS = {"type": "dense", "frames": 2, "rate": 5, "windows": 2}


def table(folder: Path, rows: Sequence[Mapping[str, Any]], form: str = "jsonl") -> Path:
    file = folder / f"rows.{form}"
    if form == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]), delimiter="," if form == "csv" else "\t")
        writer.writeheader()
        writer.writerows(rows)
    return file


def picture(folder: Path, name: str, shade: int = 0) -> str:
    Image.new("L", (3, 2), shade).save(folder / name)
    return name


def manifest(file: Path, split: str = "train", **options: Any) -> JointRows:
    given = {"type": "joint_manifest", "file": file, "sources": SOURCES, "split_column": None, **options}
    built = JointManifestConfig.model_validate(given).build(split)
    assert isinstance(built, JointRows)
    return built


def own_splits(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for index, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2):
        name = picture(folder, f"{index}.png", index)
        rows.append({"path": name, "title": f"title {index}", "label": ("cat", "dog")[index % 2], "split": split})
    return rows


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_a_row_is_a_picture_its_words_and_a_class(tmp_path: Path, form: str) -> None:
    file = table(tmp_path, own_splits(tmp_path), form)
    result = {split: manifest(file, split, split_column="split") for split in ("train", "val", "test")}
    assert [len(item) for item in result.values()] == [4, 2, 2]
    assert result["test"].classes == ("cat", "dog")
    sample = result["test"][1]
    assert sample.value["image"].flatten().tolist() == [7] * 6
    assert sample.value["text"] == "title 7"
    assert sample.label == "dog"
    assert sample.name == result["test"].name(1) == f"rows.{form}:{9 if form != 'jsonl' else 8}"
    config = JointManifestConfig.model_validate({"type": "joint_manifest", "file": file, "sources": SOURCES})
    test = config.plain("test")
    assert test.describe(1) == {"path": "7.png", "title": "title 7", "label": "dog", "split": "test"}
    assert test.file_of(1, "image") == tmp_path / "7.png" and test.file_of(1, "text") is None


def test_an_empty_cell_is_a_missing_modality(tmp_path: Path) -> None:
    picture(tmp_path, "a.png")
    rows: list[dict[str, Any]] = [
        {"path": "a.png", "title": "both", "label": "x", "split": "train"},
        {"path": "a.png", "title": "  ", "label": "x", "split": "train"},
        {"title": "no picture", "label": "y", "split": "train"},
        {"path": None, "title": ["null", "nothing"], "label": "y", "split": "train"},
        {"path": "a.png", "title": [], "label": "y", "split": "val"},
    ]
    file = table(tmp_path, rows)
    result = manifest(file, split_column="split")
    assert [sorted(result[row].value) for row in range(4)] == [["image", "text"], ["image"], ["text"], ["text"]]
    assert result[3].value["text"] in {"null", "nothing"}
    plain = JointManifestConfig.model_validate({"type": "joint_manifest", "file": file, "sources": SOURCES})
    assert plain.plain("train").describe(1) == {"path": "a.png", "label": "x", "split": "train"}
    assert plain.plain("train").describe(3)["title"] == "null; nothing"
    assert [plain.plain("train").file_of(row, "image") for row in (1, 2)] == [tmp_path / "a.png", None]


def test_texts_of_a_list_say_the_same_and_columns_are_joined(tmp_path: Path) -> None:
    captions = ["a dog", "an animal", "it barks"]
    rows: list[dict[str, Any]] = [
        {"title": captions, "body": "text", "path": ""},
        {"title": "a cat", "body": "", "path": ""},
    ]
    joined: dict[str, Any] = {"text": {"type": "text", "column": ["title", "body"]}, "image": SOURCES["image"]}
    rows = [row | {"split": "train"} for row in rows] + [{"split": "val", "title": "z", "path": ""}]
    file = table(tmp_path, rows)
    result = manifest(file, sources=joined, label_column=None, split_column="split")
    torch.manual_seed(0)
    assert {result[0].value["text"] for _ in range(40)} == {f"{caption}\ntext" for caption in captions}
    assert result[1].value["text"] == "a cat"
    assert result[0].label is None and result.classes is None
    config = JointManifestConfig.model_validate(
        {"type": "joint_manifest", "file": file, "sources": joined, "label_column": None}
    )
    assert {config.plain("train")[0].value["text"] for _ in range(20)} == {"a dog\ntext"}


def test_words_are_left_out_of_training_texts_alone(tmp_path: Path) -> None:
    rows = [{"title": "one two|three", "path": "", "split": split} for split in ("train", "val")]
    dropping: dict[str, Any] = SOURCES | {"text": {"type": "text", "column": "title", "word_dropout": 0.5}}
    options: dict[str, Any] = {"sources": dropping, "label_column": None, "split_column": "split"}
    result = manifest(table(tmp_path, rows), **options)
    torch.manual_seed(0)
    texts = [result[0].value["text"] for _ in range(400)]
    assert len(set(texts)) == 7, "every choice but none"
    assert "one two|three" in texts
    # Of three words 3 / 2 stay on average, and one more in the eighth of all cases in which none would.
    assert sum(len(re.findall(r"\w+", text)) for text in texts) / 400 == pytest.approx(1.625, abs=0.15)
    assert manifest(tmp_path / "rows.jsonl", "val", **options)[0].value["text"] == "one two|three"
    assert without_words("?!", 0.9) == "?!"


def test_rows_of_one_picture_stay_together_without_splits(tmp_path: Path) -> None:
    names = [picture(tmp_path, f"{index}.png") for index in range(60)]
    rows = [{"path": name, "title": f"{way} {name}", "group": name} for way in ("of", "with") for name in names]
    file = table(tmp_path, rows, "tsv")
    options = {"val": 0.3, "test": 0.3, "label_column": "group", "label": "group"}
    result = {split: manifest(file, split, **options) for split in ("train", "val", "test")}
    own = [{entry.name for entry in dataset.entries} for dataset in result.values()]
    assert sum(map(len, own)) == 60 == len(set.union(*own))
    assert all(len(dataset) == 2 * len(names) > 8 for dataset, names in zip(result.values(), own, strict=True))
    # Groups are no classes: those of a test set are new.
    assert result["test"].classes is None
    assert result["test"][0].label == result["test"].entries[0].name


def test_sounds_and_videos_are_parts_of_files(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(Audio(torch.linspace(0, 0.5, 8000), 8000)))
    frames = torch.arange(0, 250, 10, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 32, 32)
    (tmp_path / "a.mp4").write_bytes(mp4(Video(frames, torch.arange(25) / 25, 1.0)))
    row = {"sound": "a.wav", "from": "0.25", "for": 0.5, "film": "a.mp4", "begin": 0.4, "end": "", "label": "x"}
    sources = {
        "audio": {"type": "audio", "column": "sound", "offset_column": "from", "duration_column": "for"},
        "video": {"type": "video", "column": "film", "offset_column": "begin", "end_column": "end"},
    }
    rows = [{"split": "train", **row}, {"split": "val", **row, "film": ""}]
    file = table(tmp_path, rows)
    value = manifest(file, sources=sources, split_column="split")[0].value
    assert value["audio"].waveform_S.shape == (4000,)
    assert float(value["audio"].waveform_S[0]) == pytest.approx(0.125, abs=1e-3)
    assert len(value["video"].pixels_NCHW) == 15
    assert float(value["video"].pixels_NCHW[0].float().mean()) == pytest.approx(100, abs=6)
    assert sorted(manifest(file, "val", sources=sources, split_column="split")[0].value) == ["audio"]


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({}, {"sources": {**SOURCES, "text": {"type": "text", "column": "titel"}}}, "no column 'titel'.*sources.text"),
        ({"path": "", "title": ""}, {}, r"rows.jsonl:2 has nothing in the columns path, title"),
        ({"path": "../a.png"}, {}, "leads out of the folder"),
        ({"path": 3}, {}, "path must be a path, got 3"),
        ({"title": 3}, {}, "title must be a text, or a list of texts, got 3"),
        ({"title": ["a", ""]}, {}, "title must be a text, or a list of texts"),
        ({"label": ""}, {}, "the value of 'label' is empty"),
        ({"split": "x"}, {"split_column": "split"}, "split must be train, val or test, got 'x'"),
        ({}, {"label_column": "kind"}, "no column 'kind'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, Any], options: dict[str, Any], words: str) -> None:
    picture(tmp_path, "a.png")
    row = {"path": "a.png", "title": "x", "label": "y", "split": "train"}
    file = table(tmp_path, [row, row | change, row | {"split": "val"}])
    with pytest.raises(ConfigError, match=words):
        manifest(file, **options)


def test_a_class_that_train_has_not_and_an_empty_table_are_errors(tmp_path: Path) -> None:
    rows = own_splits(tmp_path)
    rows[-1]["label"] = "cow"
    with pytest.raises(ConfigError, match="cow"):
        manifest(table(tmp_path, rows), "test", split_column="split")
    with pytest.raises(ConfigError, match=r"rows.jsonl is empty"):
        manifest(table(tmp_path, []))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sources": {"text": SOURCES["text"]}}, "at least 2 items"),
        ({"label_column": None, "label": "group"}, "no effect without label_column"),
        ({"sources": {**SOURCES, "film": {"type": "video", "column": "f", "sampling": WINDOWS}}}, "windows must be 1"),
        ({"sources": {**SOURCES, "smell": {"type": "smell", "column": "s"}}}, "smell"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        manifest(tmp_path / "rows.tsv", **options)


def test_broken_files_and_links_that_lead_out_are_bad_samples(tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    Image.new("L", (3, 2)).save(outside)
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "link.png").symlink_to(outside)
    (inside / "broken.png").write_bytes(b"no picture")
    rows = [{"path": name, "title": "x", "label": "y", "split": "train"} for name in ("link.png", "broken.png")]
    result = manifest(table(inside, [*rows, rows[0] | {"split": "val"}]), split_column="split")
    with pytest.raises(BadSample, match="link leads out"):
        result[0]
    with pytest.raises(BadSample, match=r"broken\.png"):
        result[1]
    trusting = manifest(inside / "rows.jsonl", split_column="split", follow_links=True)
    assert trusting[0].value["image"].shape == (1, 2, 3)


def test_a_tower_must_be_a_source(tmp_path: Path) -> None:
    file = table(tmp_path, own_splits(tmp_path))
    path = _yaml(tmp_path, file)
    path.write_text(path.read_text().replace("sources: {image:", "sources: {photo:"))
    with pytest.raises(ConfigError, match=r"towers.image: .* give towers named photo, text"):
        build_data(load_config(path), ["train"])


YAML = """\
towers:
  image:
    modality: {{type: vision, channels: 1, patch: 4, size: 16, stem: {{type: conv}}}}
    model:
      levels:
        - {{name: parts, dim: 32, heads: 2, depth: 1, group: {{type: fixed, stride: 2}}, pool: conv}}
        - {{name: picture, dim: 32, heads: 2, depth: 1}}
  text:
    modality: {{type: text}}
    model:
      levels:
        - {{name: bytes, dim: 32, heads: 2, depth: 1, group: {{type: given, boundary: words, max: 32, typical: 5}}}}
        - {{name: words, dim: 32, heads: 2, depth: 1}}
task: {{type: fused_classification, fusion: {{type: cross_attention, dim: 32, heads: 2, depth: 1}}}}
data:
  type: joint_manifest
  file: "{file}"
  sources: {{image: {{type: image, column: path}}, text: {{type: text, column: title}}}}
optim: {{lr: 5.0e-3, warmup_steps: 5}}
train:
  {{steps: 80, batch_size: 32, eval_every: 40, tensorboard: false, num_threads: 1, precision: fp32, max_bad_share: 0.1}}
"""


def _yaml(folder: Path, file: Path) -> Path:
    path = folder / "config.yaml"
    path.write_text(YAML.format(file=file))
    return path


def _things(folder: Path) -> Path:
    """Discs and squares, whose colour the words say alone: the class is both."""
    draw = torch.Generator().manual_seed(0)
    rows = []
    for index in range(192):
        shape, colour, left, top, ways = (int(torch.randint(n, (), generator=draw)) for n in (2, 2, 6, 6, 3))
        image = Image.new("L", (16, 16), 255)
        pen = ImageDraw.Draw(image)
        (pen.ellipse if shape else pen.rectangle)((left, top, left + 9, top + 9), fill=0)
        image.save(folder / f"{index}.png")
        named = ("red", "blue")[colour]
        rows.append(
            {
                "path": f"{index}.png" if index % 20 else "",
                "title": (f"it is {named}", f"painted in {named}", f"{named}, we hear")[ways] if index % 21 else "",
                "label": f"{named} {('square', 'disc')[shape]}",
                "split": "train" if index < 112 else "val" if index < 128 else "test",
            }
        )
    rows[0]["title"] = "it is red"
    (folder / "7.png").write_bytes(b"no picture")
    return table(folder, rows, "tsv")


def test_both_modalities_tell_what_neither_does_alone(tmp_path: Path) -> None:
    run = train(load_config(_yaml(tmp_path, _things(tmp_path)), [f"run.dir={tmp_path / 'run'}"]))
    summary = json.loads((run / "summary.json").read_text())
    # Of 64 samples 3 lack the picture and 3 the words, so half of those are guessed.
    assert summary["metrics"]["test/accuracy"] > 0.85
    assert "7.png" in json.dumps(summary)
    for left_out in ("image", "text"):
        result = evaluate_run(run, "test", [f"task.without=[{left_out}]"])
        assert 0.3 < result["test/accuracy"] < 0.7


def test_captions_of_one_picture_are_answers_to_it(tmp_path: Path) -> None:
    shades = {name: picture(tmp_path, name, 20 * index) for index, name in enumerate(f"{n}.png" for n in range(12))}
    rows = [
        {"path": name, "title": f"{word} {name}", "group": name, "split": ("train", "val", "test")[index % 3]}
        for index, name in enumerate(shades)
        for word in ("a", "this", "one")
    ]
    path = _yaml(tmp_path, table(tmp_path, rows, "csv"))
    fused = next(line for line in path.read_text().splitlines() if line.startswith("task:"))
    path.write_text(path.read_text().replace(fused, "task: {type: contrastive, dim: 16}"))
    options = [
        "data.label_column=group",
        "data.label=group",
        "train.steps=2",
        "train.batch_size=8",
        f"run.dir={tmp_path / 'run'}",
    ]
    metrics = json.loads((train(load_config(path, options)) / "summary.json").read_text())["metrics"]
    # Twelve rows: a picture that stands in three is asked once, and has three right answers.
    assert metrics["test/text_to_image/queries"] == 12
    assert metrics["test/image_to_text/answers"] == 12
    assert metrics["test/image_to_text/queries"] == 4


@pytest.mark.parametrize(("square", "columns"), [(True, 128), (False, 64)])
def test_videos_of_a_table_have_a_setting_for_the_shape_of_pixels(tmp_path: Path, square: bool, columns: int) -> None:
    encode(tmp_path / "a.mp4", KINDS["h264"], frames=4, aspect=Fraction(2))
    source = FilmSource(type="video", column="film", square_pixels=square)
    films = source.dataset(tmp_path, [Clip("a.mp4")], training=False, follow_links=False)
    assert films[0].value.pixels_NCHW.shape == (4, 3, 48, columns)


def test_towers_start_from_runs_of_each_alone(tmp_path: Path) -> None:
    file = table(tmp_path, own_splits(tmp_path))
    fusion = "task.fusion={type: experts, dim: 16}"
    short = [fusion, "train.batch_size=4", "train.steps=2", "train.eval_every=2", "optim.warmup_steps=0"]

    def run(name: str, *words: str) -> tuple[Path, dict[str, Tensor]]:
        folder = tmp_path / name
        train(load_config(_yaml(tmp_path, file), [f"run.dir={folder}", *short, *words]))
        return folder, dict(load_task(folder).task.state_dict())

    image, images = run("image", "task.without=[text]")
    text, texts = run("text", "task.without=[image]")
    init = f"train.init_from={{image: {image}, text: {text}}}"
    _, fused = run("fused", init, "optim.freeze=[encoders, maps, fusion.heads]")
    for name, value in fused.items():
        if ".image." in name:
            assert torch.equal(value, images[name]), name
        elif ".text." in name:
            assert torch.equal(value, texts[name]), name
    assert not torch.equal(fused["fusion.gate.weight"], images["fusion.gate.weight"])
    with pytest.raises(UserError, match=r"names a tower 'sound' .* image, text"):
        run("other", f"train.init_from={{sound: {image}}}")
    with pytest.raises(UserError, match="has shape"):
        run("wider", init, "task.fusion.dim=24")


def test_a_tower_starts_from_the_encoder_of_a_run_over_one_modality(tmp_path: Path) -> None:
    rows = own_splits(tmp_path)
    file = _yaml(tmp_path, table(tmp_path, rows))
    towers = yaml.safe_load(file.read_text())["towers"]
    documents = [{"text": row["title"], "label": row["label"], "split": row["split"]} for row in rows]
    documents_file = tmp_path / "documents.jsonl"
    documents_file.write_text("".join(json.dumps(row) + "\n" for row in documents))
    single = {
        **towers["text"],
        "task": {"type": "classification"},
        "data": {"type": "documents", "file": str(documents_file)},
        "train": {"steps": 1, "batch_size": 4, "tensorboard": False, "num_threads": 1},
        "run": {"dir": str(tmp_path / "texts")},
    }
    (tmp_path / "single.yaml").write_text(yaml.safe_dump(single))
    train(load_config(tmp_path / "single.yaml"))
    words = [
        f"run.dir={tmp_path / 'joint'}",
        "train.steps=1",
        "train.batch_size=4",
        f"train.init_from={{text: {tmp_path / 'texts'}}}",
    ]
    train(load_config(file, [*words, "optim.freeze=[encoders.text]"]))
    source, joint = (load_task(tmp_path / name).task.state_dict() for name in ("texts", "joint"))
    encoder = {name: value for name, value in source.items() if name.startswith("encoder.")}
    assert encoder
    for name, value in encoder.items():
        assert torch.equal(joint[name.replace("encoder.", "encoders.text.", 1)], value), name
