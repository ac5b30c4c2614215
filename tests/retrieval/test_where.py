"""Filters: what they accept, and how they explain what they do not."""

from __future__ import annotations

import pytest

from hrt_mm.core.errors import UserError
from hrt_mm.retrieval.rows import Row
from hrt_mm.retrieval.where import MAX_DEPTH, MAX_LENGTH, Where, key, number, timestamp

ROW = Row(
    "scans/7.png",
    "image",
    info={
        "year": "2010",
        "colour": "Dark Red",
        "price": "1.50",
        "made": "2024-05-06",
        "seen": "2024-05-06T10:00+02:00",
        "note": 'it\'s "new"',
        "size in cm": "12",
        "id": "other",
        "empty": "",
    },
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("year=2010", True),
        ("year = 2010.0", True),
        ("year=2.01e3", True),
        ("year!=2010", False),
        ("year>=2010 and year<2010.5", True),
        ("year>2010", False),
        ("year<9.0", False),  # as texts, "2010" < "9.0"
        ("colour='dark red'", True),
        ('colour="DARK RED"', True),
        ("colour=dark", False),
        ("colour~dark", True),
        ("colour~''", True),
        ("colour~blue", False),
        ("colour in (blue, 'dark red')", True),
        ("colour not in (blue, 'dark red')", False),
        ("price=1.5", True),
        ("price in (1, 1.5)", True),
        ("made<2024-05-07 and made>=2024-05-06", True),
        ("made=2024-05-06T00:00Z", True),
        ("seen=2024-05-06T08:00:00", True),
        ("seen>2024-05-06T08:00:01", False),
        ("made>2000", False),  # a number is no date
        ("colour>5", False),
        ("note='it''s \"new\"'", True),
        ('note="it\'s ""new"""', True),
        ("'size in cm'>=12", True),
        ("id=scans/7.png", True),
        ("info.id=other", True),
        ("tower=image and level=''", True),
        ("nothing=1", False),
        ("nothing!=1", True),
        ("nothing not in (1)", True),
        ("nothing~''", False),
        ("empty=''", True),
        ("not year=2010 or price=1.5", True),
        ("not (year=2010 or price=1.5)", False),
        ("not not year=2010", True),
        ("price=0 or year=2010 and colour~red", True),
        ("(price=0 or year=2010) and colour~blue", False),
        ("price=0 AND year=2010 OR Colour=x or year=2010", True),
    ],
)
def test_rows_match(text: str, expected: bool) -> None:
    assert Where.parse(text).matches(ROW) is expected


def test_pieces_have_the_columns_of_their_sample() -> None:
    piece = Row("scans/7.png/words/0", "image", "words", "scans/7.png", info={"note": "own"})
    where = Where.parse("year=2010 and note=own and level=words")
    assert where.matches(piece, ROW.info)
    assert not where.matches(piece)


@pytest.mark.parametrize(
    ("text", "message", "caret"),
    [
        ("", "the filter is empty", None),
        ("  ", "the filter is empty", None),
        ("year>=", "expected a value; quote values that are and, or, not or in, got the end", 6),
        ("year 2010", r"expected = != < <= > >= ~ or 'in' after the column 'year', got '2010'", 5),
        ("year=>2010", "'=>' is no operator", 4),
        ("year==2010", "'==' is no operator", 4),
        ("colour=dark red", "expected 'and', 'or' or the end; quote values that contain spaces, got 'red'", 12),
        ("year=2010 and", r"expected a column, 'not' or '\(', got the end", 13),
        ("year=2010 and and", r"expected a column, 'not' or '\(', got 'and'", 14),
        ("(year=2010", r"expected 'and', 'or' or '\)', got the end", 10),
        ("year=2010)", "expected 'and', 'or' or the end", 9),
        ("year in 2010", r"expected '\(' and values", 8),
        ("year in (2010", r"expected ',' or '\)'", 13),
        ("year in ()", "expected a value", 9),
        ("year not 2010", "expected 'in', got '2010'", 9),
        ("colour='red", "the quote ' is not closed", 7),
        ("colour<red", "< compares numbers and dates such as 2010, 0.5 and 2024-12-31; 'red' is neither", 7),
        ("made>2024-13-01", "'2024-13-01' is neither", 5),
        ("=3", "expected a column", 0),
        (f"{'(' * (MAX_DEPTH + 1)}a=1{')' * (MAX_DEPTH + 1)}", f"nested {MAX_DEPTH} deep", 50),
        ("not " * 3_000 + "a=1", "characters; it may have 10,000", None),
        ("a=1 or " * 1_000 + "b", "expected", None),
    ],
)
def test_errors_show_the_position(text: str, message: str, caret: int | None) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Where.parse(text)
    if caret is not None:
        *_, shown, marked = str(caught.value).split("\n")
        assert shown[2:] == text[max(0, caret - 40) : caret + 40]
        assert f"at character {caret + 1}: " in str(caught.value)
        assert marked.index("^") - 2 == min(caret, 40)


def test_a_filter_of_the_maximum_length_is_parsed() -> None:
    text = " or ".join(["a=1"] * 1_428)
    assert MAX_LENGTH - 10 < len(text) <= MAX_LENGTH
    assert Where.parse(text).matches(Row("x", "image", info={"a": "1"}))


def test_unknown_columns_are_listed_with_similar_ones() -> None:
    where = Where.parse("colour=red and yaer>2000")
    where.check({"year", "yaer", "colour"})
    with pytest.raises(UserError, match=r"no row has a column 'yaer' \(did you mean year\?\); columns are id, tower"):
        where.check({"year", "colour"})
    Where.parse("info.level=3").check({"level"})
    with pytest.raises(UserError, match="no row has a column 'zzzz'; columns are id, tower, level\n"):
        Where.parse("zzzz=1").check(set())


def test_kinds_of_values() -> None:
    assert number("1_000") is number("nan") is number("inf") is number("1e999") is number("٣") is number("") is None
    assert number("-.5") == -0.5 and number("+1.") == 1
    assert timestamp("2024-05-06 10:00:00.5") is None and timestamp("20240506") is None
    assert timestamp("1970-01-02") == 86_400
    # Integers beyond the precision of float64 differ.
    assert key("9007199254740993") != key("9007199254740992")
    assert key("-0.0") == key("0") == key("00") and key("-1") != key("1") and key("0.10") == key("1e-1")
    assert key("1970-01-01") != key("T0.0") and key("ﬁ") == key("FI")
