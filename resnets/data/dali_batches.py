"""Training batches of photographs that NVIDIA DALI decodes, on the GPU if there is one.

Order, crops, flips and colours are drawn as for `PhotoBatches`; only decoding and scaling are
DALI's, whose pixels differ by a grey level here and there.
"""

from __future__ import annotations

import io
import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from resnets.data.augmentation import Crop, draw_crop
from resnets.data.images import MAX_PIXELS, ORIENTATION
from resnets.data.photo_batches import Encoded, Part, PhotoBatches
from resnets.data.preprocessing import Interpolation
from resnets.support.errors import UserError

MARGIN = 16
"""Pixels decoded around a crop, so that the crop's pixels are those of the whole image."""
MAX_REFUSED = 16
"""Images that DALI may refuse and Pillow decode, before DALI has decoded any."""


@dataclass(kw_only=True, eq=False)
class DaliBatches(PhotoBatches):
    """`PhotoBatches` decoded by DALI.

    DALI decodes upright JPEGs of RGB or grey pixels, Pillow all other files and those that DALI
    refuses. The choice depends on the image alone, never on the others in the batch.

    Raises:
        UserError: if DALI is not installed; when a batch is read, if DALI cannot decode any image.
    """

    def __post_init__(self) -> None:
        self._dali = load_dali()
        super().__post_init__()
        self._pipeline_batch = max(end - start for start, end in self.parts)
        self._worker = ThreadPoolExecutor(1, "dali")  # the only thread that uses the pipelines
        self._pipelines: dict[Interpolation, Any] = {}
        self._refused: int | None = 0  # images; None once DALI has decoded one
        self._stream: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        super().close()
        self._worker.shutdown(wait=True, cancel_futures=True)
        self._pipelines.clear()

    def _begin(self, number: int) -> Part:
        part = super()._begin(number)
        part.tasks.append(self._worker.submit(self._decode_part, part, list(part.tasks)))
        return part

    def _decode(self, part: Part, row: int, content: bytes) -> None:
        """Leave the image to DALI if it can decode it."""
        size = plain_jpeg_size(content)
        if size is None:
            super()._decode(part, row, content)
        else:
            crop = draw_crop(*size, part.augmentation, self._generator(part, row))
            part.shifts[row] = crop.shift
            part.encoded[row] = Encoded(content, size, crop)

    def _pixels(self, part: Part) -> Tensor:
        assert part.decoded is not None, "all tasks are done"
        if part.decoded.is_cuda:
            part.decoded.record_stream(torch.cuda.current_stream(self.device))
        return part.decoded

    def _decode_part(self, part: Part, reading: list[Future[None]]) -> None:
        """Put the pixels that Pillow or DALI decodes together, once all images are read."""
        for task in reading:
            task.result()
        rows = sorted(part.encoded)
        with torch.cuda.stream(self._stream):  # no effect without a stream
            pixels = torch.from_numpy(part.pixels)
            if self._stream is not None:
                pixels = torch.empty_like(pixels, device=self.device)
            refused = self._decode_rows(part, rows, pixels)
            self._check_refused(part, refused)
            if self._stream is not None:
                by_pillow = sorted({*range(len(pixels))} - part.encoded.keys() | refused.keys())
                if by_pillow:
                    pixels[by_pillow] = torch.from_numpy(part.pixels[by_pillow]).to(self.device)
                self._stream.synchronize()
        part.decoded = pixels

    def _check_refused(self, part: Part, refused: dict[int, str]) -> None:
        """Raise `UserError` if DALI decodes nothing at all, rather than leave all to Pillow."""
        if len(refused) < len(part.encoded):
            self._refused = None
        if self._refused is None:
            return
        self._refused += sum(row not in part.bad for row in refused)
        if self._refused >= MAX_REFUSED:
            reason = next(reversed(refused.values())).split("encountered:")[-1].strip()
            raise UserError(
                f"NVIDIA DALI decodes none of the images ({reason})",
                hint="repair its installation, or set photos.decoder = 'pillow'",
            )

    def _decode_rows(self, part: Part, rows: list[int], pixels: Tensor) -> dict[int, str]:
        """Decode some rows to `pixels`; Pillow decodes what DALI refuses, to `part.pixels`.

        DALI does not say which image of a batch it fails at, so halves are tried.

        Returns:
            The rows that DALI refused, with its messages.
        """
        if not rows:
            return {}
        try:
            decoded = self._run_pipeline(part, rows)
        except RuntimeError as error:
            self._pipelines.clear()  # pipelines cannot be used after an error
            if len(rows) == 1:
                super()._decode(part, rows[0], part.encoded[rows[0]].content)
                return {rows[0]: str(error)}
            half = len(rows) // 2
            first = self._decode_rows(part, rows[:half], pixels)
            return first | self._decode_rows(part, rows[half:], pixels)
        pixels[rows] = decoded
        if self._stream is not None:
            self._stream.synchronize()  # before DALI reuses the memory of `decoded`
        return {}

    def _run_pipeline(self, part: Part, rows: list[int]) -> Tensor:
        """Pixels uint8 (n, size, size, 3) of some rows, on the device."""
        side = part.augmentation.size
        inputs: dict[str, list[NDArray[Any]]] = {
            name: [] for name in ("encoded", "start", "end", "roi_start", "roi_end", "size")
        }
        for row in rows:
            content, size, crop = part.encoded[row]
            start, end = _region(crop, size, side)
            left, top, right, bottom = crop.box
            if crop.flip:
                left, right = right, left  # DALI then mirrors the crop
            origin = np.array(start, np.float64)
            inputs["encoded"].append(np.frombuffer(content, np.uint8))
            inputs["start"].append(np.array(start, np.int32))
            inputs["end"].append(np.array(end, np.int32))
            inputs["roi_start"].append((np.array([top, left]) - origin).astype(np.float32))
            inputs["roi_end"].append((np.array([bottom, right]) - origin).astype(np.float32))
            inputs["size"].append(np.array([side, side], np.float32))
        pipeline = self._pipeline(part.augmentation.interpolation)
        (batch,) = pipeline.run(**inputs)  # waits for the GPU
        decoded: Tensor = from_dlpack(batch.as_tensor())
        return decoded

    def _pipeline(self, interpolation: Interpolation) -> Any:
        if interpolation not in self._pipelines:
            gpu = None if self._stream is None else self._stream.device.index
            self._pipelines[interpolation] = make_pipeline(
                self._dali, self._pipeline_batch, self.threads or 1, gpu, interpolation
            )
        return self._pipelines[interpolation]


