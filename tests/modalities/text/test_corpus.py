from __future__ import annotations

import json
import logging
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from hrt_mm.config import load_config
from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data.splits import split_warnings
from hrt_mm.tasks.language import LanguageConfig
from hrt_mm.train.resolved import resolved_yaml
from hrt_mm.train.sampler import Plan, Position
from hrt_mm.train.samples import BatchMaker
from hrt_modalities.text import ByteTokenizer
from hrt_modalities.text.corpus import Corpus, CorpusConfig, documents
from hrt_modalities.text.sources import Files

SEPARATOR = 256


def stream(documents: list[bytes]) -> list[int]:
    return [token for document in documents for token in (SEPARATOR, *document)]


def folder(root: Path, documents: list[bytes]) -> Path:
    root.mkdir()
    for index, document in enumerate(documents):
        (root / f"{index:03}.txt").write_bytes(document)
    return root


def corpus(root: Path, context: int, *, training: bool = False) -> Corpus:
    paths = sorted(root.iterdir())
    source = Files(root, [path.name for path in paths], [path.stat().st_size for path in paths])
    return Corpus(source, context, training=training)


DOCUMENTS = [b"first document", b"x", "zweites Dokument: größer".encode(), b"\xff\x00raw", b"end"]


@pytest.mark.parametrize("context", [2, 3, 7, 16, 100])
def test_every_token_but_the_first_is_predicted_once(context: int, tmp_path: Path) -> None:
    result = corpus(folder(tmp_path / "d", DOCUMENTS), context)
    tokenizer, expected = ByteTokenizer(), stream(DOCUMENTS)
    windows = [tokenizer([result[index].value]).x.tolist() for index in range(len(result))]
    assert windows[0] + [token for window in windows[1:] for token in window[1:]] == expected
    assert all(len(window) == context for window in windows[:-1])
    assert all(a[-1] == b[0] for a, b in pairwise(windows))
    assert [tokenizer.size(result.shape(index)) for index in range(len(result))] == [len(window) for window in windows]


def test_training_windows_are_full_and_move(tmp_path: Path) -> None:
    result = corpus(folder(tmp_path / "d", DOCUMENTS), 9, training=True)
    expected = stream(DOCUMENTS)
    seen = set()
    for draw in range(30):
        torch.manual_seed(draw)
        for index in range(len(result)):
            ids = ByteTokenizer()([result[index].value]).x.tolist()
            assert len(ids) == 9
            starts = [position for position in range(len(expected)) if expected[position : position + 9] == ids]
            assert (starts and starts[0] in range(index * 9, index * 9 + 9)) or starts[-1] == len(expected) - 9
            seen.update(starts)
    assert len(seen) > 0.8 * (len(expected) - 9)
    torch.manual_seed(3)
    first = result[1].value
    torch.manual_seed(3)
    assert result[1].value == first, "the loader's seed decides"


def test_a_short_corpus_is_one_window(tmp_path: Path) -> None:
    for training in (False, True):
        result = corpus(folder(tmp_path / f"d{training}", [b"abc"]), 50, training=training)
        assert len(result) == 1
        assert ByteTokenizer()([result[0].value]).x.tolist() == stream([b"abc"])


