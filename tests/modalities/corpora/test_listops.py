from __future__ import annotations

import errno
import random
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from hrt_mm.cli.main import main
from hrt_mm.core.errors import ConfigError
from hrt_modalities.corpora.listops import FULL, SHORT, Rules, evaluate, expressions, read, starts, written
from hrt_modalities.corpora.listops_data import ListOpsConfig
from hrt_modalities.text import ByteTokenizer


def parsed(source: str) -> int:
    """The value of the original's form, read anew: a parenthesis holds a function and one more argument."""
    tokens = iter(source.split())

    def node() -> object:
        token = next(tokens)
        if token != "(":
            return token
        left, right = node(), node()
        assert next(tokens) == ")"
        if isinstance(left, str):
            return [left, int(right) if isinstance(right, str) else right]
        assert isinstance(left, list)
        if right != "]":
            return [*left, int(right) if isinstance(right, str) else right]
        name, *values = left
        median, total = int(np.median(values)), int(np.sum(values)) % 10
        return {"[MIN": min(values), "[MAX": max(values), "[MED": median, "[SM": total}[name]

    value = node()
    assert next(tokens, None) is None and isinstance(value, int)
    return value


@pytest.mark.parametrize(("rules", "count"), [(FULL, 60), (SHORT, 500)])
def test_values_are_those_of_the_expressions(rules: Rules, count: int) -> None:
    for expression, value in expressions(count, 0, rules):
        assert evaluate(expression) == parsed(written(expression)) == value
        assert rules.longer_than < len(expression) < rules.shorter_than


def test_expressions_follow_the_rules() -> None:
    result = [expression for expression, _ in expressions(3000, 1, SHORT)]
    assert len(set(result)) == 3000
    depths, arguments, operators = set(), set(), dict.fromkeys("<>~+", 0)
    for expression in result:
        counts: list[int] = [0]
        for symbol in expression:
            if symbol in operators:
                operators[symbol] += 1
                counts[-1] += 1
                counts.append(0)
                depths.add(len(counts))
            elif symbol == "]":
                arguments.add(counts.pop())
            else:
                counts[-1] += 1
    assert max(depths) == SHORT.depth and arguments == set(range(2, 11))
    assert max(operators.values()) < 1.1 * min(operators.values())


def test_lengths_are_those_of_the_rule_that_draws_whole_trees() -> None:
    """Trees that are given up early must not change what is left."""
    draw = random.Random(0)

    def size(depth: int) -> int:
        if depth == SHORT.depth or draw.random() > 0.25:
            return 1
        return 2 + sum(size(depth + 1) for _ in range(draw.randint(2, 10)))

    sizes = [length for length in (size(1) for _ in range(200_000)) if 30 < length < 150]
    ours = [len(expression) for expression, _ in expressions(8000, 0, SHORT)]
    tenths = np.arange(0.1, 1, 0.1)
    assert np.quantile(ours, tenths) == pytest.approx(np.quantile(sizes, tenths), rel=0.05)


def test_a_seed_gives_the_same_expressions_in_all_versions() -> None:
    first = list(expressions(20, 3, SHORT))
    assert first == list(islice(expressions(40, 3, SHORT), 20))
    assert first != list(expressions(20, 4, SHORT))
    assert next(expressions(1, 0, Rules(depth=3, longer_than=3, shorter_than=12))) == ("<556432]", 2)


def test_evaluate_and_starts() -> None:
    assert evaluate(">29<47]0]") == 9
    assert evaluate("~1283]") == 2 and evaluate("~19]") == 5 and evaluate("+99<12]]") == 9
    assert starts(">29<47]0]") == (0, 3, 7)
    assert written(">29<47]0]") == "( ( ( ( ( [MAX 2 ) 9 ) ( ( ( [MIN 4 ) 7 ) ] ) ) 0 ) ] )"
    for wrong in ("", "12", ">]", ">1", "1]", ">1]2", "(1)"):
        with pytest.raises(ValueError, match=r"expression|no place"):
            evaluate(wrong)


