"""Splits that the tool makes, over every kind of data that may have none of its own."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.splits import Splits, split_warnings
from hrt_modalities.audio.folders import AudioFolderConfig as SoundFolder
from hrt_modalities.audio.folders import AudioManifestConfig as SoundTable
from hrt_modalities.common.splits import SPLITS
from hrt_modalities.common.splitting import SplitConfig
from hrt_modalities.joint.manifest import JointManifestConfig
from hrt_modalities.text.documents import DocumentsConfig
from hrt_modalities.video.folders import VideoFolderConfig as VideoFolder
from hrt_modalities.video.folders import VideoManifestConfig as VideoTable
from hrt_modalities.vision.files import ImageFolderConfig as ImageFolder
from hrt_modalities.vision.files import ImageManifestConfig as ImageTable

FOLDERS: dict[str, tuple[type[SplitConfig], str]] = {
    "image_folder": (ImageFolder, ".png"),
    "audio_folder": (SoundFolder, ".wav"),
    "video_folder": (VideoFolder, ".mp4"),
    "documents": (DocumentsConfig, ".txt"),
}
TABLES: dict[str, tuple[type[SplitConfig], Mapping[str, Any]]] = {
    "image_manifest": (ImageTable, {}),
    "audio_manifest": (SoundTable, {}),
    "video_manifest": (VideoTable, {}),
    "documents": (DocumentsConfig, {}),
    "joint_manifest": (
        JointManifestConfig,
        {"sources": {"image": {"type": "image", "column": "path"}, "text": {"type": "text", "column": "text"}}},
    ),
}
CLASSES = ("cat", "dog", "emu")


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., SplitConfig]:
    """Configurations of a folder of 20 files a class, of 10 speakers of 2 takes each. Nothing reads the files."""
    kind, suffix = FOLDERS[request.param]
    for label in CLASSES:
        for index in range(20):
            put(tmp_path / f"data/{label}/s{index // 2}_{index % 2}{suffix}")
    return lambda **options: kind.model_validate({"type": request.param, "root": tmp_path / "data", **options})


@pytest.fixture(params=TABLES)
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., SplitConfig]:
    """Configurations of a table of 20 rows a class."""
    kind, needed = TABLES[request.param]
    write(tmp_path / "rows.csv", ROWS)
    options = {"type": request.param, "file": tmp_path / "rows.csv", "split_column": None, **needed}
    return lambda **others: kind.model_validate({**options, **others})


ROWS = [
    {
        "path": f"{label}{index}.wav",
        "text": f"{label} {index}",
        "label": label,
        "who": f"s{index % 7}",
        "fold": index % 4,
    }
    for label in CLASSES
    for index in range(20)
]


def put(path: Path, content: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content or str(path))


def write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def listed(config: SplitConfig) -> Splits:
    """What the splits have, held against what the data sets of the splits have."""
    result = config.splits()
    assert result is not None
    for split in SPLITS:
        dataset = config.build(split)
        members = result.members[split]
        assert [dataset.name(index) for index in range(len(dataset))] == [item.name for item in members]
    return result


def names(found: Splits) -> dict[str, set[str]]:
    return {split: {item.name for item in members} for split, members in found.members.items()}


def sides(found: Splits, part: Callable[[Any], object]) -> dict[object, set[str]]:
    result: dict[object, set[str]] = {}
    for split, members in found.members.items():
        for item in members:
            result.setdefault(part(item), set()).add(split)
    return result


def test_folders_are_stratified(folder: Callable[..., SplitConfig]) -> None:
    result = listed(folder())
    assert result.counts() == {
        "train": dict.fromkeys(CLASSES, 16),
        "val": dict.fromkeys(CLASSES, 2),
        "test": dict.fromkeys(CLASSES, 2),
    }
    assert result.made_by == "stratified by class, data.split_seed 0, 80% train, 10% val, 10% test"
    assert split_warnings(result) == []
    assert names(listed(folder())) == names(result) != names(listed(folder(split_seed=1)))


def test_tables_are_stratified_in_any_order(table: Callable[..., SplitConfig], tmp_path: Path) -> None:
    result = listed(table(val=0.2))
    assert {split: set(item.values()) for split, item in result.counts().items()} == {
        "train": {14},
        "val": {4},
        "test": {2},
    }
    before = {split: {item.file or item.content for item in members} for split, members in result.members.items()}
    write(tmp_path / "rows.csv", random.Random(0).sample(ROWS, len(ROWS)))
    after = {
        split: {item.file or item.content for item in members}
        for split, members in listed(table(val=0.2)).members.items()
    }
    assert before == after


def test_groups_of_folders_by_a_pattern(folder: Callable[..., SplitConfig]) -> None:
    result = listed(folder(group=r"/(s\d+)_\d\.\w+$"))
    assert all(len(item) == 1 for item in sides(result, lambda item: item.group).values())
    assert set(sides(result, lambda item: item.group)) == {f"s{index}" for index in range(10)}
    assert {split: item.total() for split, item in result.counts().items()} == {"train": 48, "val": 6, "test": 6}
    assert "groups by data.group" in result.made_by


def test_groups_of_tables_by_a_column(table: Callable[..., SplitConfig]) -> None:
    result = listed(table(group="who"))
    groups = sides(result, lambda item: item.group)
    assert len(groups) == 7 and all(len(item) == 1 for item in groups.values())
    assert all(set(item) == set(CLASSES) for item in result.counts().values())


def test_folds_cover_all_samples_once(folder: Callable[..., SplitConfig]) -> None:
    tests = []
    for use in range(4):
        result = listed(folder(folds={"of": 4, "use": use}, val=0.2))
        assert {split: set(item.values()) for split, item in result.counts().items()} == {
            "train": {12}, "val": {3}, "test": {5},
        }  # fmt: skip
        tests.append(names(result)["test"])
    assert len(set().union(*tests)) == sum(map(len, tests)) == 60
    assert result.made_by.startswith("test is fold 3 of 4, stratified by class, data.split_seed 0; val is split off")


def test_folds_keep_groups(folder: Callable[..., SplitConfig]) -> None:
    result = listed(folder(folds={"of": 5}, group=r"(s\d+)_"))
    assert all(len(item) == 1 for item in sides(result, lambda item: item.group).values())
    assert result.counts()["test"].total() == 12


def test_folds_of_a_column(table: Callable[..., SplitConfig]) -> None:
    result = listed(table(folds={"column": "fold", "use": 2}, group="who"))
    expected = {item["text"] for item in ROWS if item["fold"] == 2}
    assert len(result.members["test"]) == len(expected) == 15
    assert "test is fold 2 of the column 'fold'" in result.made_by
    with pytest.raises(ConfigError, match=r"data.folds.use 7: the column 'fold' of .* gives the folds 0, 1, 2, 3"):
        table(folds={"column": "fold", "use": 7}).build("train")


def test_folds_of_a_pattern(folder: Callable[..., SplitConfig]) -> None:
    result = listed(folder(folds={"pattern": r"_(\d)\.", "use": 1}))
    assert all("_1." in name for name in names(result)["test"]) and len(names(result)["test"]) == 30
    with pytest.raises(ConfigError, match=r"data.folds.pattern 's\(0\)_' does not match the path"):
        folder(folds={"pattern": "s(0)_", "use": 0}).build("train")


def test_a_class_of_one_sample_is_trained_on_in_every_fold(tmp_path: Path) -> None:
    for index in range(9):
        put(tmp_path / f"data/cat/{index}.png")
    put(tmp_path / "data/dog/0.png")
    for use in range(3):
        config = ImageFolder.model_validate(
            {"type": "image_folder", "root": tmp_path / "data", "folds": {"of": 3, "use": use}}
        )
        assert config.build("train").classes == ("cat", "dog")
        assert "1 of 2 classes has no sample in test: dog" in "".join(split_warnings(listed(config)))


def test_parts_of_a_file_stay_together(tmp_path: Path) -> None:
    rows = [
        {
            "path": f"{index // 3}.wav",
            "from": index % 3,
            "for": 1,
            "label": CLASSES[index % 3],
            "who": f"w{index // 12}",
        }
        for index in range(120)
    ]
    write(tmp_path / "rows.csv", rows)
    config = {
        "type": "audio_manifest", "file": tmp_path / "rows.csv", "split_column": None, "offset_column": "from",
        "duration_column": "for",
    }  # fmt: skip
    for options in (
        {},
        {"split_by": "hash"},
        {"group": "who"},
        {"folds": {"of": 4}},
        {"group": "who", "split_seed": 3},
    ):
        result = listed(SoundTable.model_validate({**config, **options}))
        assert all(len(item) == 1 for item in sides(result, lambda item: item.file).values())
        assert sum(len(members) for members in result.members.values()) == 120


def test_equal_texts_and_rows_that_share_files_stay_together(tmp_path: Path) -> None:
    write(tmp_path / "texts.csv", [{"text": f"t{index % 20}", "label": index % 2} for index in range(100)])
    config = DocumentsConfig.model_validate({"type": "documents", "file": tmp_path / "texts.csv", "split_column": None})
    assert all(len(item) == 1 for item in sides(listed(config), lambda item: item.content).values())
    rows = [{"a": f"a{index}.png", "b": f"b{index // 2}.png", "label": f"g{index // 4}"} for index in range(80)]
    write(tmp_path / "pairs.csv", rows)
    sources = {name: {"type": "image", "column": name} for name in "ab"}
    options = {"type": "joint_manifest", "file": tmp_path / "pairs.csv", "split_column": None, "sources": sources}
    result = listed(JointManifestConfig.model_validate({**options, "label_column": None}))
    line = {f"pairs.csv:{index + 2}": index for index in range(80)}
    assert all(len(item) == 1 for item in sides(result, lambda item: line[item.name] // 2).values())
    result = listed(JointManifestConfig.model_validate({**options, "label": "group"}))
    assert all(len(item) == 1 for item in sides(result, lambda item: line[item.name] // 4).values())


def hashed(name: str) -> str:
    position = int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) / 2**64
    return "test" if position < 0.1 else "val" if position < 0.2 else "train"


def test_hashed_splits_are_what_they_were(
    folder: Callable[..., SplitConfig], table: Callable[..., SplitConfig]
) -> None:
    """Runs from before splits were stratified keep theirs."""
    result = config_splits(folder(split_by="hash"))
    assert all(hashed(name) == split for split, item in names(result).items() for name in item)
    result = config_splits(table(split_by="hash"))
    texts = {f"rows.csv:{line}": row["text"] for line, row in enumerate(ROWS, 2)}
    for split, members in result.members.items():
        for item in members:
            name = Path(item.file).name if item.file is not None else texts[item.name]
            assert hashed(str(name)) == split
    assert names(config_splits(folder(split_by="hash", split_seed=1))) != names(config_splits(folder(split_by="hash")))


def config_splits(config: SplitConfig) -> Splits:
    result = config.splits()
    assert result is not None
    return result


def test_val_is_split_off_by_class(folder: Callable[..., SplitConfig], tmp_path: Path) -> None:
    (tmp_path / "data").rename(tmp_path / "all")
    (tmp_path / "data").mkdir()
    (tmp_path / "all").rename(tmp_path / "data/train")
    suffix = next((tmp_path / "data/train/cat").iterdir()).suffix
    for label in CLASSES:
        put(tmp_path / f"data/test/{label}/0{suffix}")
    result = listed(folder(val=0.2, group=r"(s\d+)_"))
    assert {split: set(item.values()) for split, item in result.counts().items()} == {
        "train": {16},
        "val": {4},
        "test": {1},
    }
    assert all(len(item) == 1 for item in sides(result, lambda item: item.group).values() if item != {"test"})
    assert "by the folders of" in result.made_by and "val is split off train: stratified" in result.made_by


def test_what_has_no_effect_is_refused(folder: Callable[..., SplitConfig], tmp_path: Path) -> None:
    (tmp_path / "data").rename(tmp_path / "all")
    suffix = next((tmp_path / "all/cat").iterdir()).suffix
    for split in SPLITS:
        for label in CLASSES:
            put(tmp_path / f"data/{split}/{label}/0{suffix}")
    for key, value in {"folds": {"of": 5}, "test": 0.2, "val": 0.2, "split_seed": 1}.items():
        with pytest.raises(ConfigError, match=rf"data.{key} has no effect"):
            folder(**{key: value}).build("train")
    assert len(folder(split_by="hash").build("train")) == 3


def test_groups_that_the_datas_own_splits_part_are_named(tmp_path: Path) -> None:
    rows = [{**row, "split": "test" if row["fold"] == 0 else "train"} for row in ROWS]
    write(tmp_path / "rows.csv", rows)
    config = ImageTable.model_validate({"type": "image_manifest", "file": tmp_path / "rows.csv", "group": "who"})
    (warning,) = [text for text in split_warnings(listed(config)) if "group" in text]
    assert warning.startswith("5 groups are in more than one split: s0 (train, test), s1 (")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": "(x)(y)"}, r"'\(x\)\(y\)' has 2 groups"),
        ({"group": "x"}, "'x' has 0 groups; put what names the group into the only pair of parentheses"),
        ({"group": "(x"}, "is no regular expression"),
        ({"group": ""}, "group is empty"),
        ({"folds": {"of": 1}}, "greater than or equal to 2"),
        ({"folds": {"of": 5, "use": 5}}, "use 5: the folds of 5 are 0 to 4"),
        ({"folds": {"of": 5, "use": -1}}, "greater than or equal to 0"),
        ({"folds": {"use": 1}}, "give one of of, column and pattern"),
        ({"folds": {"of": 5, "column": "fold"}}, "give one of of, column and pattern"),
        ({"folds": {"column": "fold"}}, "folds.column is for tables"),
        ({"folds": {"pattern": "x"}}, "'x' has 0 groups"),
        ({"folds": {"of": 5}, "test": 0.2}, "test 0.2 has no effect with folds"),
        ({"folds": {"of": 5}, "split_by": "hash"}, "drop split_by: hash"),
        ({"val": 0.5, "test": 0.5}, "val 0.5 and test 0.5 leave nothing to train on"),
        ({"split_by": "luck"}, "'stratified' or 'hash'"),
    ],
)
def test_settings_that_contradict(folder: Callable[..., SplitConfig], options: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        folder(**options)


def test_settings_of_tables_that_contradict(table: Callable[..., SplitConfig]) -> None:
    with pytest.raises(ValidationError, match="split_column split has no effect with folds"):
        table(split_column="split", folds={"of": 5})
    with pytest.raises(ValidationError, match=r"folds.pattern is for files in folders"):
        table(folds={"pattern": "(x)"})
    assert table(group="no pattern (").group == "no pattern ("


def test_groups_that_match_nothing(folder: Callable[..., SplitConfig]) -> None:
    with pytest.raises(ConfigError, match=r"data.group '\(speaker\)' matches no path of data.root .*, such as 'cat/"):
        folder(group="(speaker)").build("train")
    with pytest.raises(ConfigError, match=r"data.folds.of 61: data.root .* has 60 .*; make fewer folds"):
        folder(folds={"of": 61}).build("train")
    with pytest.raises(ConfigError, match=r"makes 1 group of data.root .*, and 2 are needed"):
        folder(group=r"(\.)").build("train")
    (warning,) = config_splits(folder(group=r"(s[1-9])_")).warnings
    assert "does not match 6 of 60 paths, such as 'cat/s0_0" in warning


def test_columns_that_are_not_there(table: Callable[..., SplitConfig], tmp_path: Path) -> None:
    for options in ({"group": "speaker"}, {"folds": {"column": "speaker", "use": 0}}):
        with pytest.raises(ConfigError, match="has no column 'speaker'"):
            table(**options).build("train")
    write(tmp_path / "rows.csv", [{**row, "who": "" if row["fold"] == 0 else "x"} for row in ROWS])
    with pytest.raises(ConfigError, match=r"rows.csv:2: the value of 'who' is empty"):
        table(group="who").build("train")


def test_json_tables_with_numbers(tmp_path: Path) -> None:
    rows = [{"text": f"t{index}", "label": index % 2, "fold": float(index % 5)} for index in range(50)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = DocumentsConfig.model_validate(
        {
            "type": "documents",
            "file": tmp_path / "rows.jsonl",
            "split_column": None,
            "folds": {"column": "fold", "use": 3},
        }
    )
    assert Counter(item.label for item in listed(config).members["test"]) == {"0": 5, "1": 5}
