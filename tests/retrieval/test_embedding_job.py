"""Embedding as a job: batches, workers, interruptions, known samples, texts of tables."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hrt_mm.cli.main import main
from hrt_mm.config import load_config
from hrt_mm.core.errors import ConfigError, UserError
from hrt_mm.retrieval import collecting, reading
from hrt_mm.retrieval.collecting import embed_files
from hrt_mm.retrieval.collection import Collection
from hrt_mm.retrieval.embed import Embedder
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.known import KnownRows
from hrt_mm.retrieval.partial import PROGRESS
from hrt_mm.retrieval.rows import Row
from hrt_mm.train.loop import train
from tests.retrieval.test_search_run import SMALL


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("glyphs")
    (folder / "small.yaml").write_text(SMALL)
    return train(
        load_config(folder / "small.yaml", [f"run.dir={folder / 'run'}", "train.steps=2", "train.eval_every=2"])
    )


@pytest.fixture(scope="module")
def embedder(run: Path) -> Embedder:
    return Embedder.of(str(run), device="cpu")


@pytest.fixture
def chunks_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK", 4)


def pictures(folder: Path, count: int) -> list[Path]:
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (count, 40, 40), np.uint8)
    for number, pixels_HW in enumerate(pixels):
        Image.fromarray(pixels_HW[: 16 + number % 5 * 6]).save(folder / f"{number:02}.png")
    return sorted(folder.iterdir())


def rows(folder: Path) -> list[str]:
    return [row.id for row in Collection(folder).rows()]


def test_batches_give_what_single_samples_give(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = pictures(tmp_path / "pictures", 11)
    names = []
    for chunk, tokens in ((128, 1 << 15), (4, 40), (1, 1)):
        monkeypatch.setattr(reading, "CHUNK", chunk)
        monkeypatch.setattr(reading, "BATCH_TOKENS", tokens)
        names.append(tmp_path / f"{chunk}")
        embed_files(embedder, "image", files, names[-1], levels=["glyph"], media=True)
    whole, *others = map(Collection, names)
    for other in others:
        assert list(other.rows()) == list(whole.rows())
        np.testing.assert_allclose(other.vectors_ND, whole.vectors_ND, atol=1e-5)
        assert [other.media(row) is not None for row in other.rows()] == [True] * len(other)


def test_batches_are_bounded_by_tokens_and_hold_samples_of_a_size(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["a b", "a long text of many words here", "c d", "one more long text of many words"]
    lengths: list[list[int]] = []
    encode = Embedder.encode

    def spy(self: Embedder, tower: str, tokens: Any, levels: Any = ()) -> Any:
        lengths.append(tokens.spans.lengths.tolist())
        return encode(self, tower, tokens, levels)

    monkeypatch.setattr(Embedder, "encode", spy)
    monkeypatch.setattr(reading, "BATCH_TOKENS", 30)
    table = tmp_path / "texts.csv"
    table.write_text("text\n" + "\n".join(texts) + "\n")
    assert main(["embed", str(embedder.run.folder), "--manifest", str(table), "--column", "text", "--tower", "text",
                 "--out", str(tmp_path / "v")]) == 0  # fmt: skip
    assert [len(batch) for batch in lengths] == [2, 1, 1]
    assert lengths[0][0] == lengths[0][1] < lengths[1][0] < lengths[2][0]
    assert [row.info["text"] for row in Collection(tmp_path / "v").rows()] == texts


def test_workers_give_the_same_rows(embedder: Embedder, tmp_path: Path, chunks_of_four: None) -> None:
    files = pictures(tmp_path / "pictures", 10)
    (tmp_path / "pictures" / "03.png").write_bytes(b"broken")
    outcomes = [
        embed_files(embedder, "image", files, tmp_path / f"{workers}", levels=["glyph"], workers=workers)
        for workers in (0, 2)
    ]
    here, there = Collection(tmp_path / "0"), Collection(tmp_path / "2")
    assert list(here.rows()) == list(there.rows())
    np.testing.assert_allclose(here.vectors_ND, there.vectors_ND, atol=1e-5)
    assert outcomes[0].left_out == outcomes[1].left_out
    assert list(outcomes[0].left_out.values()) == [[str(files[3])]]


class Killed(BaseException):
    """Ends a job as a signal does."""


def interrupted(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Lets the job end before it writes the chunk after some."""
    write, calls = collecting._Job._write, []

    def killed(self: Any, writer: Any, chunk: Any) -> None:
        calls.append(chunk)
        if len(calls) > after:
            # Part of the chunk is on disk.
            writer.add(np.zeros((1, writer.model.dim), np.float32), [Row("torn", "image")])
            writer.flush()
            raise Killed
        write(self, writer, chunk)

    monkeypatch.setattr(collecting._Job, "_write", killed)


