from __future__ import annotations

import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from hrt_mm.core.errors import ConfigError, UserError
from hrt_mm.tasks.ctc import WordModel
from hrt_mm.tasks.ctc.decoders import BeamConfig

SENTENCES = [["bin", "blue"], ["bin", "red"], ["set", "red"]]


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("before", [(), ("bin",), ("set", "red"), ("never", "seen"), ("bin", "blue", "red")])
def test_probabilities_of_what_follows_add_up_to_one(order: int, before: tuple[str, ...]) -> None:
    model = WordModel(SENTENCES, order)
    known = ["bin", "set", "blue", "red", "</s>", "one word that was never seen"]
    assert sum(math.exp(model.log_prob(word, before)) for word in known) == pytest.approx(1)


def test_the_estimate_is_that_of_witten_and_bell() -> None:
    model = WordModel(SENTENCES, 2)
    # 9 words and ends of 5 kinds; 6 that all share: the 4 words, the end and one unknown.
    red = (2 + 5 / 6) / (9 + 5)
    assert math.exp(model.log_prob("red", ("bin",))) == pytest.approx((1 + 2 * red) / (2 + 2))
    assert math.exp(model.log_prob("red", ("never",))) == pytest.approx(red)
    end = (3 + 5 / 6) / (9 + 5)
    assert math.exp(model.log_prob("</s>", ("set", "red"))) == pytest.approx((2 + end) / (2 + 1))


def test_the_beginning_is_a_context() -> None:
    model = WordModel(SENTENCES)
    assert model.log_prob("bin", ()) > model.log_prob("red", ())
    assert model.log_prob("red", ("bin",)) > model.log_prob("bin", ("bin",))


def test_a_text_is_read(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("bin blue\n\nbin red\nset red\n")
    assert WordModel.read(file, 2).log_prob("red", ["bin"]) == WordModel(SENTENCES, 2).log_prob("red", ["bin"])
    file.write_text("\n \n")
    with pytest.raises(ConfigError, match=r"text\.txt has no words; it needs one sentence per line"):
        WordModel.read(file, 2)
    with pytest.raises(ConfigError, match=r"none\.txt cannot be read"):
        WordModel.read(tmp_path / "none.txt", 2)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"text\.txt cannot be read"):
        WordModel.read(file, 2)
    with pytest.raises(UserError, match="needs at least one sentence"):
        WordModel([])


def test_settings_that_do_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("bin\nblue\nred\nset\n")
    (tmp_path / "text").write_text("bin blue\n")
    with pytest.raises(ValidationError, match="language is of words of a lexicon"):
        BeamConfig(type="beam", language=tmp_path / "text")
    with pytest.raises(ValidationError, match="language_weight has no effect without language"):
        BeamConfig(type="beam", lexicon=tmp_path / "words", language_weight=0.5)
    config = BeamConfig(type="beam", lexicon=tmp_path / "words", language=tmp_path / "text", language_order=2)
    assert config.build(config.read_lexicon(("bin", "blue", "red", "set"), "words")) is not None