def test_the_standard_library_is_there(tmp_path: Path) -> None:
    sizes = {}
    names: list[set[str]] = []
    for split in ("train", "val", "test"):
        result = CorpusConfig(type="corpus").build(split)
        sizes[split] = result.total
        names.append(set(result.source.names))
        assert all(name.endswith(".py") for name in names[-1])
        assert len(result[len(result) // 2].value.content) > 1000
    assert sizes["train"] > 5_000_000 and min(sizes.values()) > 100_000
    assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]
    assert not any("site-packages" in name for name in names[0])


def test_folders_files_and_own_splits(tmp_path: Path) -> None:
    home = folder(tmp_path / "d", [f"text {index} ".encode() * 5 for index in range(60)])
    (home / ".hidden.txt").write_text("no")
    (home / "note.md").write_text("no")
    (home / "empty.txt").write_text("")
    config = CorpusConfig(type="corpus", files=(home,), suffixes=(".txt",), val=0.2, test=0.2, context=8)
    parts = [config.build(split).source.names for split in ("train", "val", "test")]
    assert sum(map(len, parts)) == 60 and len({name for part in parts for name in part}) == 60
    assert all(len(part) >= 4 for part in parts) and len(parts[0]) > 25
    own = CorpusConfig(type="corpus", files=(home / "000.txt",), val_files=(home / "001.txt",), test=0.01, context=8)
    assert [Path(name).name for name in own.build("train").source.names] == ["000.txt"]
    assert [Path(name).name for name in own.build("val").source.names] == ["001.txt"]


def test_splits_do_not_depend_on_where_the_data_lies(tmp_path: Path) -> None:
    texts = [f"text {index}".encode() for index in range(60)]
    homes = [folder(tmp_path / name, texts) for name in ("here", "there")]
    for split in ("train", "val", "test"):
        parts = [CorpusConfig(type="corpus", files=(home,), val=0.2, test=0.2).build(split) for home in homes]
        first, second = ([Path(name).name for name in part.source.names] for part in parts)
        assert first == second


def test_lines_of_json_are_documents(tmp_path: Path) -> None:
    file, texts = tmp_path / "a.jsonl", [f"Text {index}: größer" for index in range(30)]
    file.write_text("\n".join(json.dumps({"body": text, "id": 1}) for text in [*texts, ""]) + "\n\n")
    config = CorpusConfig(type="corpus", files=(file,), text_key="body", val=0.2, test=0.2, context=1000)
    result = []
    for split in ("train", "val", "test"):
        part = config.build(split)
        (raw,) = ByteTokenizer().restore(ByteTokenizer()([part[0].value]))
        result += [text for text in texts if text.encode() in raw]
        assert len(raw) == part.source.sizes.sum()
    assert sorted(result) == sorted(texts)


def test_a_link_out_of_the_folder_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    home = folder(tmp_path / "d", [b"one"])
    (home / "link.txt").symlink_to(tmp_path / "secret.txt")
    names = CorpusConfig(type="corpus", files=(home,), val_files=(home,)).build("val").source.names
    assert [Path(name).name for name in names] == ["000.txt"]


def test_hidden_files_pipes_and_circles_are_no_documents(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = folder(tmp_path / "d", [b"one", b"two"])
    for name in (".hidden.txt", "._000.txt", "Thumbs.db", "000.txt~"):
        (home / name).write_bytes(b"x")
    (home / "B.TXT").write_bytes(b"three")
    os.mkfifo(home / "pipe.txt")
    (home / "up").symlink_to(".")
    (home / "gone.txt").symlink_to("nowhere")
    with caplog.at_level(logging.WARNING):
        for suffixes in ((), (".txt",)):
            config = CorpusConfig(type="corpus", files=(home,), suffixes=suffixes, val=None, test=None)
            names = config.build("train").source.names
            assert [Path(name).name for name in names] == ["000.txt", "001.txt", "B.TXT"]
    assert "gone.txt (a broken link: No such file or directory), pipe.txt (a FIFO), up (a link" in caplog.text
    with pytest.raises(ConfigError, match=r"pipe.txt is a FIFO, not a file or folder"):
        CorpusConfig(type="corpus", files=(home / "pipe.txt",)).build("train")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": null}', r"a.jsonl:2: the text at 'text' is null"),
        ('{"text": 5}', r"a.jsonl:2: 'text' must be a text, got 5"),
        ("[" * 100_000, r"a.jsonl:2 is JSON nested too deeply"),
        ("{broken", r"a.jsonl:2 is no JSON"),
        ("[1]", r"a.jsonl:2 has no text at 'text'; it is a list. Set data.text_key"),
        ('{"body": "x"}', r"a.jsonl:2 has no text at 'text'; it has body. Set data.text_key"),
        ('{"text": "a\\ud800"}', r"a.jsonl:2: 'text' has a lone surrogate"),
    ],
)
def test_broken_lines_are_named(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(ConfigError, match=message):
        CorpusConfig(type="corpus", files=(file,)).build("train")


def test_missing_and_empty_places_are_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for files, message in (
        ((tmp_path / "nowhere",), r"nowhere: no such file or folder"),
        ((empty,), r"empty has no file that ends in .txt"),
        ((tmp_path / "a.jsonl", tmp_path), r"mix .*a.jsonl with other kinds"),
    ):
        with pytest.raises(ConfigError, match=message):
            documents(files, () if len(files) > 1 else (".txt",))
    one = folder(tmp_path / "one", [b"single"])
    config = CorpusConfig(type="corpus", files=(one / "000.txt",), val=0.01, test=0.01)
    with pytest.raises(ConfigError, match=r"no document for the val split.*set data.val_files"):
        config.build("val")
    with pytest.raises(ConfigError, match="unknown split 'dev'"):
        config.build("dev")


def test_a_file_that_changed_is_a_bad_sample(tmp_path: Path) -> None:
    home = folder(tmp_path / "d", DOCUMENTS)
    result = corpus(home, 100)
    (home / "002.txt").write_bytes(b"cut")
    with pytest.raises(BadSample, match=r"002.txt: is shorter than the \d+ bytes it had"):
        result[0]
    (home / "002.txt").unlink()
    with pytest.raises(BadSample, match=r"002.txt: cannot be read"):
        result[0]


@pytest.mark.parametrize("name", ["val", "test"])
def test_a_part_beside_files_of_the_same_split_is_refused(name: str, tmp_path: Path) -> None:
    home = folder(tmp_path / "d", DOCUMENTS)
    plain = {"type": "corpus", "files": (home / "000.txt",), f"{name}_files": (home / "001.txt",)}
    with pytest.raises(ValidationError, match=rf"{name} 0.05 has no effect beside {name}_files; .* {name}: null"):
        CorpusConfig.model_validate({**plain, name: 0.05})
    for settings in (plain, {**plain, name: None}):
        result = CorpusConfig.model_validate(settings).build(name)
        assert [Path(item).name for item in result.source.names] == ["001.txt"]


def test_a_file_that_extends_one_with_a_part_drops_it_with_null(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text")
    (tmp_path / "run.yaml").write_text(f"extends: text/quickstart\ndata: {{files: [{tmp_path}/a.txt]}}\n")
    files = f"data.val_files=[{tmp_path}/a.txt]"
    with pytest.raises(ConfigError, match=r"val 0.02 has no effect beside val_files"):
        load_config(tmp_path / "run.yaml", [files])
    config = load_config(tmp_path / "run.yaml", [files, "data.val=null", "data.test=null"])
    (tmp_path / "written.yaml").write_text(resolved_yaml(config))
    assert load_config(tmp_path / "written.yaml") == config
    assert isinstance(config.data, CorpusConfig)
    assert config.data.build("train").total == config.data.build("val").total == 10
    with pytest.raises(ConfigError, match=r"for the test split, as data.test is null; set it, or set data.test_files"):
        config.data.build("test")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val": 0.6, "test": 0.4}, "val 0.6 and test 0.4 leave nothing to train on"),
        ({"text_key": "body"}, "text_key body has no effect without a .jsonl file"),
        ({"suffixes": (".txt",)}, "suffixes .txt have no effect without folders"),
        ({"files": ("a.jsonl",), "suffixes": (".txt",)}, "suffixes .txt have no effect without folders"),
        ({"val_files": ("a.txt",)}, "val_files and test_files need files"),
        ({"context": 1}, "context 1 leaves nothing to predict"),
    ],
)
def test_settings_without_effect_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CorpusConfig.model_validate({"type": "corpus", **settings})