def test_an_interrupted_job_continues(
    embedder: Embedder, tmp_path: Path, chunks_of_four: None, capsys: pytest.CaptureFixture[str]
) -> None:
    files = pictures(tmp_path / "pictures", 10)
    embed_files(embedder, "image", files, tmp_path / "whole", levels=["glyph"], media=True)
    with pytest.MonkeyPatch.context() as patch:
        interrupted(patch, 2)
        with pytest.raises(Killed):
            embed_files(embedder, "image", files, tmp_path / "v", levels=["glyph"], media=True)
    assert not (tmp_path / "v").exists()
    with pytest.raises(UserError, match=r"embedded with levels \['glyph'\], not \[\]"):
        embed_files(embedder, "image", files, tmp_path / "v", media=True)
    with pytest.raises(UserError, match="is not a collection"):
        Index.build(tmp_path / "index", [Collection(tmp_path / ".v.partial")])
    outcome = embed_files(embedder, "image", files, tmp_path / "v", levels=["glyph"], media=True)
    assert outcome.resumed == 8
    resumed, whole = Collection(tmp_path / "v"), Collection(tmp_path / "whole")
    resumed.verify()
    assert list(resumed.rows()) == list(whole.rows())
    np.testing.assert_array_equal(resumed.vectors_ND, whole.vectors_ND)
    for row in resumed.rows():
        ours, theirs = resumed.media(row), whole.media(row)
        assert ours is not None and theirs is not None and ours.read_bytes() == theirs.read_bytes()
    assert not (tmp_path / ".v.partial").exists() and not (tmp_path / "v" / PROGRESS).exists()


def test_files_that_change_while_a_job_is_interrupted(
    embedder: Embedder, tmp_path: Path, chunks_of_four: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = pictures(tmp_path / "pictures", 10)
    with pytest.MonkeyPatch.context() as patch:
        interrupted(patch, 2)
        with pytest.raises(Killed):
            embed_files(embedder, "image", files, tmp_path / "v", media=True)
    files[1].unlink()
    Image.new("L", (30, 30), 7).save(files[2])
    outcome = embed_files(embedder, "image", [*files[:1], *files[2:]], tmp_path / "v", media=True)
    assert outcome.resumed == 6 and outcome.counts == {"image": 9}
    assert sorted(rows(tmp_path / "v")) == sorted(str(file) for file in files if file != files[1])
    fresh = tmp_path / "fresh"
    embed_files(embedder, "image", [*files[:1], *files[2:]], fresh, media=True)
    resumed, whole = Collection(tmp_path / "v"), Collection(fresh)
    positions = {row.id: position for position, row in enumerate(whole.rows())}
    for row, vector_D in zip(resumed.rows(), resumed.vectors_ND, strict=True):
        position = positions[row.id]
        np.testing.assert_allclose(vector_D, whole.vectors_ND[position], atol=1e-5)
        ours, theirs = resumed.media(row), whole.media(whole.row(position))
        assert ours is not None and theirs is not None and ours.read_bytes() == theirs.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "pictures", "v"]


def test_a_job_can_start_again(embedder: Embedder, tmp_path: Path, chunks_of_four: None) -> None:
    files = pictures(tmp_path / "pictures", 6)
    with pytest.MonkeyPatch.context() as patch:
        interrupted(patch, 1)
        with pytest.raises(Killed):
            embed_files(embedder, "image", files, tmp_path / "v")
    (tmp_path / ".v.partial" / "rows.jsonl").write_bytes(b"")
    with pytest.raises(UserError, match=r"is damaged.*--restart"):
        embed_files(embedder, "image", files, tmp_path / "v")
    outcome = embed_files(embedder, "image", files, tmp_path / "v", restart=True)
    assert outcome.resumed == 0 and outcome.counts == {"image": 6}


