from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_modalities.common.splits import SPLITS
from hrt_modalities.vision.files import ImageFiles, ImageManifestConfig

Rows = Sequence[Mapping[str, Any]]


def write_table(file: Path, rows: Rows, delimiter: str) -> None:
    lines = [delimiter.join(rows[0]), *(delimiter.join(map(str, row.values())) for row in rows)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write(folder: Path, rows: Rows, form: str = "csv") -> Path:
    file = folder / f"images.{form}"
    if form == "jsonl":
        file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    else:
        write_table(file, rows, "," if form == "csv" else "\t")
    return file


def rows(folder: Path) -> list[dict[str, Any]]:
    result = []
    for index, split in enumerate(["train"] * 6 + ["val"] * 2 + ["test"] * 2):
        path = folder / "pixels" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (3, 2), index).save(path)
        result.append({"path": f"pixels/{index}.png", "label": ("cat", "dog")[index % 2], "split": split})
    return result


def manifest(file: Path, split: str = "train", **options: Any) -> ImageFiles:
    dataset = ImageManifestConfig.model_validate({"type": "image_manifest", "file": file, **options}).build(split)
    assert isinstance(dataset, ImageFiles)
    return dataset


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_all_forms_give_the_same(tmp_path: Path, form: str) -> None:
    file = write(tmp_path, rows(tmp_path), form)
    assert [len(manifest(file, split)) for split in SPLITS] == [6, 2, 2]
    sample = manifest(file, "test")[1]
    assert (sample.name, sample.label) == ("pixels/9.png", "dog")
    assert sample.value.unique().tolist() == [9]
    assert manifest(file).classes == ("cat", "dog")


def test_other_columns(tmp_path: Path) -> None:
    table = [{"id": 5, "image": row["path"], "kind": row["label"], "part": row["split"]} for row in rows(tmp_path)]
    file = write(tmp_path, table)
    options = {"path_column": "image", "label_column": "kind", "split_column": "part"}
    assert len(manifest(file, **options)) == 6
    with pytest.raises(ConfigError, match=r"images.csv:2 has no column 'path'; it has id, image, kind, part. Set data"):
        manifest(file)


def test_images_without_labels(tmp_path: Path) -> None:
    table = [{"path": row["path"], "split": row["split"]} for row in rows(tmp_path)]
    dataset = manifest(write(tmp_path, table), label_column=None)
    assert dataset.classes is None
    assert dataset[0].label is None


def test_splits_by_hash_do_not_depend_on_the_order(tmp_path: Path) -> None:
    table = [{"path": f"{index}.png", "label": index % 2} for index in range(300)]
    file = write(tmp_path, table)
    options = {"split_column": None, "val": 0.2, "test": 0.3}
    splits = {split: {item.name for item in manifest(file, split, **options).items} for split in SPLITS}
    assert sum(map(len, splits.values())) == 300
    assert 40 <= len(splits["val"]) <= 80
    assert 65 <= len(splits["test"]) <= 115
    random.Random(0).shuffle(table)
    file = write(tmp_path, table)
    assert all({item.name for item in manifest(file, split, **options).items} == splits[split] for split in SPLITS)


def test_numbers_are_labels_too(tmp_path: Path) -> None:
    table = [row | {"label": index % 3} for index, row in enumerate(rows(tmp_path))]
    assert manifest(write(tmp_path, table, "jsonl")).classes == ("0", "1", "2")


def test_quotes_and_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "images.csv"
    file.write_text('path,label,split\n"a,b.png","x ""y""",train\nc.png,z,train\nd.png,z,val\n', encoding="utf-8-sig")
    dataset = manifest(file)
    assert dataset.items[0].name == "a,b.png"
    assert dataset.items[0].target == 'x "y"'


def test_a_missing_file_is_a_bad_sample(tmp_path: Path) -> None:
    table = rows(tmp_path)
    table[0]["path"] = "pixels/gone.png"
    with pytest.raises(BadSample, match=r"^pixels/gone.png: no such file$"):
        manifest(write(tmp_path, table))[0]


