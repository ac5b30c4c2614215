from __future__ import annotations

from collections import Counter

import pytest
import torch
from pydantic import ValidationError

from hrt_mm.core.errors import ConfigError
from hrt_modalities.joint.glyphs import GlyphsConfig
from hrt_modalities.joint.symbol_names import (
    key_words,
    kind_of,
    mistyped,
    name_of,
    other_names,
    some_words,
    without_accents,
)

HEART, EURO, ARROW = 0x2665, 0x20AC, 0x27A1
pytest.importorskip("emoji", reason="the extra demo is not installed")


def test_emoji_have_names_in_several_languages() -> None:
    names = other_names(HEART, ("en", "de", "it"))
    assert names[0] == "heart suit"
    assert {"herz", "cuori"} <= set(names)
    assert name_of(HEART) not in names
    assert other_names(EURO, ("en", "de")) == ()
    assert "flèche droite" in other_names(ARROW, ("fr",))


def test_unknown_languages_are_errors() -> None:
    with pytest.raises(ConfigError, match="no names in 'tlh'"):
        other_names(HEART, ("en", "tlh"))
    with pytest.raises(ValidationError, match="other_names and repeat_emoji need languages"):
        GlyphsConfig(type="glyphs", other_names=0.5)


def test_kinds_are_words() -> None:
    assert [kind_of(ord(char)) for char in "€≤♥aB5("] == [
        "currency symbol", "math symbol", "symbol", "lowercase letter", "uppercase letter", "digit", "punctuation",
    ]  # fmt: skip


def test_rare_words_are_key_words() -> None:
    torch.manual_seed(0)
    drawn = Counter(key_words("white chess queen") for _ in range(200))
    assert drawn["queen"] > drawn["white"]
    assert all(0 < len(words.split()) < 3 for words in drawn)
    assert key_words("unheard-of") == "unheard-of"


def test_mistyped_words_differ_in_a_letter_or_two() -> None:
    torch.manual_seed(0)
    typos = {mistyped("radioactive sign") for _ in range(200)}
    assert {"radioactiv sign", "radioactive sgin"} <= typos
    assert all(abs(len(typo) - len("radioactive sign")) <= 2 for typo in typos)
    assert mistyped("yin") == "yin"


def test_accents_are_left_out() -> None:
    assert without_accents("flèche droite, sağ") == "fleche droite, sag"
    assert without_accents("стрелка") == "стрелка"


def test_training_texts_are_names_words_and_typos_and_held_out_ones_the_names() -> None:
    config = GlyphsConfig(
        type="glyphs", languages=("en", "de"), other_names=0.5, key_words=0.4, typos=0.2, repeat_emoji=3
    )
    train = config.build("train")
    counts = Counter(train.codes)
    assert set(counts.values()) == {1, 3}
    assert all((count == 3) == bool(other_names(code, config.languages)) for code, count in counts.items())
    assert len(config.plain("train")) == len(counts)
    code = next(code for code, count in counts.items() if count == 3)
    torch.manual_seed(0)
    position = train.codes.index(code)
    texts = {train[position].value["text"] for _ in range(60)}
    assert texts & set(other_names(code, config.languages))
    assert len(texts) > 4
    test = config.build("test")
    assert all(test[position].value["text"] == name_of(test.codes[position]) for position in range(5))
    emoji = next(code for code in test.codes if other_names(code, config.languages))
    assert test.describe(test.codes.index(emoji))["also"].startswith(other_names(emoji, config.languages)[0])


def test_options_that_are_off_leave_training_texts_as_they_are() -> None:
    train = GlyphsConfig(type="glyphs", any_font=False, move=0, centred=0, some_words=0.5).build("train")
    torch.manual_seed(3)
    texts = [train[position].value["text"] for position in range(20)]
    torch.manual_seed(3)
    expected = []
    for position in range(20):
        torch.rand(3)
        name = name_of(train.codes[position])
        expected.append(some_words(name) if bool(torch.rand(()) < 0.5) else name)
    assert texts == expected
