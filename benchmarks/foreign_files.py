"""What becomes of images, sounds and videos of any origin: ``python -m benchmarks.foreign_files FOLDER``.

Each file whose name has a suffix that a modality reads is read in a process with limits of time and memory, and what
comes out is compared with what Pillow or FFmpeg gives when it reads the file from beginning to end: the shape in
an image's header and its pixels, the samples of a sound, and the frames of a video, in order and drawn at random.
Prints a table, and what was wrong with a file where anything was. A file that is skipped must say why.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import random
import resource
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hrt_mm.core.errors import BadSample

from .markdown import markdown

OUTCOMES = ("used", "skipped", "wrong", "crashed")
MEMORY, SECONDS, MOST_FRAMES, DRAWN = 6 << 30, 60.0, 4000, 8
"""Bytes and seconds that a file may take, frames of a video that are compared, and frames of it drawn at random."""


class Outcome(NamedTuple):
    """What became of a file.

    Args:
        kind: one of :data:`OUTCOMES`.
        reason: why it was not used.
    """

    kind: str
    reason: str = ""


def check_image(path: Path) -> str | None:
    """What is wrong with how an image is read; ``None`` where nothing is."""
    from PIL import Image, ImageOps

    from hrt_modalities.vision.images import image_shape, read_image

    decoded = read_image(path, path.name)
    if (shape := image_shape(path, path.name)) != tuple(decoded.shape):
        return f"its header gives {shape}, its pixels are {tuple(decoded.shape)}"
    with Image.open(path) as file:
        file.load()
        image = ImageOps.exif_transpose(file)
    if decoded.dtype != torch.uint8:
        return None  # Pillow has no common scale for these
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    pixels = torch.from_numpy(np.array(image.convert("L" if len(decoded) == 1 else "RGB")))
    same = torch.equal(pixels, decoded[0] if len(decoded) == 1 else decoded.permute(1, 2, 0))
    return None if same else "its pixels are others than Pillow's"


def check_audio(path: Path) -> str | None:
    """What is wrong with how a sound is read; ``None`` where nothing is."""
    import av

    from hrt_modalities.audio.containers import OPTIONS
    from hrt_modalities.audio.files import read_audio

    audio = read_audio(path, path.name)
    samples, rate = Fraction(0), audio.rate
    try:
        with av.open(str(path), options=dict(OPTIONS), metadata_errors="replace") as container:
            stream: Any = container.streams.best("audio")
            for packet in container.demux(stream):
                try:
                    frames: list[Any] = list(packet.decode())
                except av.FFmpegError:
                    continue
                for frame in frames:
                    samples += Fraction(frame.samples * rate, frame.sample_rate)
    except (av.FFmpegError, ValueError):
        return None  # libsndfile alone reads it
    if abs(samples - len(audio.waveform_S)) >= 1:
        return f"{len(audio.waveform_S)} samples, {round(samples)} by FFmpeg"
    offset = random.Random(0).uniform(0, 0.9) * audio.seconds
    part = read_audio(path, path.name, offset).waveform_S
    same = torch.allclose(part, audio.waveform_S[round(offset * rate) :], atol=1e-3)
    return None if same else f"a part from {offset:.3f} s on differs from the whole"


def check_video(path: Path) -> str | None:
    """What is wrong with how a video is read; ``None`` where nothing is."""
    from hrt_modalities.video.readers import VideoFile
    from hrt_modalities.video.readers.orientation import Orientation

    with VideoFile(path, path.name, square_pixels=False) as video:
        frames = len(video.index)
        if frames > MOST_FRAMES or video.index.orientation != Orientation():
            return None
        given: dict[int, int] = {}
        for block in video.stream():
            numbers = torch.searchsorted(video.index.times_N, block.times_N - 1e-9).tolist()
            given.update(zip(numbers, (hash_of(frame) for frame in block.pixels_N3HW), strict=True))
        in_sequence = list(_in_sequence(path, video.size))
        if len(given) == frames != len(in_sequence):
            return f"{frames} frames, {len(in_sequence)} by FFmpeg"
        if len(given) == frames and (wrong := [number for number in given if given[number] != in_sequence[number]]):
            return f"frame {wrong[0]} and {len(wrong) - 1} others differ from FFmpeg's"
        for number in random.Random(0).choices(sorted(given), k=DRAWN):
            if hash_of(video.frames([number]).pixels_N3HW[0]) != given[number]:
                return f"frame {number} alone differs from frame {number} in sequence"
    return None


def hash_of(frame_3HW: torch.Tensor) -> int:
    """Stands for the pixels of a frame."""
    return hash(frame_3HW.contiguous().numpy().tobytes())


def _in_sequence(path: Path, size: tuple[int, int]) -> Iterator[int]:
    import av
    from av.video.reformatter import VideoReformatter

    from hrt_modalities.video.readers.index import OPTIONS, video_stream

    scale = VideoReformatter()
    with av.open(str(path), options=dict(OPTIONS), metadata_errors="replace") as container:
        stream = video_stream(container, path.name)
        stream.codec_context.thread_count = 1
        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    continue
                for frame in frames:
                    pixels = scale.reformat(frame, size[1], size[0], "rgb24", interpolation="BILINEAR", threads=1)
                    yield hash_of(torch.from_numpy(pixels.to_ndarray()).permute(2, 0, 1))
        except av.FFmpegError:
            return


CHECKS: dict[str, Callable[[Path], str | None]] = {"image": check_image, "audio": check_audio, "video": check_video}


def outcome(kind: str, path: Path) -> Outcome:
    """What becomes of a file; errors of other kinds than the project's own count as crashes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrong = CHECKS[kind](path)
    except BadSample as error:
        return Outcome("skipped", str(error))
    except BaseException as error:  # nothing else may come out of a reader
        return Outcome("crashed", f"{type(error).__name__}: {error}")
    return Outcome("used") if wrong is None else Outcome("wrong", wrong)


