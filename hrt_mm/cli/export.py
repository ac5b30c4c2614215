"""``hrt-mm export``: a run as a file for other runtimes."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import Commands, add_run, command

SAMPLES = 500


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = command(commands, "export", "export a run to ONNX or torch.export, and check the file", run)
    add_run(parser)
    formats = parser.add_mutually_exclusive_group(required=True)
    formats.add_argument("--onnx", dest="format", action="store_const", const="onnx", help="ONNX, for ONNX Runtime")
    formats.add_argument("--pt2", dest="format", action="store_const", const="pt2", help="for torch.export.load")
    parser.add_argument(
        "-o", "--out", metavar="FILE", type=Path, help="the file (RUN/model.onnx, RUN/model.int8.onnx or RUN/model.pt2)"
    )
    parser.add_argument(
        "--output",
        choices=("logits", "embedding"),
        help="class scores, or the vector of a sample (scores of a classifier, else the vector)",
    )
    parser.add_argument("--level", help="level whose tokens are averaged to the vector (the coarsest)")
    parser.add_argument("--tower", help="tower of a run over several modalities")
    parser.add_argument("--int8", action="store_true", help="quantize weights to 8 bits, and print the error (ONNX)")
    parser.add_argument(
        "--split", help=f"also compare the classes of a classifier on this split, {SAMPLES} samples at most"
    )


def run(args: argparse.Namespace) -> int:
    """Exports, and prints the checks."""
    from ..core.errors import UserError
    from ..data.hub import output_path
    from ..inference.export import compare_classes, export_run
    from ..inference.trained import load_task
    from ..train.build import build_dataset

    path = args.out or output_path(args.folder, f"model{'.int8' if args.int8 else ''}.{args.format}", "--out")
    trained = load_task(args.folder)
    dataset = None
    if args.split is not None:
        if trained.config.task.type != "classification" or args.output == "embedding":
            raise UserError("--split compares the classes of a classifier; drop it")
        dataset = build_dataset(trained.config, args.split, trained.tokenizers)
    report = export_run(
        trained,
        path,
        args.format,
        output=args.output,
        level=args.level,
        tower=args.tower,
        int8=args.int8,
    )
    runtime = "ONNX Runtime" if args.format == "onnx" else "torch.export"
    print(f"{report.path}: {report.num_bytes / 1e6:.2f} MB")
    print(f"largest difference {report.error:.1e}, over inputs of {', '.join(report.shapes)}")
    if report.float32 is not None:
        full = report.float32
        print(f"in float32: {full.num_bytes / 1e6:.2f} MB, difference {full.error:.1e}, {full.milliseconds:.1f} ms")
    print(
        f"{report.milliseconds:.1f} ms in {runtime}, {report.eager_milliseconds:.1f} ms in PyTorch "
        f"for {report.timed}, without tokenization"
    )
    if dataset is not None:
        # Evenly spaced, as data is often sorted by class.
        samples = (dataset[index] for index in range(0, len(dataset), -(-len(dataset) // SAMPLES)))
        classes = compare_classes(trained, path, args.format, samples)
        print(
            f"{args.split}: the same class for {classes.same:.1%} of {classes.count} samples; accuracy "
            f"{classes.file_accuracy:.4f} in {runtime}, {classes.accuracy:.4f} in PyTorch"
        )
    return 0
