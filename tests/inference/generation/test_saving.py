"""What is remembered, saved and loaded: the tokens after it are those of an uninterrupted run, bit by bit."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from hrt_mm.core.errors import UserError
from hrt_mm.core.hierarchy import Hierarchy, Transformer
from hrt_mm.core.levels import HierarchyConfig, Level
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.capabilities import writing
from hrt_mm.inference.generation import (
    Cache,
    GeneratedText,
    Sampling,
    Session,
    cache_of,
    cache_state,
    continued,
    generate,
    prefill,
    step,
)
from hrt_mm.tasks import LanguageModel
from tests.damage import try_all
from tests.inference.generation.test_generate import built
from tests.inference.generation.test_stepping import GROUPS, SMOOTH, WAYS, awake, batch, beginning, build


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def through_a_file(cache: Cache, model: Hierarchy, folder: Path) -> Cache:
    """Saved, and loaded beside a model of its own with the same weights."""
    state = {name: value.contiguous() for name, value in cache_state(cache).items()}
    safetensors.torch.save_file(state, folder / "cache.safetensors")
    other = type(model)(model.config) if type(model) is Hierarchy else model
    other = other.to(next(model.parameters()).dtype).eval()
    other.load_state_dict(model.state_dict())
    return cache_of(other, safetensors.torch.load_file(folder / "cache.safetensors"))


def ahead(model: Hierarchy, tokens: Tokens, at: Sequence[int], cache: Cache, count: int) -> Tensor:
    """(count, B, D) what the next tokens of every sample give."""
    result = []
    for number in range(count):
        positions = [int(first) + item + number for first, item in zip(tokens.spans.host, at, strict=False)]
        starts = {name: mask[positions].numpy() for name, mask in tokens.boundaries.items()}
        result.append(step(model, tokens.x[positions], cache, starts))
    return torch.stack(result)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("pool", ["attention", "select"])
def test_a_ragged_batch_goes_on(pool: str, group: str, way: str, tmp_path: Path) -> None:
    model, tokens, prompt = build(pool, group, way), batch([60, 41, 48, 43]), [20, 1, 8, 3]
    with torch.no_grad():
        cache = prefill(model, beginning(tokens, prompt))[1]
        for index in (0, 7, 15):
            at = [item + index for item in prompt]
            loaded = through_a_file(cache, model, tmp_path)
            assert torch.equal(ahead(model, tokens, at, loaded, 24), ahead(model, tokens, at, cache, 24))
            cache = prefill(model, beginning(tokens, prompt))[1]
            ahead(model, tokens, prompt, cache, index + 8)
            cache = through_a_file(cache, model, tmp_path)


def test_smoothed_groups_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GROUPS, "smooth", SMOOTH)
    model, tokens = build("mean", "smooth", "both", second="smooth"), batch([40, 30])
    with torch.no_grad():
        for prompt in ([9, 2], [10, 3], [11, 4], [12, 5]):
            cache = prefill(model, beginning(tokens, prompt))[1]
            loaded = through_a_file(cache, model, tmp_path)
            assert torch.equal(*(ahead(model, tokens, prompt, item, 25) for item in (cache, loaded)))


@pytest.mark.parametrize("group", GROUPS)
def test_before_the_first_token(group: str, tmp_path: Path) -> None:
    model, tokens = build("mean", group, "both"), batch([30, 30])
    with torch.no_grad():
        loaded = through_a_file(Cache(model, 2), model, tmp_path)
        assert torch.equal(ahead(model, tokens, [0, 0], loaded, 30), ahead(model, tokens, [0, 0], Cache(model, 2), 30))


def test_what_grew_past_the_room_it_starts_with(tmp_path: Path) -> None:
    model = awake(Transformer(Level(name="tokens", dim=12, heads=2, kv_heads=1, depth=2), causal=True))
    tokens = batch([330, 40])
    with torch.no_grad():
        for count in (250, 256, 257, 300):
            cache = prefill(model, beginning(tokens, [count, 7]))[1]
            loaded = through_a_file(cache, model, tmp_path)
            assert torch.equal(*(ahead(model, tokens, [count, 7], item, 20) for item in (cache, loaded)))


def test_only_what_is_held_is_saved() -> None:
    model = build("mean", "fixed", "both")
    state = cache_state(prefill(model, batch([10, 4]))[1])
    assert state["coarse.encoder.0.keys"].shape == (2, 1, 0, 12)
    assert state["fine.encoder.0.keys"].shape[2] == 4
    assert state["fine.open.tokens"].shape == (2, 1, 12)
    assert state["fine.open.size"].tolist() == [1, 1] and state["fine.count"].tolist() == [10, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 16}, r"fine.encoder.0.keys has shape \(1, 2, 4, 6\), not \(1, 2, 4, 8\); .* and 3 more"),
        ({"window": 7}, r"fine.encoder.0.keys has shape \(1, 2, 4, 6\), not \(1, 2, 8, 6\)"),
        ({"depth": 2}, r"fine.encoder.1.keys is missing; .*use the configuration that it was saved with"),
        ({"name": "other"}, r"other.count is missing"),
        ({"group": GROUPS["learned"]}, r"fine.open.before is missing"),
        ({"group": GROUPS["given"]}, r"fine.open.started.words is missing"),
    ],
)
def test_another_model_is_refused(change: dict[str, Any], message: str) -> None:
    model = build("mean", "fixed", "both")
    state = cache_state(prefill(model, batch([10]))[1])
    levels = [level.model_dump() for level in model.config.levels]
    levels[0] |= change
    other = Hierarchy(HierarchyConfig.model_validate(model.config.model_dump() | {"levels": levels})).double()
    with pytest.raises(UserError, match=rf"^the cache is not of this model: .*{message}"):
        cache_of(other, state)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("fine.back", torch.zeros(2, 12), r"fine.back is float32, not float64"),
        ("fine.count", torch.tensor([10, -4]), r"fine.count is damaged: it counts -4"),
        ("coarse.count", torch.tensor([3, 900]), r"damaged: coarse.encoder.0.keys has 0 of 900 \(coarse.count\)"),
        ("fine.open.size", torch.tensor([1, 5]), r"damaged: fine.open.tokens has 1 of 5 \(fine.open.size\)"),
        ("fine.count", torch.zeros(3, dtype=torch.int64), r"fine.groups has shape \(2,\), not \(3,\)"),
        ("fine.count", torch.tensor(3), r"fine.count has shape \(\), not \(1,\)"),
        ("more", torch.zeros(2), "more is unknown"),
    ],
)
def test_damaged_tensors_are_named(name: str, value: Tensor, message: str) -> None:
    model = build("mean", "fixed", "both")
    state = cache_state(prefill(model, batch([10, 4]))[1])
    with pytest.raises(UserError, match=message):
        cache_of(model, state | {name: value})


GIVEN, LEARNED = {"type": "given", "boundary": "spaces"}, {"type": "learned", "target": 3, "max": 6}
PROMPTS = ["one two three, ", "", "中文 and so on"]


def texts(pieces: list[GeneratedText]) -> list[str]:
    return ["".join(piece.text for piece in pieces if piece.sample == sample) for sample in range(len(PROMPTS))]


@pytest.mark.parametrize("group", [{"type": "fixed", "stride": 3}, GIVEN, LEARNED], ids=lambda group: group["type"])
def test_a_saved_prompt_is_continued_as_if_it_had_been_read(group: dict[str, Any], tmp_path: Path) -> None:
    model, same = (built(group).double().eval() for _ in range(2))
    expected = texts(list(generate(model, PROMPTS, max_tokens=30)))
    Session(model, writing(model.tokenizer).prompts(PROMPTS)).save(tmp_path / "prompts.safetensors")
    for _ in range(2):
        assert texts(list(continued(Session.load(same, tmp_path / "prompts.safetensors"), max_tokens=30))) == expected


@pytest.mark.parametrize("group", [GIVEN, LEARNED], ids=lambda group: group["type"])
def test_a_session_goes_on_within_a_text(group: dict[str, Any], tmp_path: Path) -> None:
    model, file = built(group).eval(), tmp_path / "s.safetensors"
    ids = model.tokenizer(["some more text here", "and other words too"]).split()
    whole = Session(model, writing(model.tokenizer).prompts(PROMPTS[:2]))
    logits = [whole.step(ids_B).clone() for ids_B in torch.stack(ids, 1)]
    broken = Session(model, writing(model.tokenizer).prompts(PROMPTS[:2]))
    for index, ids_B in enumerate(torch.stack(ids, 1)):
        broken.save(file)
        broken = Session.load(model, file)
        assert torch.equal(broken.step(ids_B), logits[index])


def test_one_prompt_starts_several_texts(tmp_path: Path) -> None:
    model = built(LEARNED).double().eval()
    Session(model, writing(model.tokenizer).prompts(["a long prompt "])).save(tmp_path / "s.safetensors")
    session = Session.load(model, tmp_path / "s.safetensors")
    session.select([0, 0, 0])
    result = texts(list(continued(session, max_tokens=20, seeds=[4, 5, 6], sampling=Sampling(1.5))))
    expected = list(generate(model, ["a long prompt "] * 3, max_tokens=20, seeds=[4, 5, 6], sampling=Sampling(1.5)))
    assert result == texts(expected) and len(set(result)) == 3


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModel, Path]:
    model = built({"type": "fixed", "stride": 3}).eval()
    file = tmp_path_factory.mktemp("session") / "s.safetensors"
    Session(model, writing(model.tokenizer).prompts(["abc", "d"])).save(file)
    return model, file


def test_a_session_of_another_model_is_refused(saved: tuple[LanguageModel, Path]) -> None:
    _, file = saved
    with pytest.raises(UserError, match=r"another model:\n  levels.0.group.stride: saved with 3, here 4\nload it with"):
        Session.load(built({"type": "fixed", "stride": 4}), file)
    with pytest.raises(UserError, match=r"levels.0.group.type: saved with 'fixed', here 'learned'"):
        Session.load(built(LEARNED), file)
    other = built({"type": "fixed", "stride": 3})
    other.head.bias.data[0] += 1e-3
    with pytest.raises(UserError, match=r"other weights than those of this model"):
        Session.load(other, file)
    with pytest.raises(UserError, match=r"bytes.encoder.0.keys is float32, not float64"):
        Session.load(built({"type": "fixed", "stride": 3}).double(), file)


def rewritten(file: Path, folder: Path, tensors: dict[str, Tensor], header: dict[str, Any] | None = None) -> Path:
    """Another file of the first format, which had no checksum."""
    with safetensors.safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    before = json.loads(metadata["hrt_mm.session"])
    del before["sum"]
    metadata["hrt_mm.session"] = json.dumps(before | {"format": 1} | (header or {}))
    safetensors.torch.save_file(safetensors.torch.load_file(file) | tensors, folder / "other", metadata)
    return folder / "other"


@pytest.mark.parametrize(
    ("tensors", "header", "message"),
    [
        ({"recent.ids": torch.tensor([1, 2])}, None, "its recent ids do not fit its 2 sequences"),
        ({"recent.lengths": torch.tensor([6, 0])}, None, "its recent ids do not fit its 2 sequences"),
        ({"recent.ids": torch.tensor([256, 97, 98, 257, 256, 100])}, None, "its recent ids do not fit"),
        ({"logits": torch.zeros(2, 9)}, None, r"logits has shape \(2, 9\), not \(2, 257\)"),
        ({"more": torch.zeros(2)}, None, "more is unknown"),
        ({}, {"format": 3}, "holds no saved session of this version"),
        ({}, {"format": 2}, "its content does not match its checksum"),
        ({}, {"model": 3}, "holds no saved session of this version"),
        ({}, {"model": {}}, "levels: saved with None"),
        ({}, {"weights": None}, "other weights than those of this model"),
    ],
)
def test_a_damaged_session_is_named(
    tensors: dict[str, Tensor],
    header: dict[str, Any] | None,
    message: str,
    saved: tuple[LanguageModel, Path],
    tmp_path: Path,
) -> None:
    model, file = saved
    with pytest.raises(UserError, match=message):
        Session.load(model, rewritten(file, tmp_path, tensors, header))


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('it was unpickled')",)


def test_what_is_no_session_is_refused_and_never_unpickled(saved: tuple[LanguageModel, Path], tmp_path: Path) -> None:
    model, file = saved
    (tmp_path / "pickle").write_bytes(pickle.dumps(_Bomb()))
    (tmp_path / "cut").write_bytes(file.read_bytes()[:-5])
    (tmp_path / "empty").touch()
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "weights")
    for name, message in (
        ("pickle", "damaged, or no safetensors file"),
        ("cut", "damaged, or no safetensors file"),
        ("empty", "damaged, or no safetensors file"),
        ("weights", "holds no saved session"),
        ("nowhere", "cannot be read"),
        (".", "is a folder, not a file"),
    ):
        with pytest.raises(UserError, match=message):
            Session.load(model, tmp_path / name)
    with pytest.raises(UserError, match=r"nowhere/s cannot be written: No such file or directory"):
        Session(model, writing(model.tokenizer).prompts([""])).save(tmp_path / "nowhere" / "s")


def test_a_session_that_is_damaged_anywhere_is_refused(saved: tuple[LanguageModel, Path], tmp_path: Path) -> None:
    model, file = saved
    right = Session.load(model, file)

    def read() -> list[Any]:
        result = Session.load(model, path)
        return [cache_state(result.cache).keys(), result.logits_BV.tolist(), [ids.tolist() for ids in result._recent]]

    path = tmp_path / "s.safetensors"
    path.write_bytes(file.read_bytes())
    try_all(path, read, bits=60, ends=5)
    assert torch.equal(Session.load(model, rewritten(file, tmp_path, {})).logits_BV, right.logits_BV)
