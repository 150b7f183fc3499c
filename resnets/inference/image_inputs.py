"""Images as users give them: files, folders and patterns; PIL images, arrays and tensors."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.data import archives, folders, hints
from resnets.data.image_formats import EXTENSIONS
from resnets.data.images import (
    ImageError,
    decode,
    read_content,
    read_image,
    to_rgb,
    upright_size,
)
from resnets.inference.image_sources import STANDARD_INPUT, ImageContent, is_url
from resnets.support.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SAMPLES = Path(str(resources.files("resnets.inference"))) / "samples"
"""Folder with ten test images of CIFAR-10, to try a model."""
ImageInput: TypeAlias = Union[
    str, os.PathLike[str], Image.Image, NDArray[np.uint8], "Tensor", ImageContent
]
"""One image: a path, a PIL image, an array (H, W, 3) or a tensor (3, H, W), both uint8 RGB; or the
content of a file without a path."""


def find_images(
    names: Sequence[str], note: Callable[[str], None] = lambda line: None, *, remote: bool = False
) -> list[str]:
    """Expand folders, archives and patterns to image files, each listed once, in a fixed order.

    A file that is named in several ways keeps its first name.

    Args:
        names: files with any extension, whether they exist or not; folders, for all files below
            them that are images, except hidden ones and those in their quarantine file; archives
            of such folders; patterns such as `photos/**/*.jpg`, for shells that do not expand them.
        note: called with a line for each fact that a user should know, such as what is left out.
        remote: whether `-`, for standard input, and URLs are images too.

    Raises:
        UserError: if a folder or a pattern has no images, a folder cannot be read, a name is empty,
            or there is a URL where none can be.
    """
    by_location: dict[str, str] = {}

    @cache
    def absolute(folder: str) -> str:
        # With .. after a symbolic link, only the system knows where it leads.
        return os.path.realpath(folder) if ".." in folder else os.path.abspath(folder)  # noqa: PTH100

    for name in names:
        if is_url(name) or (remote and name == STANDARD_INPUT):
            if not remote:
                raise UserError("is a URL, not a file", name, "download it first")
            by_location[name] = name
            continue
        files = list(_expand(name, note))
        if len(names) == 1:  # one folder or pattern yields only one name of each file
            return list(dict.fromkeys(files))
        for file in files:
            folder, base = os.path.split(file)
            by_location.setdefault(f"{absolute(folder)}/{base}", file)
    return list(by_location.values())


def _expand(name: str, note: Callable[[str], None]) -> Iterator[str]:
    """The files that one name stands for; raises `UserError` if there are none."""
    if not name:
        raise UserError("the name of an image is empty")
    if os.path.isdir(name):  # noqa: PTH112 (never raises)
        files = _inside(Path(name), note)
        if not files:
            extensions = ", ".join(sorted(EXTENSIONS))
            hint = hints.inside(Path(name)) or f"looked for {extensions}"
            raise UserError("no images in this folder", name, hint)
    elif archives.is_archive(Path(name)):
        files = _inside(archives.unpacked(Path(name)), note)
        if not files:
            raise UserError("no images in this archive", name)
    elif glob.has_magic(name) and not os.path.lexists(name):
        matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 (may be absolute)
        files = [match for match in matches if not os.path.isdir(match)]  # noqa: PTH112
        if not files:
            raise UserError("no file matches this pattern", name)
    elif name != STANDARD_INPUT and not os.path.splitext(name)[1] and not os.path.lexists(name):  # noqa: PTH122
        raise UserError("no such folder", name, "give a folder of images")
    else:
        files = [name]
    yield from files


def _inside(folder: Path, note: Callable[[str], None]) -> list[str]:
    return [str(folder / file) for file in folders.image_files(folder, note)]


def normalized(name: str) -> str:
    """A file's name without `./` and doubled slashes, which mean something in URLs only."""
    needless = "./" in name or "//" in name
    plain = ".." in name or not needless or is_url(name)
    return name if plain else os.path.normpath(name)


def as_images(images: ImageInput | Iterable[ImageInput]) -> Iterable[ImageInput]:
    """Images as an iterable: a single image, or what is no image, becomes a list of one.

    Arrays (N, H, W, 3) and tensors (N, 3, H, W) are batches of N images.
    """
    single = isinstance(images, str | os.PathLike | Image.Image) or getattr(images, "ndim", 4) < 4
    wrong = isinstance(images, bytes | bytearray | Mapping) or not isinstance(images, Iterable)
    if single or wrong:
        return [cast(ImageInput, images)]
    return cast(Iterable[ImageInput], images)


def input_name(image: ImageInput, number: int) -> str:
    """How an image is named in results: its path, or `images[number]`."""
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    if isinstance(image, ImageContent):
        return image.name
    return getattr(image, "filename", "") or f"images[{number}]"


def _path(image: str | os.PathLike[str]) -> Path:
    if not os.fspath(image):  # which would be the folder that this process is in
        raise ImageError("unreadable", "the name of the image is empty")
    return Path(image)


def open_sized(
    image: ImageInput, shorter_side: Callable[[tuple[int, int]], int]
) -> tuple[Image.Image, tuple[int, int]]:
    """Read one image as upright RGB, with its width and height.

    Args:
        image: see `ImageInput`.
        shorter_side: from an image's size to the pixels that its shorter side needs; large JPEG
            files may be decoded at a smaller scale that still has them.

    Raises:
        UserError, TypeError, ValueError: as `open_image`.
    """
    if isinstance(image, str | os.PathLike):
        content, name = read_content(_path(image)), os.fspath(image)
    elif isinstance(image, ImageContent):
        content, name = image.read(), image.name
    else:
        opened = open_image(image)
        return opened, opened.size
    size = upright_size(content, name)
    return decode(content, name, shorter_side(size)), size


def open_image(image: ImageInput, shorter_side: int | None = None) -> Image.Image:
    """Read one image as upright RGB.

    Args:
        image: see `ImageInput`.
        shorter_side: pixels that the shorter side needs; large JPEG files may be decoded at a
            smaller scale that still has them.

    Raises:
        UserError: if a file cannot be read as an image, or a PIL image has no pixels.
        TypeError: if `image` is none of these types.
        ValueError: if an array or tensor has another shape or type of numbers.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(_path(image), shorter_side)
    if isinstance(image, ImageContent):
        return decode(image.read(), image.name, shorter_side)
    if isinstance(image, Image.Image):
        name = getattr(image, "filename", "")
        if 0 in image.size:
            raise ImageError("corrupt", "the image has no pixels", name)
        return to_rgb(image, name)
    torch: Any = sys.modules.get("torch")  # who has a tensor has imported it
    layout = "(H, W, 3)"
    pixels: Any = image
    if torch is not None and isinstance(image, torch.Tensor):
        layout, shape, kind = "(3, H, W)", tuple(pixels.shape), str(pixels.dtype)
        pixels = pixels.movedim(0, -1).cpu() if pixels.ndim == 3 else pixels
        pixels = pixels.numpy() if pixels.dtype == torch.uint8 else pixels
    elif isinstance(image, np.ndarray):
        shape, kind = image.shape, str(image.dtype)
    else:
        raise TypeError(
            f"not an image: {type(image).__name__}; give a path, a PIL image, an array or a tensor"
        )
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or not all(shape) or "uint8" not in kind:
        raise ValueError(f"an image needs uint8 RGB pixels {layout}, not {kind} {shape}")
    return Image.fromarray(np.ascontiguousarray(pixels), "RGB")
