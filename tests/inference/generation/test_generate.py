"""Continuing texts with a small language model over bytes, trained within seconds to count through the alphabet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hrt_mm.cli.generate import _context
from hrt_mm.cli.main import main
from hrt_mm.config import load_config
from hrt_mm.core.errors import UserError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.inference.generation import GeneratedText, Sampling, Session, generate
from hrt_mm.tasks import Batch, LanguageConfig, LanguageModel
from hrt_mm.train.loop import train
from hrt_modalities.text import ByteTokenizer, Text
from hrt_modalities.text.subwords import SubwordTokenizer, train_subwords

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def model_of(group: dict[str, Any], pool: str = "mean") -> HierarchyConfig:
    fine = {
        "name": "bytes",
        "dim": 32,
        "depth": 1,
        "heads": 2,
        "window": 4,
        "window_type": "sliding",
        "pool": pool,
        "group": group,
    }
    coarse = {"name": "words", "dim": 32, "depth": 1, "heads": 2}
    return HierarchyConfig.model_validate({"levels": [fine, coarse], "causal": True, "top_down": True})


def built(group: dict[str, Any], **options: Any) -> LanguageModel:
    torch.manual_seed(0)
    tokenizer = ByteTokenizer()
    if group["type"] == "given":
        tokenizer = tokenizer.with_boundaries({group["boundary"]})
    task = LanguageConfig(type="language").build(model_of(group, **options), tokenizer, None)
    assert isinstance(task, LanguageModel)
    return task


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    result = built({"type": "fixed", "stride": 3})
    optimizer = torch.optim.AdamW(result.parameters(), lr=4e-3)
    text = f"{ALPHABET} {ALPHABET}"
    for _ in range(60):
        result(Batch.of(result.tokenizer([Text(text, (0, len(text)))] * 4))).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return result.eval()


def texts(pieces: list[GeneratedText], count: int) -> list[str]:
    return ["".join(piece.text for piece in pieces if piece.sample == sample) for sample in range(count)]


def endings(pieces: list[GeneratedText]) -> list[str | None]:
    return [piece.ended for piece in sorted(pieces, key=lambda piece: piece.sample) if piece.ended]


GREEDY = Sampling(0.0)


def test_prompts_of_different_lengths_go_on_as_they_were_taught(model: LanguageModel) -> None:
    prompts = ["", "abc", "mnopqrstu", b"x"]
    pieces = list(generate(model, prompts[:3], max_tokens=5, sampling=GREEDY))
    assert texts(pieces, 3) == ["abcde", "defgh", "vwxyz"]
    assert endings(pieces) == ["length"] * 3


def test_it_ends_where_the_model_ends_it(model: LanguageModel) -> None:
    pieces = list(generate(model, [f"{ALPHABET} {ALPHABET[:20]}"], max_tokens=50, sampling=GREEDY))
    assert texts(pieces, 1) == [ALPHABET[20:]]
    assert endings(pieces) == ["separator"]


@pytest.mark.parametrize(
    ("stop", "expected"), [(["gh"], "def"), (["zz", "efg"], "d"), (["d"], ""), (["hx"], "defghijk")]
)
def test_stop_strings_are_not_written_and_wait_for_no_one(model: LanguageModel, stop: list[str], expected: str) -> None:
    pieces = list(generate(model, ["abc"], max_tokens=8, sampling=GREEDY, stop=stop))
    assert texts(pieces, 1) == [expected]
    assert endings(pieces) == (["length"] if stop == ["hx"] else ["stop"])


def test_texts_come_as_they_are_written(model: LanguageModel) -> None:
    pieces = list(generate(model, ["abc", "ghij"], max_tokens=4, sampling=GREEDY, stop=["f?"]))
    assert [piece.text for piece in pieces if piece.sample == 0][:2] == ["d", "e"]
    assert texts(pieces, 2) == ["defg", "klmn"]


@pytest.mark.parametrize(
    "group",
    [
        {"type": "fixed", "stride": 3},
        {"type": "given", "boundary": "spaces", "max": 6},
        {"type": "learned", "target": 3, "max": 6},
    ],
    ids=lambda group: group["type"],
)
def test_a_seed_gives_the_same_text_alone_and_in_a_batch(group: dict[str, Any]) -> None:
    result = built(group).double().eval()
    prompts, seeds = ["ab cd", "", "the end of it. "], [5, 6, 7]
    together = texts(list(generate(result, prompts, max_tokens=25, seeds=seeds)), 3)
    alone = [
        texts(list(generate(result, [p], max_tokens=25, seeds=[s])), 1)[0] for p, s in zip(prompts, seeds, strict=True)
    ]
    assert together == alone
    assert texts(list(generate(result, prompts, max_tokens=25, seeds=[1, 2, 3])), 3) != together


@pytest.mark.parametrize("group", [{"type": "given", "boundary": "spaces"}, {"type": "learned", "target": 3, "max": 6}])
def test_a_session_equals_the_forward_pass(group: dict[str, Any]) -> None:
    """Embedding, hierarchy and head, with the boundaries that the tokenizer finds while it decodes."""
    result = built(group, pool="conv").double().eval()
    values: list[Any] = [Text("one two  three_four\n中文 five", (0,)), Text("a b", (0,))]
    whole = result.tokenizer(values)
    with torch.no_grad():
        expected = [result.logits(rows) for rows in whole.spans.split(result.encoder(whole)[0].x)]
    ids = whole.split()
    session = Session(result, result.tokenizer([Text("", (0,)), Text("", (0,))]))
    alive = [0, 1]
    for index in range(len(ids[0])):
        for row, sample in enumerate(alive):
            torch.testing.assert_close(session.logits_BV[row], expected[sample][index].float(), atol=1e-5, rtol=1e-5)
        staying = [row for row, sample in enumerate(alive) if index + 1 < len(ids[sample])]
        if len(staying) < len(alive):
            session.select(staying)
            alive = [alive[row] for row in staying]
        if alive:
            session.step(torch.stack([ids[sample][index + 1] for sample in alive]))


def test_a_prompt_longer_than_the_training_texts_works(model: LanguageModel) -> None:
    pieces = list(generate(model, [ALPHABET * 40, "ab"], max_tokens=3, sampling=GREEDY))
    assert texts(pieces, 2)[1] == "cde" and len(endings(pieces)) == 2


def test_going_beyond_the_trained_context_is_said_once(model: LanguageModel, caplog: pytest.LogCaptureFixture) -> None:
    list(generate(model, ["a", "abc"], max_tokens=4, context=8))
    list(generate(model, ["abc"], max_tokens=40))
    assert not caplog.messages
    list(generate(model, ["a", "abc"], max_tokens=5, context=8))
    assert len(caplog.messages) == 1
    assert "a prompt of 4 tokens and up to 5 new ones are 9, more than the 8 of the texts" in caplog.messages[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens 0 must be 1 or more"),
        ({"stop": [""]}, "a stop string is empty"),
        ({"seeds": [1, 2]}, "1 prompts and 2 seeds"),
    ],
)
def test_bad_values_are_named(options: dict[str, Any], message: str, model: LanguageModel) -> None:
    with pytest.raises(UserError, match=message):
        list(generate(model, ["a"], **options))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("run")
    (home / "a.txt").write_text(f"{ALPHABET} " * 40)
    (home / "run.yaml").write_text(
        f"""
