"""Word lists as people have them: CMUdict, Kaldi, the Montreal Forced Aligner."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrt_mm.core.errors import ConfigError, UserError
from hrt_mm.tasks.ctc import Lexicon

PHONEMES = ["AA", "B", "IH", "N", "T", "Z"]
STRESSED = ["AA1", "B", "IH0", "IH1", "N", "T", "Z"]


def read(tmp_path: Path, content: str | bytes, symbols: list[str], unit: str = "phonemes") -> dict[str, list[str]]:
    path = tmp_path / "words.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    lexicon = Lexicon.read(path, symbols, unit)
    return {word: [" ".join(symbols[item] for item in way) for way in ways] for word, ways in lexicon.spellings.items()}


CMU = ";;; # CMUdict\n;;;\n'BIN  B IH1 N\nBIN  B IH1 N\nBIN(1)  B IH0 N\nbot B AA1 T # foreign, spelled\nF(X)  T\n"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_cmudict(tmp_path: Path, end: str, encoding: str) -> None:
    content = CMU.replace("\n", end).encode(encoding)
    stressed = {"'BIN": ["B IH1 N"], "BIN": ["B IH1 N", "B IH0 N"], "bot": ["B AA1 T"], "F(X)": ["T"]}
    assert read(tmp_path, content, STRESSED) == stressed
    plain = {"'BIN": ["B IH N"], "BIN": ["B IH N"], "bot": ["B AA T"], "F(X)": ["T"]}
    assert read(tmp_path, content, PHONEMES) == plain


KALDI = {
    "lexicon.txt": "bin B IH N\nbin B IH T\nzip\tZ IH  T \n",
    "lexiconp.txt": "bin 1.0 B IH N\nbin 0.5 B IH T\nzip 1 Z IH T\n",
    "lexiconp_silprob.txt": "bin 1.0 0.9 1.2 .5 B IH N\nbin 0.5 1e-2 1 1 B IH T\nzip 1 1 1 1 Z IH T\n",
    "tabs of MFA": "bin\t0.99\t0.2\t1.0\t1.2\tB IH N\nbin\t0.1\t0.2\t1.0\t1.2\tB IH T\nzip\tZ IH T\n",
    "special words": "!SIL SIL\n<SPOKEN_NOISE> SPN\n[noise] NSN\nbin B IH N\nbin B IH T\nzip Z IH T\n<UNK> SPN\n",
}


@pytest.mark.parametrize("content", KALDI.values(), ids=KALDI)
def test_kaldi(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    assert read(tmp_path, content, PHONEMES) == {"bin": ["B IH N", "B IH T"], "zip": ["Z IH T"]}
    skipped = "skipped, as the model has no symbols for them: !SIL, <SPOKEN_NOISE>, [noise], <UNK>"
    assert [message.endswith(skipped) for message in caplog.messages] == [True] * ("SIL" in content)
    assert ("<UNK>" in content) == ("<UNK>" in read(tmp_path, content, [*PHONEMES, "SIL", "SPN", "NSN"]))


def test_numbers_may_be_symbols(tmp_path: Path) -> None:
    assert read(tmp_path, "one 1 # 0.5\n", ["1", "#", "0.5"]) == {"one": ["1 # 0.5"]}
    assert read(tmp_path, "f(2)\n", ["f", "(", "2", ")"], "characters") == {"f(2)": ["f ( 2 )"]}
    assert read(tmp_path, "a\u2028b\nc\u0085\n", ["a", "b", "c"], "characters") == {"a": ["b"], "c": ["c"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("bin B IH1 N\nbit B EH1 T\n", r"words.txt:2: 'bit' needs 'EH1', which is not one of the training set's"),
        ("bin 0.5\n", r"words.txt:1: 'bin' is not spelled"),
        (";;; nothing\n\n", r"has no words"),
        ("zé B\n".encode("latin-1"), r"cannot be read: line 1 is not utf-8 .*save it as UTF-8"),
        ("bin B\n".encode("utf-16-le"), r"cannot be read: line 1 has NUL characters"),
        ("<UNK> SPN\n", "has no words"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, content, PHONEMES)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="cannot be read: is a FIFO, not a file"):
        Lexicon.read(tmp_path / "pipe", PHONEMES, "phonemes")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        Lexicon.read(tmp_path / "none", PHONEMES, "phonemes")


PARTS = st.sampled_from(
    ["bin", "B", "IH1", " ", "\t", "\n", ";;;", "(2)", "0.5", "1e9", "#", "<UNK>", "\r\n", "9" * 5000]
)


@settings(max_examples=100)
@given(st.lists(st.one_of(PARTS, st.text(max_size=3)), max_size=12).map("".join))
def test_any_text_is_a_lexicon_or_refused(tmp_path: Path, text: str) -> None:
    try:
        result = read(tmp_path, text.encode("utf-8", "surrogatepass"), PHONEMES)
    except UserError:
        return
    assert result and all(way.split() for ways in result.values() for way in ways)