def test_a_link_out_of_the_folder_is_a_bad_sample(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    table = rows(tmp_path)
    table[0]["path"] = "out/secret.png"
    (tmp_path / "out").symlink_to(outside)
    Image.new("L", (2, 2)).save(outside / "secret.png")
    file = write(tmp_path, table)
    with pytest.raises(BadSample, match=r"out/secret.png: a link leads out of"):
        manifest(file)[0]
    assert manifest(file, follow_links=True)[0].value.shape == (1, 2, 2)


@pytest.mark.parametrize("path", ["../x.png", "a/../../x.png", "/etc/x.png"])
def test_paths_out_of_the_folder_are_named(tmp_path: Path, path: str) -> None:
    table = [*rows(tmp_path), {"path": path, "label": "cat", "split": "train"}]
    with pytest.raises(ConfigError, match=rf"images.csv:12: path '{path}' leads out of the folder of the table"):
        manifest(write(tmp_path, table))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "fold1"}, r"images.jsonl:11: split must be train, val or test, got 'fold1'; known are .*dev"),
        ({"split": ["x"]}, r"images.jsonl:11: split must be train, val or test, got \['x'\]"),
        ({"label": ""}, r"images.jsonl:11: the value of 'label' is empty"),
        ({"label": 1.5}, r"label must be a name or a whole number, got 1.5"),
        ({"label": None}, r"images.jsonl:11: the value of 'label' is null"),
        ({"path": ""}, r"images.jsonl:11: the value of 'path' is empty"),
        ({"path": 7}, r"images.jsonl:11: path must be a path, got 7"),
        ({"path": "a\0b"}, r"path must be a path"),
    ],
)
def test_bad_values_name_their_row(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    row = {"path": "x.png", "label": "cat", "split": "train"} | change
    with pytest.raises(ConfigError, match=message):
        manifest(write(tmp_path, [*rows(tmp_path), row], "jsonl"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"path,label,split\nx.png,cat,train,more\n", r"a.csv:2 has more columns than the header"),
        ("a.csv", b"path,label,split\n\xff\xfe,cat,train\n", r"a.csv:2 is not UTF-8: byte 0xff"),
        ("a.csv", b'path,label,split\n"x.png,cat,train\n', r"a.csv:\d cannot be read: unexpected end of data"),
        ("a.csv", b"path,label,split\n", r"a.csv has no rows"),
        ("a.csv", b"", r"a.csv is empty"),
        (
            "a.csv",
            b"path,label,split\nx.png,cat\n",
            r"a.csv:2: the value of 'split' is missing, as the row has only 2 of 3 cells",
        ),
        ("a.jsonl", b'{"path": "x.png"\n', r"a.jsonl:1 is not JSON"),
        ("a.jsonl", b"[1]\n", r"a.jsonl:1 must be an object, got list"),
        ("a.jsonl", b"\xff\n", r"a.jsonl:1 is not UTF-8"),
        ("a.txt", b"path\n", r"a.txt must end in .csv, .tsv, .jsonl"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        manifest(tmp_path / name)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone.csv: no such file"):
        manifest(tmp_path / "gone.csv")


def test_a_class_that_train_has_not(tmp_path: Path) -> None:
    table = [*rows(tmp_path), {"path": "pixels/0.png", "label": "emu", "split": "test"}]
    with pytest.raises(ConfigError, match=r"test of data.file .* has classes that train has not: emu"):
        manifest(write(tmp_path, table))


def test_nothing_to_train_on(tmp_path: Path) -> None:
    table = [row for row in rows(tmp_path) if row["split"] == "test"]
    with pytest.raises(ConfigError, match="has no images for split 'train'; it has test: 2"):
        manifest(write(tmp_path, table), "test")


@pytest.mark.parametrize("key", ["val", "test"])
def test_keys_without_effect_are_named(tmp_path: Path, key: str) -> None:
    options: dict[str, Any] = {key: 0.2}
    with pytest.raises(ConfigError, match=rf"data.{key} has no effect"):
        manifest(write(tmp_path, rows(tmp_path)), **options)


def test_the_real_emoji(data_root: Path) -> None:
    options = {"path_column": "noto", "label_column": "group"}
    file = data_root / "emoji" / "index.tsv"
    assert [len(manifest(file, split, **options)) for split in SPLITS] == [1452, 233, 185]
    assert manifest(file, "test", **options)[0].value.shape == (3, 128, 128)
