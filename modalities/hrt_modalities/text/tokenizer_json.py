"""Reads a ``tokenizer.json`` (Hugging Face ``tokenizers``) with the settings that restore texts exactly.

Only byte-level BPE does so: every byte is a token, and the pieces of a text are the whole text. The file is untrusted.
Settings are copied key by key, so that unknown ones have no effect:

- used: vocabulary and merges, ``ignore_merges``, added tokens, and how text is split into pieces;
- not applied, with a warning: truncation, padding, dropout, a space before texts, Unicode NFC, white space that added
  tokens strip, and the removal of text that a split does not match;
- not applied, because it makes no difference: the decoder, the post-processor (documents have separators here),
  unknown tokens and byte fallback (every byte is a token);
- refused: other models and normalizers, splits that remove text, vocabularies that lack a byte or repeat an id.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.extras import needs_extra

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

log = logging.getLogger(__name__)

Json = Mapping[str, Any]

_MAKE = "make one with `hrt-mm text subwords`"
_NEUTRAL = {"Digits": ("individual_digits",), "FixedLength": ("length",)}
"""Pre-tokenizers that split text without loss, with their settings. UnicodeScripts is lossy, as it drops spaces."""
_BEHAVIORS = ("Isolated", "Contiguous", "MergedWithPrevious", "MergedWithNext")
"""Behaviors of splits without loss."""
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class Refused(Exception):
    """The file does not restore texts."""


@cache
def byte_of_char() -> dict[str, int]:
    """The byte of each character in byte-level subwords (GPT-2): printable bytes are themselves, others from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


