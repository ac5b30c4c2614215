from __future__ import annotations

import pytest
import torch

from hrt_mm.core.errors import ConfigError
from hrt_modalities.joint.fonts import characters, draw, framed
from hrt_modalities.joint.glyphs import GlyphsConfig
from hrt_modalities.joint.symbol_names import some_words

CHESS = 0x265E


def test_every_character_is_in_one_set_and_looks_alike_in_none_of_the_others() -> None:
    splits = {split: GlyphsConfig(type="glyphs").build(split) for split in ("train", "val", "test")}
    codes = [set(dataset.codes) for dataset in splits.values()]
    assert sum(map(len, codes)) == len(set.union(*codes)) == len(characters()) > 5000
    assert len(splits["test"]) > 500
    looks = [{framed(draw(code, characters()[code][0], 24), 12).numpy().tobytes() for code in item} for item in codes]
    assert not looks[0] & looks[2]
    # Latin A, Greek Alpha and Cyrillic A.
    assert len({split for split, item in zip(splits, codes, strict=True) if item & {0x41, 0x391, 0x410}}) == 1


def test_held_out_samples_are_the_same_each_time_and_training_ones_move() -> None:
    test = GlyphsConfig(type="glyphs").build("test")
    one, two = test[3], test[3]
    assert torch.equal(one.value["image"], two.value["image"])
    assert one.value["text"] == two.value["text"] == test.describe(3)["name"]
    assert one.value["image"].shape == (1, 32, 32)
    assert one.label == test.describe(3)["code"]
    train = GlyphsConfig(type="glyphs").build("train")
    torch.manual_seed(0)
    assert len({train[3].value["image"].numpy().tobytes() for _ in range(5)}) > 1


def test_a_picture_holds_the_whole_character_dark_on_white() -> None:
    for code in (CHESS, 0x2E, 0xFDFA if 0xFDFA in characters() else 0x41):
        picture = draw(code, characters()[code][0], 32, scale=1.3, shift=(0.4, 0.4))
        assert picture.min() < 100
        assert picture.float().mean() > 100


def test_pictures_of_others_are_brought_to_the_same_form() -> None:
    drawn = torch.zeros(3, 200, 300)
    drawn[:, 20:60, 200:210] = 1.0
    result = framed(drawn, 32)
    rows, columns = ((result[0] < 128).any(axis).nonzero()[:, 0] for axis in (1, 0))
    assert (int(rows[0]), int(rows[-1])) == (4, 27)
    assert 13 <= int(columns[0]) <= int(columns[-1]) <= 18
    assert framed(torch.full((1, 9, 9), 0.5), 16).unique().tolist() == [255]


def test_some_words_are_at_least_one_and_in_order() -> None:
    torch.manual_seed(0)
    result = {some_words("black chess knight") for _ in range(60)}
    assert "" not in result
    assert {"black chess knight", "knight", "black knight"} <= result
    assert "knight black" not in result


def test_queries_are_prepared() -> None:
    config = GlyphsConfig(type="glyphs")
    assert config.prepare("text", "Black KNIGHT") == "black knight"
    assert config.prepare("image", torch.rand(3, 50, 40)).shape == (1, 32, 32)


def test_scripts_choose_and_unknown_ones_are_told() -> None:
    latin = GlyphsConfig(type="glyphs", scripts=("latin",)).build("test")
    assert all(latin.describe(index)["name"].startswith("latin") for index in range(len(latin)))
    with pytest.raises(ConfigError, match="no character's name starts so"):
        GlyphsConfig(type="glyphs", scripts=("klingon",)).build("train")
    with pytest.raises(ConfigError, match="unknown split"):
        GlyphsConfig(type="glyphs").build("dev")
