"""Makes small video files for tests, good and bad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

RATE = 25


def picture(number: int, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3): as bright as its number, with a red mark at the top left."""
    rows, columns = size
    pixels = np.full((rows, columns, 3), number * 4 % 256, np.uint8)
    pixels[: rows // 4, : columns // 4] = (255, 0, 0)
    return pixels


def film(
    path: Path,
    frames: int = 40,
    *,
    size: tuple[int, int] = (48, 64),
    rate: int = RATE,
    times: Sequence[float] | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rotation: int = 0,
    sound: bool = False,
    every: int = 10,
    options: dict[str, str] | None = None,
    chapters: Sequence[float] = (),
) -> Path:
    """Writes a file whose frames tell their numbers.

    Args:
        path: the file.
        frames: how many.
        size: rows and columns.
        rate: frames a second.
        times: seconds of each frame, in place of the rate.
        codec: an encoder of FFmpeg.
        pixels: its pixel format.
        rotation: degrees that players turn the frames by.
        sound: add a second of sound.
        every: frames from one key frame to the next.
        options: of the container.
        chapters: seconds at which chapters start.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", container_options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = size
        stream.pix_fmt = pixels
        stream.codec_context.gop_size = every
        marks = [round(1000 * start) for start in chapters]
        container.set_chapters(
            [
                {"id": index, "start": start, "end": start + 1, "time_base": Fraction(1, 1000), "metadata": {}}
                for index, start in enumerate(marks, 1)
            ]
        )
        if rotation:
            stream.set_display_rotation(rotation)
        voice = container.add_stream("aac", rate=16000) if sound else None
        assert voice is None or isinstance(voice, AudioStream)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, size), "rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[number] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if voice is not None:
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
            samples.sample_rate = 16000
            container.mux(voice.encode(samples))
            container.mux(voice.encode())
    return path


def sound_alone(path: Path) -> Path:
    """Writes a file of sound that is called a video."""
    with av.open(str(path), "w") as container:
        voice = container.add_stream("aac", rate=16000)
        assert isinstance(voice, AudioStream)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        samples.sample_rate = 16000
        container.mux(voice.encode(samples))
        container.mux(voice.encode())
    return path


def packets(path: Path) -> list[tuple[int, int]]:
    """Place and size in the file of each packet of the video."""
    with av.open(str(path)) as container:
        return [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]


def damaged(path: Path, number: int, **kind: object) -> Path:
    """Writes a file with one packet overwritten."""
    film(path, **kind)  # type: ignore[arg-type]
    index, size = packets(path)[number]
    raw = bytearray(path.read_bytes())
    raw[index + 4 : index + size] = b"\xff" * (size - 4)
    path.write_bytes(raw)
    return path


def cut(path: Path, share: float, **kind: object) -> Path:
    """Writes the first part of a file."""
    film(path, **kind)  # type: ignore[arg-type]
    raw = path.read_bytes()
    path.write_bytes(raw[: round(len(raw) * share)])
    return path


WORDS = (
    ("bin", "lay", "place", "set"),
    ("blue", "green", "red", "white"),
    ("at", "by", "in", "with"),
    ("a", "b"),
    ("one", "two"),
    ("again", "now", "please", "soon"),
)
"""What may stand in each of the six slots of a sentence of GRID."""


def grid(root: Path, counts: Mapping[str, int], frames: int = 50) -> Path:
    """Writes mouths and faces in GRID's layout: a word every 0.28 s between silences, words by the sentence's number.

    Args:
        root: the folder.
        counts: sentences by split.
        frames: of each video, at 25 a second.
    """
    names = [f"{split}{number}" for split, count in counts.items() for number in range(count)]
    index, words = "id\tmouth\tface\tsentence\tsplit\n", "id\tword\tstart_s\tend_s\n"
    for number, name in enumerate(names):
        film(root / "mouth" / f"{name}.mp4", frames, size=(48, 96))
        film(root / "face" / f"{name}.mp4", frames, size=(96, 120))
        spoken = [slot[number % len(slot)] for slot in WORDS]
        split = name.rstrip("0123456789")
        index += f"{name}\tmouth/{name}.mp4\tface/{name}.mp4\t{' '.join(spoken)}\t{split}\n"
        edges = [0.0, *(0.2 + 0.28 * position for position in range(len(spoken) + 1)), frames / RATE]
        for word, start, end in zip(["sil", *spoken, "sil"], edges, edges[1:], strict=False):
            words += f"{name}\t{word}\t{start:.2f}\t{end:.2f}\n"
    (root / "index.tsv").write_text(index)
    (root / "words.tsv").write_text(words)
    return root
