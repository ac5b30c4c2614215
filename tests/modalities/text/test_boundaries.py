from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from hrt_modalities.text.boundaries import CAUSAL, FINDERS, Document, find


def pieces(name: str, text: str) -> list[str]:
    """The text cut where the boundary's groups start."""
    raw = text.encode()
    starts = [*np.flatnonzero(find(name, raw)).tolist(), len(raw)]
    return [raw[start:end].decode() for start, end in pairwise(starts)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("words", "Hello, big world! can't 3.14", ["Hello, ", "big ", "world! ", "can't ", "3.14"]),
        ("words", "  lead", ["  ", "lead"]),
        ("words", "😀 a b", ["😀 ", "a ", "b"]),
        ("words", "नमस्ते दुनिया", ["नमस्ते ", "दुनिया"]),
        ("words", "中文分词", ["中文", "分词"]),
        ("words", "مرحبا بالعالم", ["مرحبا ", "بالعالم"]),
        ("sentences", "It rains. We stay! Why?", ["It rains. ", "We stay! ", "Why?"]),
        ("sentences", "你好。再见。", ["你好。", "再见。"]),
        ("sentences", "क्या? ठीक है। हाँ।", ["क्या? ", "ठीक है। ", "हाँ।"]),
        ("sentences", "كيف؟ جيد.", ["كيف؟ ", "جيد."]),
        ("sentences", "# Head\ntext. More", ["# Head\n", "text. ", "More"]),
        ("sentences", "It rains in\r\nthe valley. We\nstay.", ["It rains in\r\nthe valley. ", "We\nstay."]),
        ("sentences", "Take:\n- a cup\n2. of tea", ["Take:\n", "- a cup\n", "2. of tea"]),
        ("sentences", "no stop\n\nnext", ["no stop\n\n", "next"]),
        ("sentences", "今日は雨です。明日は晴れ。", ["今日は雨です。", "明日は晴れ。"]),
        ("words", "今日は雨です", ["今日", "は", "雨", "です"]),
        ("words", "ภาษาไทยง่าย", ["ภาษา", "ไทย", "ง่าย"]),
        ("words", "𐌰𐌱 b 😀 c", ["𐌰𐌱 ", "b 😀 ", "c"]),
        ("words", "abc אבג 123 مرحبا", ["abc ", "אבג ", "123 ", "مرحبا"]),
        ("words", "nul\0a b", ["nul\0", "a ", "b"]),
        ("words", "... --", ["... --"]),
        ("paragraphs", "one\ntwo\n\n  \nthree\n\n", ["one\ntwo\n\n  \n", "three\n\n"]),
        ("sections", "intro\n# A\nx\n## B\ny", ["intro\n", "# A\nx\n", "## B\ny"]),
        ("sections", "Title\n=====\ntext\nNext\n----\n", ["Title\n=====\ntext\n", "Next\n----\n"]),
        ("sections", "a\fb", ["a\f", "b"]),
        ("sections", "a\n\n===\nT\n===\nb\n\nU\n===\nV\n===", ["a\n\n", "===\nT\n===\nb\n\n", "U\n===\n", "V\n==="]),
        ("sections", "T\n+++\na\n\nlong line\n+++\n", ["T\n+++\na\n\nlong line\n+++\n"]),
        ("sections", "b\ngrößer\n~~~~~~\n", ["b\n", "größer\n~~~~~~\n"]),
        ("paragraphs", "# Head\ntext\n# Last", ["# Head\n", "text\n", "# Last"]),
        ("paragraphs", "a\u2029b", ["a\u2029", "b"]),
        ("sections", "=====\nx", ["=====\nx"]),
        ("spaces", "ab  c_d(e)", ["ab  ", "c_", "d(", "e)"]),
        ("spaces", "x中文y", ["x", "中", "文y"]),
        ("lines", "a\n\nb\n", ["a\n", "\n", "b\n"]),
    ],
)
def test_where_groups_start(name: str, text: str, expected: list[str]) -> None:
    assert pieces(name, text) == expected


TEXT = "# One\n\nIt rains. We stay!\nNow 你好。再见 and\n\nmore😀 text.\n\nTwo\n===\nThe end."


@pytest.mark.parametrize(
    ("fine", "coarse"), [("words", "sentences"), ("sentences", "paragraphs"), ("paragraphs", "sections")]
)
def test_coarser_groups_start_where_finer_ones_do(fine: str, coarse: str) -> None:
    starts = find(fine, TEXT.encode())
    assert (starts | ~find(coarse, TEXT.encode())).all()
    assert starts.sum() > find(coarse, TEXT.encode()).sum()


@pytest.mark.parametrize(
    ("carried", "name", "expected"),
    [
        ({"sentences": [0, 3, 9]}, "words", [0, 3, 4, 7, 9, 10]),
        ({"sections": [5]}, "words", [0, 4, 5, 7, 10]),
        ({"words": [2]}, "words", [0, 2]),
        ({"words": [2]}, "sentences", [0, 4]),
    ],
)
def test_found_groups_start_where_carried_coarser_ones_do(
    carried: dict[str, list[int]], name: str, expected: list[int]
) -> None:
    document = Document(b"It. So it is", carried)
    assert np.flatnonzero(document.starts(name)).tolist() == expected


@pytest.mark.parametrize("name", sorted(CAUSAL))
def test_causal_boundaries_look_at_no_later_byte(name: str) -> None:
    raw = TEXT.encode()
    whole = find(name, raw)
    for end in range(1, len(raw)):
        assert (find(name, raw[:end]) == whole[:end]).all()


@pytest.mark.parametrize("name", sorted(set(FINDERS) - set(CAUSAL)))
def test_the_others_do(name: str) -> None:
    """Control: the test above can fail."""
    raw = ("Hi. 1 a\nhead\n===\n" + TEXT).encode()
    whole = find(name, raw)
    assert any((find(name, raw[:end]) != whole[:end]).any() for end in range(1, len(raw)))


@pytest.mark.parametrize("name", sorted(FINDERS))
def test_any_bytes_will_do(name: str) -> None:
    generator = np.random.default_rng(0)
    for length in (1, 2, 3, 50, 500):
        raw = generator.integers(0, 256, length, dtype=np.uint8).tobytes()
        starts = find(name, raw)
        assert starts.shape == (length,) and starts.dtype == bool and starts[0]
