from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from hrt_mm.core.errors import ConfigError
from hrt_modalities.common.splits import SPLITS
from hrt_modalities.text import ByteTokenizer
from hrt_modalities.text.corpus import Corpus
from hrt_modalities.text.hugging_face import HuggingFaceConfig

TEXTS = [f"Text {index}: größer" for index in range(80)]


@pytest.fixture
def datasets() -> Any:
    """The package, without the warnings of its own imports."""
    return pytest.importorskip("datasets", reason="the package datasets is not installed")


def corpus(folder: Path, split: str, **values: Any) -> Corpus:
    config = {"type": "hugging_face", "path": str(folder), "context": 100_000} | values
    built = HuggingFaceConfig.model_validate(config).build(split)
    assert isinstance(built, Corpus)
    return built


def raw(found: Corpus) -> bytes:
    (content,) = ByteTokenizer().restore(ByteTokenizer()([found[0].value]))
    assert isinstance(content, bytes)
    return content


def test_rows_are_documents(datasets: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = datasets.Dataset.from_dict({"body": [*TEXTS, "", None], "id": list(range(82))})
    mixed = rows.shuffle(seed=0)
    mixed.save_to_disk(str(tmp_path / "one"))
    first = f"row {next(position for position, text in enumerate(mixed['body']) if not text)}"
    parts = {split: raw(corpus(tmp_path / "one", split, text_key="body", val=0.2, test=0.2)) for split in SPLITS}
    assert caplog.messages == [f"data.path {tmp_path}/one: 2 documents are empty and left out; {first} is the first"]
    assert sum(map(len, parts.values())) == sum(len(text.encode()) for text in TEXTS)
    assert all(sum(text.encode() in part for part in parts.values()) >= 1 for text in TEXTS)
    both = {"train": rows.select(range(40)), "validation": rows.select(range(40, 50)), "other": rows}
    datasets.DatasetDict(both).save_to_disk(str(tmp_path / "two"))
    assert raw(corpus(tmp_path / "two", "val", text_key="body")) == "".join(TEXTS[40:50]).encode()
    lengths = [len(raw(corpus(tmp_path / "two", split, text_key="body", test=0.3))) for split in ("train", "test")]
    assert sum(lengths) == sum(len(text.encode()) for text in TEXTS[:40]) and min(lengths) > 0


def test_mistakes_are_named(datasets: Any, tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"body": TEXTS, "id": list(range(80))}).save_to_disk(str(tmp_path / "one"))
    with pytest.raises(ConfigError, match=r"has no column 'text'; it has body, id. Set data.text_key"):
        corpus(tmp_path / "one", "train")
    with pytest.raises(ConfigError, match="'id' holds int64, not text"):
        corpus(tmp_path / "one", "train", text_key="id")
    own = {name: datasets.Dataset.from_dict({"text": ["x"]}) for name in ("train", "validation", "test")}
    datasets.DatasetDict(own).save_to_disk(str(tmp_path / "own"))
    with pytest.raises(ConfigError, match=r"data.split_seed 1 has no effect"):
        corpus(tmp_path / "own", "train", split_seed=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty' is neither a folder that save_to_disk wrote nor a dataset"):
        corpus(tmp_path / "empty", "train")
    datasets.DatasetDict({"test": datasets.Dataset.from_dict({"text": ["x"]})}).save_to_disk(str(tmp_path / "part"))
    with pytest.raises(ConfigError, match="has no training split; it has test"):
        corpus(tmp_path / "part", "train")
    with pytest.raises(ConfigError, match=r"data.test 0.1 has no effect, as .*part has a split of its own; drop it"):
        corpus(tmp_path / "part", "test", test=0.1)


def test_parquet_is_read(datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    (tmp_path / "many" / "data").mkdir(parents=True)
    rows.select(range(60)).to_parquet(tmp_path / "many" / "data" / "train-00000-of-00001.parquet")
    rows.select(range(60, 80)).to_parquet(tmp_path / "many" / "data" / "test-00000-of-00001.parquet")
    assert raw(corpus(tmp_path / "many", "test")) == "".join(TEXTS[60:]).encode()
    rows.to_parquet(tmp_path / "one.parquet")
    lengths = [len(raw(corpus(tmp_path / "one.parquet", split, val=0.2, test=0.2))) for split in SPLITS]
    assert sum(lengths) == sum(len(text.encode()) for text in TEXTS)
    (tmp_path / "one.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ConfigError, match=r"one.parquet' is neither .* nor Parquet"):
        corpus(tmp_path / "one.parquet", "train")


def test_without_the_package_the_message_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        ConfigError, match=r"needs the package datasets: pip install 'hrt-mm\[data\]'. Files and folders"
    ):
        corpus(tmp_path, "train")
    with pytest.raises(ConfigError, match="unknown split 'dev'"):
        corpus(tmp_path, "dev")
