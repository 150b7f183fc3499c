"""Frames of videos, by PyAV (FFmpeg's libraries in a package)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from resnets.data.images import ImageError
from resnets.inference.engines import package
from resnets.support.errors import UserError, one_line

ENDINGS = frozenset({
    ".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv",
})  # fmt: skip
"""Of files that are videos."""
WHOLE = 0.9
"""A video with fewer of the frames that its header declares has been cut off."""


@dataclass(frozen=True)
class VideoFrame:
    """One frame of a video.

    Args:
        name: the video's file and the frame's number, such as `clip.mp4#25`.
        picture: upright RGB, or why there is none.
        frame: its number in the video, from 0.
        seconds: when it is shown.
    """

    name: str
    picture: Image.Image | UserError
    frame: int | None = None
    seconds: float | None = None


def is_video(name: str) -> bool:
    """Whether a file's name ends like that of a video."""
    return os.path.splitext(name)[1].lower() in ENDINGS  # noqa: PTH122 (fast)


def require() -> None:
    """Raise `UserError` unless videos can be read."""
    package("av", "video")


def frame_count(name: str, every: int) -> int:
    """How many frames `frames` yields, as far as the file says; at least 1."""
    try:
        with _opened(name) as container:
            return max(1, -(-_declared(container) // every))
    except UserError:  # which `frames` yields
        return 1


def frames(
    name: str, every: int = 1, skip: Callable[[str], bool] = lambda name: False
) -> Iterator[VideoFrame]:
    """Every `every`-th frame of a video, as its player would show it.

    A video that cannot be opened, or breaks off, yields its error at that point, under the name of
    the file.

    Args:
        name: the file.
        every: 1 for all frames, 2 for every second one, ...
        skip: whether a frame of this name is left out; it is not converted then.
    """
    number = -1
    try:
        with _opened(name) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                own = f"{name}#{number}"
                if number % every == 0 and not skip(own):
                    picture = _upright(frame)
                    seconds = float(frame.time) if frame.time is not None else 0.0
                    yield VideoFrame(own, picture, number, seconds)
            declared = _declared(container)
        if number < 0:
            raise ImageError("corrupt", "the video has no frames", name)
        if number + 1 < WHOLE * declared:
            message = f"the video breaks off after frame {number} of about {declared}"
            raise ImageError("corrupt", message, name)
    except UserError as error:
        yield VideoFrame(name, error)
    except (OSError, ValueError) as error:  # PyAV's are both
        at = f"after frame {number}" if number >= 0 else "at its first frame"
        message = f"the video cannot be read {at} ({one_line(error)})"
        yield VideoFrame(name, ImageError("corrupt", message, name))


def _declared(container: Any) -> int:
    """The number of frames by the file's header; 0 if it does not say."""
    stream = container.streams.video[0]
    if stream.frames:
        return int(stream.frames)
    seconds = 0.0
    if stream.duration:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration:
        seconds = container.duration / 1e6
    return int(seconds * float(stream.average_rate or 0))


def _opened(name: str) -> Any:
    """The open video; raises `UserError` if there is none."""
    av = package("av", "video")
    if not Path(name).exists():
        raise ImageError("unreadable", "no such video", name)
    try:
        container = av.open(name)
    except (OSError, ValueError) as error:
        message = f"the video cannot be read ({one_line(error)})"
        raise ImageError("corrupt", message, name) from error
    if not container.streams.video:
        container.close()
        raise ImageError("not-an-image", "the file has no video", name)
    return container


def _upright(frame: Any) -> Image.Image:
    """A frame as RGB, turned as the camera was held."""
    picture: Image.Image = frame.to_image()
    turned = round(getattr(frame, "rotation", 0) or 0) % 360
    return picture.rotate(turned, expand=True) if turned else picture