def _serve(connection: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    while True:
        kind, path = connection.recv()
        connection.send(outcome(kind, path))


class Workers:
    """One process that reads files, replaced where it dies or takes too long."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._process: Any = None

    def run(self, kind: str, path: Path) -> Outcome:
        """What becomes of a file."""
        if self._process is None:
            context = mp.get_context("spawn")
            self._connection, other = context.Pipe()
            self._process = context.Process(target=_serve, args=(other,), daemon=True)
            self._process.start()
            other.close()
        self._connection.send((kind, path))
        try:
            if self._connection.poll(self.seconds):
                outcome: Outcome = self._connection.recv()
                return outcome
            reason = f"took more than {self.seconds:g} s"
        except EOFError:
            reason = "the process died"
        self.close()
        return Outcome("crashed", reason)

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def kinds_of(path: Path) -> list[str]:
    """The modalities that read files of such a name."""
    from hrt_modalities.audio.files import SUFFIXES as SOUNDS
    from hrt_modalities.video.readers.index import SUFFIXES as VIDEOS
    from hrt_modalities.vision.images import SUFFIXES as IMAGES

    suffix = path.suffix.lower()
    return [kind for kind, suffixes in (("image", IMAGES), ("audio", SOUNDS), ("video", VIDEOS)) if suffix in suffixes]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; 1 where a file was wrong or crashed its reader."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.foreign_files", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="+", help="each is a row of the table for each kind of file in it")
    parser.add_argument("--skips", action="store_true", help="print why files were skipped")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that a file may take")
    arguments = parser.parse_args(argv)
    workers, counts = Workers(arguments.seconds), Counter[tuple[str, str, str]]()
    try:
        for folder in arguments.folder:
            for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
                for kind in kinds_of(path):
                    outcome = workers.run(kind, path)
                    counts[folder.name, kind, outcome.kind] += 1
                    if outcome.kind in ("wrong", "crashed") or (outcome.kind == "skipped" and arguments.skips):
                        print(f"{outcome.kind}: {path} as {kind}: {outcome.reason}", file=sys.stderr)
    finally:
        workers.close()
    rows = sorted({(folder, kind) for folder, kind, _ in counts})
    body = [
        [folder, kind, str(sum(counts[folder, kind, each] for each in OUTCOMES))]
        + [str(counts[folder, kind, each]) for each in OUTCOMES]
        for folder, kind in rows
    ]
    print(markdown(["collection", "kind", "files", "used", "skipped, named", "wrong", "crashed"], body))
    return int(any(kind in ("wrong", "crashed") for _, _, kind in counts))


if __name__ == "__main__":
    sys.exit(main())
