"""``hrt-mm text subwords``: learns a vocabulary of subwords from one's own text."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.registry import Command

from .corpus import CorpusConfig, documents, warn_of_left_out
from .sources import DocumentSource
from .text import char_start

_PIECE = 1 << 20
"""Bytes that are read at once."""


def _arguments(parser: ArgumentParser) -> None:
    text = "training text: files, folders or .jsonl files; the training part of the standard library when absent"
    parser.add_argument("files", metavar="FILE", nargs="*", type=Path, help=text)
    parser.add_argument("--out", type=Path, default=Path("tokenizer.json"), help="where it goes (tokenizer.json)")
    parser.add_argument("--vocabulary", type=int, default=8192, metavar="N", help="ids at most (8192)")
    parser.add_argument("--suffix", action="append", default=[], metavar=".txt", help="files that count in folders")
    parser.add_argument("--text-key", default="text", metavar="KEY", help="key of the text in a line of JSONL (text)")
    parser.add_argument("--force", action="store_true", help="replace the file")


def _run(args: Namespace) -> int:
    """Learns and writes them, and prints how many bytes one stands for."""
    from .subwords import SubwordTokenizer, train_subwords

    if args.out.exists() and not args.force:
        raise ConfigError(f"{args.out} is there already; choose another --out, or replace it with --force")
    if args.files:
        source = documents(args.files, args.suffix, args.text_key)
        warn_of_left_out(source, ", ".join(map(str, args.files)))
    else:
        source = CorpusConfig(type="corpus").build("train").source
    count = train_subwords(_texts(source), args.vocabulary, args.out)
    tokenizer = SubwordTokenizer(args.out)
    text = next(_texts(source)).encode()
    ids, _ = tokenizer.encode(text)
    print(f"{args.out}: {count} ids from {len(source.sizes)} documents, {len(text) / len(ids):.2f} bytes a subword")
    return 0


def _texts(source: DocumentSource) -> Iterator[str]:
    """The documents, in pieces that end with a line where there is one."""
    for document, size in enumerate(source.sizes.tolist()):
        start = 0
        while start < size:
            # A few bytes more, so that no character is cut.
            piece = source.read(document, start, min(start + _PIECE + 3, size))
            piece = piece[: char_start(piece, _PIECE)]
            line = piece.rfind(b"\n") + 1
            if start + len(piece) < size and line:
                piece = piece[:line]
            yield piece.decode("utf-8", "replace")
            start += len(piece)


SUBWORDS = Command("text subwords", "learn subwords from text, for modality.subwords", _arguments, _run)
