"""``hrt-mm generate``: continues a text with a trained language model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import UserError
from .arguments import Commands, add_overrides, add_run, command

if TYPE_CHECKING:
    from ..inference.trained import TrainedRun


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = command(commands, "generate", "continue a text with a trained language model", run)
    add_run(parser, " of task language")
    add_overrides(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--prompt", default="", help="text to continue; by default, a new document")
    source.add_argument("--file", type=Path, help="file with the text to continue")
    parser.add_argument("--max-tokens", type=int, default=400, metavar="N", help="maximum number of tokens (400)")
    parser.add_argument(
        "--temperature", type=float, default=0.8, metavar="T", help="sampling temperature; 0 for greedy decoding (0.8)"
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
    from ..inference.generation import Sampling, generate
    from ..inference.trained import load_task
    from ..tasks import LanguageModel

    if args.num < 1:
        raise UserError(f"--num {args.num} must be 1 or more")
    sampling = Sampling(args.temperature, args.top_k, args.top_p, args.min_p)
    trained = load_task(args.folder, "best" if args.step is None else args.step, overrides=args.overrides)
    if not isinstance(trained.task, LanguageModel):
        raise UserError(f"{args.folder} is a run of task {trained.config.task.type}; only task language generates")
    prompt = _given(args.prompt) if args.file is None else _read(args.file)
    prompt_text = prompt.decode("utf-8", "replace") if isinstance(prompt, bytes) else prompt
    seeds = [args.seed + index for index in range(args.num)]
    pieces = generate(
        trained.task,
        [prompt] * args.num,
        max_tokens=args.max_tokens,
        sampling=sampling,
        seeds=seeds,
        stop=args.stop,
        context=_context(trained, prompt),
    )
    unprinted = [prompt_text] + [f"--- {index + 1}\n{prompt_text}" for index in range(1, args.num)]
    current, ended = 0, set()
    for piece in pieces:
        unprinted[piece.sample] += piece.text
        if piece.ended:
            unprinted[piece.sample] += "\n"
            ended.add(piece.sample)
        # The texts are generated as a batch, but printed in order.
        while current < args.num:
            sys.stdout.write(unprinted[current])
            sys.stdout.flush()
            unprinted[current] = ""
            if current not in ended:
                break
            current += 1
    return 0


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