modality: {{type: text}}
model:
  levels:
    - {{name: bytes, dim: 32, depth: 1, heads: 2, window: 4, window_type: sliding, group: {{type: fixed, stride: 3}}}}
    - {{name: words, dim: 32, depth: 1, heads: 2}}
  causal: true
  top_down: true
task: {{type: language}}
data: {{type: corpus, files: [{home}/a.txt], val_files: [{home}/a.txt], test_files: [{home}/a.txt], context: 60}}
optim: {{lr: 4.0e-3, warmup_steps: 5}}
train: {{steps: 60, batch_size: 4, eval_every: 60, tensorboard: false, precision: fp32, num_threads: 1}}
run: {{dir: {home}/run}}
"""
    )
    return train(load_config(home / "run.yaml"))


def test_the_command_continues_a_prompt(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(run_folder), "--prompt", "xyz abc", "--temperature", "0", "--max-tokens", "6"]) == 0
    assert capsys.readouterr().out == "xyz abcdefghi\n"


def test_the_command_says_where_a_text_leaves_the_trained_context(
    run_folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    words = ["generate", str(run_folder), "--prompt", "abc", "--stop", "d", "--max-tokens"]
    assert main([*words, "56"]) == 0
    assert not caplog.messages
    done = subprocess.run([sys.executable, "-m", "hrt_mm", *words, "57"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(capsys.readouterr().out.rstrip("\n"))
    assert "are 61, more than the 60 of the texts that the model was trained on" in done.stderr


def test_the_context_of_subwords_is_counted_in_them(tmp_path: Path) -> None:
    train_subwords(["the cat and the other cat "] * 20, 270, tmp_path / "t.json")
    tokenizer = SubwordTokenizer(tmp_path / "t.json")
    data = SimpleNamespace(context=120)
    run: Any = SimpleNamespace(config=SimpleNamespace(data=data), tokenizer=tokenizer)
    count = len(tokenizer.encode(b"the cat and")[0])
    assert _context(run, "the cat and") == round(120 * count / 11) < 120
    assert _context(run, "") is not None and 20 < (_context(run, "") or 0) < 120
    run.tokenizer = ByteTokenizer()
    assert _context(run, "") == _context(run, "abc") == 120
    run.config.data = SimpleNamespace()
    assert _context(run, "abc") is None


def test_the_command_writes_several_texts_in_turn(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", str(run_folder), "--num", "2", "--seed", "3", "--max-tokens", "5", "--prompt", "ab"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.startswith("ab") and out.count("--- 2\nab") == 1 and out.endswith("\n")
    assert main(words) == 0
    assert capsys.readouterr().out == out


def test_the_command_reads_a_file_and_stops(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.txt").write_bytes(b"\xff abc")
    words = ["generate", str(run_folder), "--file", str(tmp_path / "p.txt"), "--temperature", "0", "--stop", "fg"]
    assert main(words) == 0
    assert capsys.readouterr().out == "� abcde\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--temperature", "-1"], "temperature -1.0 must be 0 or more"),
        (["--num", "0"], "--num 0 must be 1 or more"),
        (["--step", "7"], "7"),
        (["--file", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_mistakes_end_with_2(
    words: list[str], message: str, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(run_folder), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error
