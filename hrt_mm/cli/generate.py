"""``hrt-mm generate``: continues a text with the best weights of a language model's run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import UserError
from ..data.capabilities import ByteCounting, Generative
from .arguments import Commands, add_overrides, command

if TYPE_CHECKING:
    from ..inference.trained import TrainedRun


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = command(commands, "generate", "continue a text with a trained language model", run)
    parser.add_argument("folder", metavar="RUN", type=Path, help="a run folder")
    add_overrides(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--prompt", default="", help="the text to continue; a new document when absent")
    source.add_argument("--file", type=Path, help="a file with the text to continue")
    parser.add_argument("--max-tokens", type=int, default=400, metavar="N", help="tokens at most (400)")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0 takes the likeliest (0.8)")
    parser.add_argument("--top-k", type=int, metavar="K", help="draw among the K likeliest")
    parser.add_argument("--top-p", type=float, metavar="P", help="draw among the likeliest of probability P together")
    parser.add_argument("--min-p", type=float, metavar="P", help="draw among those of P times the likeliest's")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="of the first text; the next ones count on (0)")
    parser.add_argument("--num", type=int, default=1, metavar="N", help="texts from the same prompt (1)")
    parser.add_argument("--step", type=int, help="a checkpoint by its step; the best when absent")


def run(args: argparse.Namespace) -> int:
    """Writes the prompt and what follows it, as it comes; several texts one after the other."""
    from ..inference.generation import Sampling, generate
    from ..inference.trained import load_task
    from ..tasks import LanguageModel

    if args.num < 1:
        raise UserError(f"--num {args.num} must be 1 or more")
    sampling = Sampling(args.temperature, args.top_k, args.top_p, args.min_p)
    found = load_task(args.folder, "best" if args.step is None else args.step, overrides=args.overrides)
    if not isinstance(found.task, LanguageModel):
        raise UserError(f"{args.folder} is a run of task {found.config.task.type}; only task language generates")
    prompt = _given(args.prompt) if args.file is None else _read(args.file)
    shown = prompt.decode("utf-8", "replace") if isinstance(prompt, bytes) else prompt
    seeds = [args.seed + place for place in range(args.num)]
    pieces = generate(
        found.task,
        [prompt] * args.num,
        max_tokens=args.max_tokens,
        sampling=sampling,
        seeds=seeds,
        stop=args.stop,
        context=_context(found, prompt),
    )
    waiting = [shown] + [f"--- {place + 1}\n{shown}" for place in range(1, args.num)]
    showing, ended = 0, set()
    for piece in pieces:
        waiting[piece.sample] += piece.text
        if piece.ended:
            waiting[piece.sample] += "\n"
            ended.add(piece.sample)
        # Texts grow side by side; each is shown once those before it have ended.
        while showing < args.num:
            sys.stdout.write(waiting[showing])
            sys.stdout.flush()
            waiting[showing] = ""
            if showing not in ended:
                break
            showing += 1
    return 0


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"--file {file} cannot be read: {error.strerror}; give a text file") from error


def _given(prompt: str) -> str | bytes:
    """A prompt from the command line. Bytes that are no UTF-8 stand in it as lone surrogates, and stay bytes."""
    try:
        return prompt.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return prompt


def _context(run: TrainedRun, prompt: str | bytes) -> int | None:
    """Tokens of the texts that a run was trained on, where its data has a ``context``.

    It counts bytes. Of tokens that stand for several it is what as many bytes like the prompt's are, about.
    """
    import torch

    context: int | None = getattr(run.config.data, "context", None)
    tokenizer = run.tokenizer
    if context is None or not isinstance(tokenizer, Generative) or not isinstance(tokenizer, ByteCounting):
        return context
    num_bytes = tokenizer.num_bytes(tokenizer.prompts([prompt]).x)
    if not num_bytes.any():
        num_bytes = tokenizer.num_bytes(torch.arange(tokenizer.vocabulary))
    return round(context / float(num_bytes[num_bytes > 0].float().mean()))
