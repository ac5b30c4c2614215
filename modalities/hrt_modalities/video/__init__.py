"""Video: tubes, frames, clips, scenes and the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hrt_mm.data.capabilities import Stretch
from hrt_mm.data.files import Home
from hrt_mm.data.modality import Modality
from hrt_mm.data.tokenizer import Tokenizer

from .edits import RenderedConfig
from .folders import VideoFolderConfig, VideoHuggingFaceConfig, VideoManifestConfig, VideoShardsConfig
from .readers import SUFFIXES
from .tokenizer import VideoConfig, VideoTokenizer
from .video import Video


class VideoModality(Modality):
    """Videos of any and mixed lengths, rates and sizes."""

    name = "video"
    extra = "video"
    tokenizer = VideoConfig
    datasets = (
        VideoFolderConfig,
        VideoManifestConfig,
        VideoHuggingFaceConfig,
        VideoShardsConfig,
        RenderedConfig,
    )
    suffixes = SUFFIXES

    @classmethod
    def read(cls, path: Path) -> Video:
        """The video of a file.

        Raises:
            BadSample: the file is missing or no video.
        """
        from .clips import Clip, Clips, Reading

        return Clips(Home(path.parent, follow_links=True), [Clip(path.name)], None, Reading()).read(Clip(path.name))

    @classmethod
    def seconds(cls, path: Path) -> float:
        """How long the video of a file lasts, by its packets.

        Raises:
            BadSample: the file is missing or no video.
        """
        from .readers import read_index

        return read_index(path, path.name).seconds

    @classmethod
    def stretches(cls, path: Path, tokenizer: Tokenizer, seconds: float) -> Iterator[Stretch] | None:
        """The stretches of a long file.

        Raises:
            BadSample: the file is missing or no video.
        """
        from .stretches import stretches

        assert isinstance(tokenizer, VideoTokenizer)
        return stretches(path, tokenizer, seconds)

    @classmethod
    def render(cls, value: Any, span: tuple[float, float] | None = None) -> tuple[str, bytes]:
        """The video, or a part of it in seconds, as a small mp4 file without sound."""
        from .players import mp4

        return ".mp4", mp4(value, span)

    @classmethod
    def figures(cls) -> Callable[..., None]:
        """Draws frames."""
        from .figures import draw_video

        return draw_video


__all__ = ["Video", "VideoConfig", "VideoModality", "VideoTokenizer"]