def config(folder: Path, **values: object) -> ListOpsConfig:
    return ListOpsConfig.model_validate(
        {"type": "listops", "short": True, "train": 30, "val": 5, "test": 6, "cache": folder} | values
    )


def test_the_dataset_and_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {split: config(tmp_path).build(split) for split in ("train", "val", "test")}
    assert [len(part) for part in parts.values()] == [30, 5, 6]
    samples = [part[index] for part in parts.values() for index in range(len(part))]
    assert len({sample.value.content for sample in samples}) == 41
    assert all(str(evaluate(sample.value.content)) == sample.label for sample in samples)
    tokenizer = ByteTokenizer(carried=("operators",)).with_boundaries({"operators"})
    tokens = tokenizer([sample.value for sample in samples[:4]])
    assert tokens.spans.lengths.tolist() == [tokenizer.size(parts["train"].shape(index)) for index in range(4)]
    assert tokens.x[:1].tolist() == [ord(samples[0].value.content[0])]
    monkeypatch.setattr("hrt_modalities.corpora.listops_data.expressions", lambda *_: pytest.fail("made anew"))
    again = config(tmp_path).build("val")
    assert [again[index] for index in range(5)] == [parts["val"][index] for index in range(5)]
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert config(tmp_path, cache=None, seed=1).build("val")[0] != again[0]
    assert len(list((tmp_path / "xdg" / "hrt_mm").iterdir())) == 1


def test_the_command_writes_what_the_dataset_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["data", "listops", "--out", str(out), "--short", "--train", "30", "--val", "5", "--test", "6"]
    assert main(command) == 0
    assert capsys.readouterr().out == f"{out}: 30 train, 5 val, 6 test\n"
    header, first = (out / "basic_train.tsv").read_text().splitlines()[:2]
    assert header == "Source\tTarget" and first.startswith("( ( (")
    source, target = first.split("\t")
    assert parsed(source) == int(target)
    for split in ("train", "val", "test"):
        ours, made = ListOpsConfig(type="listops", root=out).build(split), config(tmp_path).build(split)
        assert [ours[index] for index in range(len(ours))] == [made[index] for index in range(len(made))]
    assert main(command) == 2
    assert "is there already and not an empty folder" in capsys.readouterr().err
    assert main([*command[:2], "--out", str(tmp_path / "n"), "--train", "0"]) == 2
    assert "must be 1 or more" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> object:
        yield "1", 1
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hrt_modalities.corpora.listops_data.expressions", full)
    with pytest.raises(ConfigError, match=r"cannot be written: No space left on device; set data.cache"):
        config(tmp_path / "cache").build("train")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\n", r"basic_val.tsv:1 must be 'Source', a tab and 'Target'"),
        ("Source\tTarget\n[MIN 1 2 ]\t1\n[AVG 1 2 ]\t1\n", r"basic_val.tsv:3 is not an expression"),
        ("Source\tTarget\n[MIN 1 2 ]\n", r"basic_val.tsv:2 is not an expression"),
        ("Source\tTarget\n[MIN 1 2 ]\t12\n", r"basic_val.tsv:2 is not an expression"),
    ],
)
def test_broken_tables_are_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "basic_val.tsv").write_text(content)
    with pytest.raises(ConfigError, match=message):
        list(read(tmp_path / "basic_val.tsv"))
    with pytest.raises(ConfigError, match=r"basic_train.tsv is missing; write it with hrt-mm data listops"):
        ListOpsConfig(type="listops", root=tmp_path).build("train")


def test_settings_that_change_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="short has no effect beside root"):
        ListOpsConfig(type="listops", root=tmp_path, short=True)
    with pytest.raises(ConfigError, match="unknown split 'dev'"):
        config(tmp_path).build("dev")