def test_empty_documents_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = folder(tmp_path / "d", [b"", b"text", b""])
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"text": "one"}\n\n{"text": ""}\n')
    with caplog.at_level(logging.WARNING):
        config = CorpusConfig(type="corpus", files=(home,), val_files=(lines,), test=None)
        for split in ("train", "val"):
            config.build(split)
        CorpusConfig(type="corpus").build("train")
    assert caplog.messages == [
        f"data.files: 2 documents are empty and left out; {home}/000.txt is the first",
        f"data.val_files: 1 document is empty and left out; {lines}:3",
    ]


def test_a_corpus_of_empty_documents_is_refused(tmp_path: Path) -> None:
    home = folder(tmp_path / "d", [b"", b""])
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n{"text": ""}\n')
    with pytest.raises(ConfigError, match=r"data.files: every file is empty \(2 of them\); the first is .*000.txt"):
        CorpusConfig(type="corpus", files=(home,)).build("train")
    with pytest.raises(ConfigError, match=r"a.jsonl: no line has a text; 2 have an empty one"):
        CorpusConfig(type="corpus", files=(tmp_path / "a.jsonl",)).build("train")


@pytest.mark.parametrize("line", ['{"text": 5}', '["text"]', '{"body": "x"}', "{broken", '{"text": "other"}', ""])
def test_a_line_that_changed_is_a_bad_sample(line: str, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "some text"}\n')
    result = CorpusConfig(type="corpus", files=(file,), val=None, test=None).build("train")
    file.write_text(line)
    with pytest.raises(BadSample, match=r"a.jsonl:0: (cannot be read any more|is not what it was)"):
        result[0]


def test_a_file_that_cannot_be_read_in_mid_run_is_skipped_counted_and_named(tmp_path: Path) -> None:
    home = folder(tmp_path / "d", [b"0123456789" * 4, b"abcdefghij" * 4])
    result = CorpusConfig(type="corpus", files=(home,), val=None, test=None, context=10).build("train")
    (home / "001.txt").unlink()
    maker = BatchMaker(result, LanguageConfig(type="language").collator({}, {"": ByteTokenizer()}, None), seed=0)
    plan = Plan(Position(), tuple(range(len(result))), Position())
    loaded = maker[plan]
    assert loaded.batch is not None and loaded.error is None
    assert loaded.bad and len(loaded.bad) + len(loaded.batch) == len(result)
    assert all("001.txt: cannot be read: No such file" in str(bad) for bad in loaded.bad)


def test_splits_list_documents_and_follow_the_seed(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", [b"text %d" % index for index in range(200)])
    held = folder(tmp_path / "held", [b"text 1", b"other"])
    options = {"type": "corpus", "files": [root], "val": 0.2, "test": None, "test_files": [held]}
    seeds = [CorpusConfig.model_validate({**options, "split_seed": seed}) for seed in (0, 1)]
    names = [{split: [item.name for item in members] for split, members in config.splits().members.items()}
             for config in seeds]  # fmt: skip
    for config, listed in zip(seeds, names, strict=True):
        for split, item in listed.items():
            assert list(config.build(split).source.names) == item
    assert names[0]["val"] != names[1]["val"] and 20 < len(names[0]["val"]) < 60
    assert seeds[0].splits().made_by.endswith("data.split_seed 0; test by data.test_files")
    with pytest.raises(ValidationError, match="split_seed 1 has no effect, as no documents are split off"):
        CorpusConfig.model_validate({**options, "val": None, "split_seed": 1})
    assert any("1 content is in more than one split" in text for text in split_warnings(seeds[0].splits()))