def load(file: Path) -> tuple[Library, list[bytes]]:
    """The tokenizer of a file, and the bytes of each id; none for unused ids.

    Raises:
        ConfigError: the file cannot be read, is no such file, or cannot restore texts.
    """
    with needs_extra("text"):
        import tokenizers  # noqa: F401

    try:
        if not file.is_file():
            raise ConfigError(
                f"modality.subwords {file} cannot be read: "
                f"{'it is no regular file' if file.exists() else 'no such file'}; {_MAKE}"
            )
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"modality.subwords {file} cannot be read: {error}; {_MAKE}") from error
    try:
        plain = json.loads(content)
        ignored: list[str] = []
        clean = _Cleaner(ignored).tokenizer(plain)
        library = _library(clean)
        tokens = _bytes_of_tokens(library, clean)
        _self_test(library, tokens)
    except Refused as error:
        raise ConfigError(
            f"modality.subwords {file} {error}; only byte-level BPE gives texts back as they were. Take another file, "
            f"or {_MAKE}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else repr(error)[:200]
        raise ConfigError(f"modality.subwords {file} is no tokenizer.json ({reason}); {_MAKE}") from error
    if ignored:
        log.warning("modality.subwords %s: not applied, so that texts stay as they are: %s", file, ", ".join(ignored))
    return library, tokens


def encode(library: Library, text: str) -> list[int]:
    """Ids of a text.

    Raises:
        Refused: the library fails, for example on patterns that take too long.
    """
    try:
        ids: list[int] = library.encode(text, add_special_tokens=False).ids
    except BaseException as error:
        # Panics of the library are not an `Exception`.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise Refused(f"cannot split a text: {error}") from error
    return ids


class _Cleaner:
    """Copies the settings that are used.

    Args:
        ignored: collects settings that are not applied.
    """

    def __init__(self, ignored: list[str]) -> None:
        self.ignored = ignored

    def tokenizer(self, plain: Any) -> Json:
        for key in ("truncation", "padding"):
            if plain.get(key):
                self.ignored.append(key)
        model, splits = plain["model"], plain.get("pre_tokenizer")
        kind = model.get("type") or ("BPE" if "merges" in model else "no model")
        if kind != "BPE":
            raise Refused(f"holds {kind!s:.40} over {_types(splits)}")
        self.check_normalizer(plain.get("normalizer"))
        pre_tokenizers = self.pre_tokenizers(splits) if splits is not None else []
        levels = [pre_tokenizer["type"] for pre_tokenizer in pre_tokenizers].count("ByteLevel")
        if levels != 1:
            raise Refused(
                "turns text into bytes twice" if levels else f"holds BPE over {_types(splits)}, not ByteLevel"
            )
        model = self.model(model)
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [self.added(token, model["vocab"]) for token in plain.get("added_tokens") or ()],
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers},
            "post_processor": None,
            "decoder": None,
            "model": model,
        }

    def model(self, model: Json) -> dict[str, Any]:
        for key in ("vocab", "merges"):
            if key not in model:
                raise Refused(f"is broken: its model has no {key}")
        for key in ("continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(key):
                raise Refused(f"has {key} {model[key]!r:.40}, which is no part of texts")
        if model.get("dropout"):
            self.ignored.append(f"dropout {model['dropout']!r:.20}")
        vocabulary = model["vocab"]
        if not isinstance(vocabulary, dict):
            raise TypeError(f"vocab is {type(vocabulary).__name__}")
        if missing := [byte for char, byte in byte_of_char().items() if char not in vocabulary]:
            raise Refused(f"has no token for {len(missing)} of 256 bytes, the first 0x{min(missing):02X}")
        return {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": _flag(model, "ignore_merges"),
            "vocab": vocabulary,
            "merges": model["merges"],
        }

    def check_normalizer(self, normalizer: Json | None) -> None:
        if normalizer is None:
            return
        kind = normalizer["type"]
        if kind == "Sequence":
            for part in normalizer["normalizers"]:
                self.check_normalizer(part)
        elif kind == "NFC":
            self.ignored.append("normalizer NFC")
        else:
            raise Refused(f"has the normalizer {kind!s:.40}, which changes texts")

    def pre_tokenizers(self, config: Json) -> list[Json]:
        kind = config["type"]
        if kind == "Sequence":
            return [pre_tokenizer for part in config["pretokenizers"] for pre_tokenizer in self.pre_tokenizers(part)]
        if kind == "ByteLevel":
            if _flag(config, "add_prefix_space", True):
                self.ignored.append("add_prefix_space")
            regex = _flag(config, "use_regex", True)
            return [{"type": kind, "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}]
        if kind in ("Split", "Punctuation"):
            return [self.split(config)]
        if kind in _NEUTRAL:
            return [{"type": kind, **{key: config[key] for key in _NEUTRAL[kind] if key in config}}]
        raise Refused(f"has the pre-tokenizer {kind!s:.40}, which changes or removes text")

    def split(self, config: Json) -> Json:
        behavior = config["behavior"]
        behavior = behavior[:1].upper() + behavior[1:]
        if behavior == "Removed" and config["type"] == "Split" and _flag(config, "invert"):
            # Removes text that the pattern does not match, which is usually none (GPT-4). Here it becomes a piece.
            self.ignored.append("removal of what a split does not match")
            behavior = "Isolated"
        if behavior not in _BEHAVIORS:
            raise Refused(f"has a {config['type']} with behavior {behavior!s:.40}, which removes text")
        if config["type"] == "Punctuation":
            return {"type": "Punctuation", "behavior": behavior}
        return {
            "type": "Split",
            "pattern": config["pattern"],
            "behavior": behavior,
            "invert": _flag(config, "invert"),
        }

    def added(self, token: Json, vocabulary: Json) -> Json:
        content = token["content"]
        if not isinstance(content, str) or not content:
            raise Refused(f"has the added token {content!r:.40}, which is no text")
        alphabet = byte_of_char()
        if content in vocabulary and all(char in alphabet for char in content):
            other = bytes(alphabet[char] for char in content)
            if other != content.encode():
                raise Refused(
                    f"has the added token {content!r:.40}, which is also the subword of the bytes {other!r:.40}"
                )
        flags = {key: _flag(token, key) for key in _FLAGS}
        for key in ("lstrip", "rstrip"):
            if flags[key]:
                self.ignored.append(f"{key} of {content!r:.40}")
        return {"id": token["id"], "content": content, **flags, "lstrip": False, "rstrip": False}


def _library(clean: Json) -> Library:
    from tokenizers import Tokenizer as Library

    try:
        return Library.from_str(json.dumps(clean))
    except (RecursionError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise Refused(f"is broken: {error}") from error


def _bytes_of_tokens(library: Library, clean: Json) -> list[bytes]:
    """The bytes of each id."""
    ids = library.get_vocab(with_added_tokens=True)
    if len(set(ids.values())) != len(ids):
        raise Refused("gives one id to two tokens")
    size = max(ids.values()) + 1
    if size > 2 * len(ids):
        raise Refused(f"has ids up to {size - 1:,} for {len(ids):,} tokens")
    alphabet = byte_of_char()
    added = {token["content"] for token in clean["added_tokens"]}
    token_bytes = [b""] * size
    for token, number in ids.items():
        try:
            token_bytes[number] = bytes(map(alphabet.__getitem__, token)) if token not in added else token.encode()
        except KeyError:
            # Unreachable from text, whose pieces consist of the characters of bytes.
            token_bytes[number] = token.encode("utf-8", "surrogatepass")
    return token_bytes


def _self_test(library: Library, tokens: Sequence[bytes]) -> None:
    """Checks that texts of many kinds are restored, whatever the file or a later version of the library does."""
    added = [token.content for token in library.get_added_tokens_decoder().values()]
    for text in (*_PROBES, *(probe for token in added for probe in (token, f" {token} ", f"a{token}{token}\n{token}"))):
        back = b"".join(tokens[token] for token in encode(library, text))
        if back != text.encode():
            raise Refused(f"gives {text[:40]!r} back as {back.decode('utf-8', 'replace')[:40]!r}")


_PROBES = (
    "".join(map(chr, range(0x80))),
    # All bytes that occur in UTF-8.
    "".join(map(chr, range(0x80, 0x800, 7))),
    "".join(chr(code) for code in range(0x800, 0x110000, 1021) if not 0xD800 <= code < 0xE000),
    "".join(chr(0x40000 * plane + 0x10000) for plane in range(4)),
    "the quick brown fox",
    " the fox",
    "  two  and   three    and four    ",
    "\n\n \r\n\t\t x\v\f\n ",
    "It's John's, they'LL say: we're 3rd of 12345678901 — 50%!",
    "cafe\u0301 caf\u00e9 \u1e9b\u0323 \ufb01 \u212b \uac00 \u1100\u1161",
    "\u0111em \u0120the \u010a \u2581the \u00a0 \u3000 \u200b\u200d\ufeff\u2028\u2029\u0085 \ufffd",
    "<s> </s> <unk> [UNK] [CLS] [MASK] <mask> <|endoftext|> <0x0A>",
    "\U0001f469\u200d\U0001f680 \U0001f1e9\U0001f1ea \u2764\ufe0f \u4e16\u754c \u0928\u092e\u0938\u094d\u0924\u0947",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd İSTANBUL ẞ ǆ",
)


def _flag(config: Json, key: str, absent: bool = False) -> bool:
    value = config.get(key, absent)
    if not isinstance(value, bool):
        raise TypeError(f"{key} must be true or false, got {value!r:.40}")
    return value


def _types(config: Any) -> str:
    if config is None:
        return "no pre-tokenizer"
    kind = str(config["type"])
    return ", ".join(map(_types, config["pretokenizers"])) if kind == "Sequence" else kind