def load_dali() -> Any:
    """The package `nvidia.dali`, with the submodules that are used here.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import nvidia.dali.fn
        import nvidia.dali.pipeline
        import nvidia.dali.types
    except ImportError as error:
        raise UserError(
            "photos.decoder = 'dali' needs NVIDIA DALI",
            hint="pip install nvidia-dali-cuda130, or set photos.decoder = 'pillow'",
        ) from error
    return nvidia.dali


def make_pipeline(
    dali: Any, batch: int, threads: int, gpu: int | None, interpolation: Interpolation
) -> Any:
    """A pipeline that decodes a region of each image and scales a box of the region.

    Args:
        dali: the package `nvidia.dali`.
        batch: images in a batch, at most.
        threads: number of DALI's threads for work on the CPU.
        gpu: number of the GPU; None for the CPU.
        interpolation: how the box is scaled; always with an antialiasing filter, as in Pillow.
    """
    fn, types = dali.fn, dali.types
    filters = {"bilinear": types.INTERP_LINEAR, "bicubic": types.INTERP_CUBIC}
    pipeline = dali.pipeline.Pipeline(
        batch, threads, gpu, prefetch_queue_depth=1, exec_dynamic=True
    )
    with pipeline:

        def source(name: str, dtype: Any) -> Any:
            return fn.external_source(name=name, ndim=1, dtype=dtype)

        images = fn.decoders.image_slice(
            source("encoded", types.UINT8),
            device="cpu" if gpu is None else "mixed",
            start=source("start", types.INT32),
            end=source("end", types.INT32),
            axes=[0, 1],
            output_type=types.RGB,
            jpeg_fancy_upsampling=True,  # as Pillow's decoder
            # The hardware decoder gets all or none of the images that it can read. With a part of
            # them, an image's pixels would depend on the other images of the batch.
            hw_decoder_load=1.0,
        )
        pipeline.set_outputs(
            fn.resize(
                images,
                size=source("size", types.FLOAT),
                roi_start=source("roi_start", types.FLOAT),
                roi_end=source("roi_end", types.FLOAT),
                interp_type=filters[interpolation],
                antialias=True,
            )
        )
    pipeline.build()
    return pipeline


def plain_jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of a whole, upright JPEG of RGB or grey pixels; None for other files.

    Only its header and its last bytes are checked.
    """
    if not (content.startswith(b"\xff\xd8") and content.endswith(b"\xff\xd9")):
        return None
    try:
        with Image.open(io.BytesIO(content)) as image:
            plain = (
                image.format == "JPEG"
                and image.mode in ("RGB", "L")
                and image.info.get("adobe_transform") != 0  # stored as RGB, not YCbCr
                and image.width * image.height <= MAX_PIXELS
                and image.getexif().get(ORIENTATION, 1) == 1
            )
            return image.size if plain else None
    except Exception:  # reported when Pillow decodes it
        return None


def _region(
    crop: Crop, size: tuple[int, int], pixels: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The region that a crop's pixels depend on: its first row and column, and its end.

    The image has the width and height `size`; the scaled crop has `pixels` a side.
    """
    left, top, right, bottom = crop.box
    # The widest filter spans two pixels of the scaled crop on each side.
    x, y = (MARGIN + math.ceil(2 * max(1, side / pixels)) for side in (right - left, bottom - top))
    start = max(0, math.floor(top) - y), max(0, math.floor(left) - x)
    end = min(size[1], math.ceil(bottom) + y), min(size[0], math.ceil(right) + x)
    return start, end
