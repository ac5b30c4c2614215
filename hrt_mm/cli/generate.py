"""``hrt-mm generate``: continues a text, or writes one from a picture, a sound, a video or a text."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import BadSample, UserError
from .arguments import Commands, add_overrides, add_run, command

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..inference.generation import GeneratedText, Sampling
    from ..inference.trained import TrainedRun
    from ..tasks import Generation, LanguageModel

SOURCES = {"image": "vision", "audio": "audio", "video": "video"}
"""Modality of each option that names a source."""
MAX_TOKENS, TEMPERATURE = 400, 0.8
"""Of language models."""


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = command(commands, "generate", "continue a text, or write one from an image, sound, video or text", run)
    add_run(parser, " of task language or generation")
    add_overrides(parser)
    parser.add_argument("--prompt", default="", help="how the text begins; by default, a new document")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--file", type=Path, help="file with the text to continue; of task generation, the file to write from"
    )
    for name in SOURCES:
        article = "an" if name[0] in "aeiou" else "a"
        source.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write from {article} {name}")
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help=f"maximum number of tokens ({MAX_TOKENS}, or task.max_tokens)"
    )
    parser.add_argument(
        "--beams", type=int, metavar="N", help="beams of the search, of task generation (task.beams); not with sampling"
    )
    parser.add_argument(
        "--length-penalty", type=float, metavar="P", help="exponent of the length of a beam (task.length_penalty)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help=f"sampling temperature; 0 for greedy decoding ({TEMPERATURE}; task generation searches without it)",
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="sample from the K most likely tokens")
    parser.add_argument(
        "--top-p",
        type=float,
        metavar="P",
        help="nucleus sampling: from the most likely tokens with total probability P",
    )
    parser.add_argument(
        "--min-p", type=float, metavar="P", help="sample from tokens with at least P times the highest probability"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="stop before this text; may be repeated"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the first text; later texts use the next ones (0)"
    )
    parser.add_argument("--num", type=int, default=1, metavar="N", help="number of texts (1)")
    parser.add_argument("--step", type=int, help="step of the checkpoint; by default, the best one")


def run(args: argparse.Namespace) -> int:
    """Streams the prompt and its continuation. Several texts are printed one after the other."""
    from ..inference.trained import load_task
    from ..tasks import Generation, LanguageModel

    if args.num < 1:
        raise UserError(f"--num {args.num} must be 1 or more")
    which = "best" if args.step is None else args.step
    trained = load_task(args.folder, which, overrides=args.overrides, inputs="files")
    if isinstance(trained.task, Generation):
        return _write(args, trained, trained.task)
    if not isinstance(trained.task, LanguageModel):
        raise UserError(
            f"{args.folder} is a run of task {trained.config.task.type}; only tasks language and generation generate"
        )
    return _continue(args, trained, trained.task)


def _continue(args: argparse.Namespace, trained: TrainedRun, task: LanguageModel) -> int:
    from ..inference.generation import generate

    for name in (*SOURCES, "beams", "length_penalty"):
        if getattr(args, name) is not None:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is for runs of task generation, and {args.folder} is one of task language")
    if args.file is not None and args.prompt:
        raise UserError("--prompt and --file both give the text to continue; drop one")
    prompt = _given(args.prompt) if args.file is None else _read(args.file)
    pieces = generate(
        task,
        [prompt] * args.num,
        max_tokens=MAX_TOKENS if args.max_tokens is None else args.max_tokens,
        sampling=_sampling(args, TEMPERATURE),
        seeds=_seeds(args),
        stop=args.stop,
        context=_context(trained, prompt),
    )
    _print(pieces, prompt, args.num)
    return 0


def _write(args: argparse.Namespace, trained: TrainedRun, task: Generation) -> int:
    """Writes a text from a file: by a search, or by sampling if that is asked for."""
    import torch

    from ..inference.generation import continued

    path, prompt = _source(args, trained, task), _given(args.prompt)
    sampled = any(value is not None for value in (args.temperature, args.top_k, args.top_p, args.min_p))
    if sampled and (args.beams is not None or args.length_penalty is not None):
        raise UserError("--beams and --length-penalty are for a search, and sampling is none; drop one of them")
    if not sampled and (args.num > 1 or args.stop):
        option = "--num" if args.num > 1 else "--stop"
        raise UserError(f"{option} is for sampling, and a search gives one whole text; set --temperature, or drop it")
    limit = task.config.max_tokens if args.max_tokens is None else args.max_tokens
    try:
        ((batch, _),) = trained.read([{task.source: path}])
    except BadSample as error:
        raise UserError(f"{path}: {error.reason}") from error
    with trained.computing(), torch.inference_mode():
        if not sampled:
            (written,) = task.write(
                batch, prompt=prompt, max_tokens=limit, beams=args.beams, length_penalty=args.length_penalty
            )
            print(_shown(prompt) + task.text(written.ids, ended=written.ended))
            return 0
        state = task.begin(task.read(batch).select([0] * args.num), prompt)
        pieces = continued(state, max_tokens=limit, sampling=_sampling(args, 1.0), seeds=_seeds(args), stop=args.stop)
        _print(pieces, prompt, args.num)
    return 0


def _source(args: argparse.Namespace, trained: TrainedRun, task: Generation) -> Path:
    """The file to write from.

    Raises:
        UserError: there is none, or it is of another modality than the run reads.
    """
    modality = trained.config.towers[task.source].modality.type
    option = next((name for name, other in SOURCES.items() if other == modality), "file")
    for name, other in SOURCES.items():
        if getattr(args, name) is None:
            continue
        if other != modality:
            raise UserError(f"--{name}: {args.folder} writes from {modality}; give --{option} FILE")
        return Path(getattr(args, name))
    if args.file is None:
        raise UserError(f"{args.folder} writes from {modality}; give --{option} FILE")
    return Path(args.file)


def _sampling(args: argparse.Namespace, temperature: float) -> Sampling:
    from ..inference.generation import Sampling

    given = temperature if args.temperature is None else args.temperature
    return Sampling(given, args.top_k, args.top_p, args.min_p)


def _seeds(args: argparse.Namespace) -> Sequence[int]:
    return [args.seed + index for index in range(args.num)]


def _print(pieces: Iterator[GeneratedText], prompt: str | bytes, count: int) -> None:
    shown = _shown(prompt)
    unprinted = [shown] + [f"--- {index + 1}\n{shown}" for index in range(1, count)]
    current, ended = 0, set()
    for piece in pieces:
        unprinted[piece.sample] += piece.text
        if piece.ended:
            unprinted[piece.sample] += "\n"
            ended.add(piece.sample)
        # The texts are generated as a batch, but printed in order.
        while current < count:
            sys.stdout.write(unprinted[current])
            sys.stdout.flush()
            unprinted[current] = ""
            if current not in ended:
                break
            current += 1


def _shown(prompt: str | bytes) -> str:
    return prompt.decode("utf-8", "replace") if isinstance(prompt, bytes) else prompt


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"--file {file} cannot be read: {error.strerror}; give a text file") from error


def _given(prompt: str) -> str | bytes:
    """The bytes of a prompt from the command line, where invalid UTF-8 appears as lone surrogates."""
    try:
        return prompt.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return prompt


def _context(run: TrainedRun, prompt: str | bytes) -> int | None:
    """The context length in tokens that a run was trained on, if its data has a ``context``, which counts bytes.

    For tokens of several bytes, it is estimated from the bytes per token of the prompt.
    """
    import torch

    from ..data.capabilities import ByteCounting, Generative

    context: int | None = getattr(run.config.data, "context", None)
    tokenizer = run.tokenizer
    if context is None or not isinstance(tokenizer, Generative) or not isinstance(tokenizer, ByteCounting):
        return context
    num_bytes = tokenizer.num_bytes(tokenizer.prompts([prompt]).x)
    if not num_bytes.any():
        num_bytes = tokenizer.num_bytes(torch.arange(tokenizer.vocabulary))
    return round(context / float(num_bytes[num_bytes > 0].float().mean()))