def test_bytes_in_parquet(
    run: Path,
    embedder: Embedder,
    tmp_path: Path,
    chunks_of_four: None,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    files = pictures(tmp_path / "pictures", 10)
    embed_files(embedder, "image", files, tmp_path / "files", levels=["glyph"], media=True)
    cells: list[Any] = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    cells.insert(4, {"bytes": b"no picture", "path": "x.png"})
    table = tmp_path / "pictures.parquet"
    columns = {"image": cells, "title": [f"picture {number}" for number in range(11)]}
    parquet.write_table(arrow.table(columns), table, row_group_size=3)
    argv = ["embed", str(run), "--manifest", str(table), "--column", "image", "--tower", "image", "--level", "glyph"]
    argv += ["--media", "--out"]
    assert main([*argv, str(tmp_path / "whole"), "--workers", "2"]) == 0
    assert f"left out: {table}:5: not an image" in caplog.text
    with pytest.MonkeyPatch.context() as patch:
        interrupted(patch, 1)
        with pytest.raises(Killed):
            main([*argv, str(tmp_path / "v")])
    capsys.readouterr()
    assert main([*argv, str(tmp_path / "v")]) == 0
    assert "; 4 were embedded before it was interrupted" in capsys.readouterr().out
    whole, resumed, expected = (Collection(tmp_path / name) for name in ("whole", "v", "files"))
    assert list(resumed.rows()) == list(whole.rows())
    ids = [row.id for row in resumed.rows() if not row.level]
    assert ids == [f"pictures.parquet:{number}" for number in range(1, 12) if number != 5]
    assert resumed.row(0).info == {"title": "picture 0", "file": str(table)}
    for other in (whole, resumed):
        np.testing.assert_allclose(other.vectors_ND, expected.vectors_ND, atol=1e-5)
    for row, same in zip(resumed.rows(), expected.rows(), strict=True):
        assert (row.level, row.box) == (same.level, same.box)
        ours, theirs = resumed.media(row), expected.media(same)
        assert ours is not None and theirs is not None and ours.read_bytes() == theirs.read_bytes()
    # The bytes of a text file are a text.
    text = tmp_path / "texts.parquet"
    parquet.write_table(arrow.table({"body": [b"six dots", None], "id": ["a", "b"]}), text)
    argv = ["embed", str(run), "--manifest", str(text), "--column", "body", "--tower", "text", "--out"]
    assert main([*argv, str(tmp_path / "t")]) == 0
    assert [row.info["text"] for row in Collection(tmp_path / "t").rows()] == ["six dots"]


def test_a_split_continues(run: Path, tmp_path: Path, chunks_of_four: None, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["embed", str(run), "--split", "test", "--out"]
    assert main([*argv, str(tmp_path / "whole")]) == 0
    with pytest.MonkeyPatch.context() as patch:
        interrupted(patch, 3)
        with pytest.raises(Killed):
            main([*argv, str(tmp_path / "v")])
    assert main([*argv, str(tmp_path / "v")]) == 0
    assert "; 24 were embedded before it was interrupted" in capsys.readouterr().out
    assert list(Collection(tmp_path / "v").rows()) == list(Collection(tmp_path / "whole").rows())


def test_known_samples_are_not_embedded_again(
    run: Path, embedder: Embedder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = pictures(tmp_path / "pictures", 6)
    argv = ["embed", str(run), str(tmp_path / "pictures"), "--tower", "image"]
    assert main([*argv, "--out", str(tmp_path / "v")]) == 0
    Index.build(tmp_path / "index", [Collection(tmp_path / "v")])
    known = ["--skip-known", str(tmp_path / "index")]
    capsys.readouterr()
    assert main([*argv, *known, "--out", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'none'}: nothing new; 6 known and unchanged\n"
    assert len(Collection(tmp_path / "none")) == 0
    Image.new("L", (30, 30), 7).save(files[2])
    Image.new("L", (30, 30), 9).save(tmp_path / "pictures" / "new.png")
    assert main([*argv, "--skip-known", str(tmp_path / "v"), "--out", str(tmp_path / "w")]) == 0
    out = capsys.readouterr().out
    assert "2 of image; 5 known and unchanged" in out and "1 changed and were embedded again" in out
    assert f"\n  {files[2]}\n" in out
    assert rows(tmp_path / "w") == [str(files[2]), str(tmp_path / "pictures" / "new.png")]
    other = Index.create(tmp_path / "other", type(embedder.model)("b" * 64, embedder.model.dim))
    with pytest.raises(UserError, match="vectors of another model"):
        embed_files(embedder, "image", files, tmp_path / "x", known=KnownRows({"other": other}))
    assert main([*argv, "--skip-known", str(tmp_path / "pictures"), "--out", str(tmp_path / "y")]) == 2
    assert "neither an index nor a collection" in capsys.readouterr().err


def test_unreadable_files_are_grouped_by_reason(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(tmp_path / "pictures", 1)
    broken = [tmp_path / "pictures" / f"class {number}.txt" for number in range(20)]
    for path in broken:
        path.write_text("a label")
    argv = ["embed", str(run), *map(str, broken), str(tmp_path / "pictures" / "00.png"), str(tmp_path / "pictures")]
    assert main([*argv, "--tower", "image", "--out", str(tmp_path / "v")]) == 0
    (named,) = [record.message for record in caplog.records if "not an image" in record.message]
    assert named.startswith(f"left out: {broken[0]}, {broken[1]}, {broken[2]} and 17 more: not an image")
    assert "left out 20 of 21 samples" in caplog.text
    assert main(["embed", str(run), *map(str, broken), "--tower", "image", "--out", str(tmp_path / "w")]) == 2
    assert "none of 20 files can be embedded as image" in capsys.readouterr().err
    assert not (tmp_path / "w").exists() and not (tmp_path / ".w.partial").exists()


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "csv.gz"])
def test_texts_of_a_column(run: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    values = [{"sku": f"a-{number}", "description": f"six dots, {number}", "price": str(number)} for number in range(5)]
    values[3]["description"] = " "
    table = tmp_path / f"shop.{suffix}"
    if suffix == "jsonl":
        table.write_text("".join(f"{json.dumps(value)}\n" for value in values))
    else:
        opener = gzip.open if suffix.endswith("gz") else open
        with opener(table, "wt", newline="") as file:
            writer = csv.DictWriter(file, list(values[0]), delimiter="\t" if suffix == "tsv" else ",")
            writer.writeheader()
            writer.writerows(values)
    argv = ["embed", str(run), "--manifest", str(table), "--tower", "text", "--column", "description"]
    assert main([*argv, "--id-column", "sku", "--out", str(tmp_path / "v")]) == 0
    assert "4 of text" in capsys.readouterr().out
    for row, value in zip(Collection(tmp_path / "v").rows(), [*values[:3], values[4]], strict=True):
        assert row.id == value["sku"] and row.info == {**value, "file": str(table)}
    assert main([*argv, "--out", str(tmp_path / "w")]) == 0
    assert rows(tmp_path / "w")[0] == (f"{table.name}:1" if suffix == "jsonl" else f"{table.name}:2")
    assert main([*argv[:-1], "words", "--out", str(tmp_path / "x")]) == 2
    assert "has no column 'words'; its columns are sku, description, price" in capsys.readouterr().err


def test_a_table_is_not_one_text(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "pairs.tsv"
    table.write_text("name\tpath\ndots\ta.png\n")
    argv = ["embed", str(run), "--tower", "text", "--out", str(tmp_path / "v")]
    assert main([*argv, str(table)]) == 2
    assert f"{table} is a table, which would be embedded as one text" in capsys.readouterr().err
    (tmp_path / "a.txt").write_text("dots")
    assert main([*argv, str(tmp_path)]) == 0
    assert rows(tmp_path / "v") == [str(tmp_path / "a.txt")] and "left out 1 file of .tsv" in caplog.text


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--device", "tpu"], "device 'tpu' is unknown; it is auto, cpu, cuda or cuda:N"),
        (["--device", "cuda:99"], "device cuda:99 is not available"),
        (["--workers", "-1"], "-1 workers are not possible"),
        (["--column", "x"], "--column has no effect without --manifest"),
        (["--split", "test", "a.png"], "--split is of the run's data, and files are given"),
    ],
)
def test_mistakes_are_explained(
    run: Path, tmp_path: Path, options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", str(run), *options, "--out", str(tmp_path / "v")]) == 2
    assert reason in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_from_python(embedder: Embedder, tmp_path: Path) -> None:
    files = pictures(tmp_path / "pictures", 3)
    outcome = embedder.embed_folder(str(tmp_path / "pictures"), out=str(tmp_path / "vectors"))
    assert outcome.counts == {"image": 3}
    collection = Collection(tmp_path / "vectors")
    for sources in (
        list(map(str, files)),
        [Image.open(file) for file in files],
        [np.array(Image.open(file)) for file in files],
    ):
        np.testing.assert_allclose(embedder.embed(sources, "image"), collection.vectors_ND, atol=1e-5)
    mixed = embedder.embed([files[1], "six dots", Image.open(files[2])])
    np.testing.assert_allclose(mixed[[0, 2]], collection.vectors_ND[1:], atol=1e-5)
    np.testing.assert_allclose(mixed[1], embedder.query("text", "six dots"), atol=1e-5)
    assert embedder.embed([]).shape == (0, embedder.model.dim)
    with pytest.raises(UserError, match="no such file"):
        embedder.embed(["gone.png"], "image")


def test_bf16_is_near_fp32(run: Path, embedder: Embedder) -> None:
    half = Embedder.of(run, device="cpu", precision="bf16")
    ours, theirs = half.embed(["six dots", "one dot"]), embedder.embed(["six dots", "one dot"])
    assert ours.dtype == np.float32 and not np.array_equal(ours, theirs)
    np.testing.assert_allclose(ours, theirs, atol=0.05)
    with pytest.raises(ConfigError, match="precision 'fp8' is unknown"):
        Embedder.of(run, precision="fp8")
    assert half.device == torch.device("cpu")
