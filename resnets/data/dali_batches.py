"""Training batches of photographs that NVIDIA DALI decodes, on the GPU where there is one.

Order, crops, flips and colours are drawn as for `PhotoBatches`; only decoding and scaling are
another's, and differ by a grey level here and there.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from resnets.data.augmentation import Augmentation, Crop, draw_crop
from resnets.data.images import MAX_PIXELS, ORIENTATION
from resnets.data.photo_batches import Chance, Encoded, Part, PhotoBatches, default_threads
from resnets.data.preprocessing import Interpolation, Normalize
from resnets.data.samples import Samples
from resnets.support.errors import UserError

BORDER = 16
"""Pixels that are decoded around a crop, so that its own are those of the whole image."""
REFUSALS = 16
"""Images that DALI may refuse, and Pillow read, before it has decoded any."""


class DaliBatches(PhotoBatches):
    """The same as `PhotoBatches`, decoded by DALI.

    DALI gets upright JPEGs of RGB or grey pixels; Pillow all other files, and what DALI
    refuses. Which of the two it is depends on the image alone, never on its neighbours.

    Raises:
        UserError: without DALI; and by a batch, if DALI decodes nothing that Pillow does.
    """

    def __init__(
        self,
        samples: Samples,
        batch: int,
        seed: int,
        device: torch.device,
        look: Callable[[int], Augmentation],
        normalize: Normalize,
        parts: Sequence[tuple[int, int]] | None = None,
        threads: int | None = None,
    ) -> None:
        self._dali = load_dali()
        self._threads = threads or default_threads()
        super().__init__(samples, batch, seed, device, look, normalize, parts, self._threads)
        self._most = max(end - start for start, end in self.parts)
        self._worker = ThreadPoolExecutor(1, "dali")  # the only thread that touches pipelines
        self._pipelines: dict[Interpolation, Any] = {}
        self._refused: int | None = 0  # images; None once DALI has decoded one
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        super().close()
        self._worker.shutdown(wait=True, cancel_futures=True)
        self._pipelines.clear()

    def _begin(self, number: int) -> Part:
        part = super()._begin(number)
        part.work.append(self._worker.submit(self._decode, part, list(part.work)))
        return part

    def _take(self, part: Part, row: int, content: bytes, chance: Chance) -> None:
        size = plain_jpeg_size(content)
        if size is None:
            super()._take(part, row, content, chance)
        else:
            crop = draw_crop(*size, part.look, chance())
            part.shifts[row] = crop.shift
            part.encoded[row] = Encoded(content, size, crop, chance)

    def _pixels(self, part: Part) -> Tensor:
        assert part.decoded is not None, "the work is done"
        if part.decoded.is_cuda:
            part.decoded.record_stream(torch.cuda.current_stream(self.device))
        return part.decoded

    def _decode(self, part: Part, reading: list[Future[None]]) -> None:
        """The part's pixels: those that Pillow has read already, and those that wait for DALI."""
        for work in reading:
            work.result()
        rows = sorted(part.encoded)
        with torch.cuda.stream(self._stream):  # of no effect where there is none
            pixels = torch.from_numpy(part.pixels)
            if self._stream is not None:
                pixels = torch.empty_like(pixels, device=self.device)
            refused = self._fill(part, rows, pixels)
            self._look_at(part, refused)
            if self._stream is not None:
                by_pillow = sorted({*range(len(pixels))} - part.encoded.keys() | refused.keys())
                if by_pillow:
                    pixels[by_pillow] = torch.from_numpy(part.pixels[by_pillow]).to(self.device)
                self._stream.synchronize()
        part.decoded = pixels

    def _look_at(self, part: Part, refused: dict[int, str]) -> None:
        """Stop where DALI decodes nothing at all, rather than leave everything to Pillow."""
        if len(refused) < len(part.encoded):
            self._refused = None
        if self._refused is None:
            return
        self._refused += sum(row not in part.bad for row in refused)
        if self._refused >= REFUSALS:
            words = next(reversed(refused.values())).split("encountered:")[-1]
            raise UserError(
                f"NVIDIA DALI decodes none of the images ({words.strip()})",
                hint="hint its installation, or photos.decoder = 'pillow'",
            )

    def _fill(self, part: Part, rows: list[int], pixels: Tensor) -> dict[int, str]:
        """Decode some rows to `pixels`; those that DALI refuses by Pillow, to the part's own.

        DALI does not say which image of a batch it fails at, so halves are tried.

        Returns:
            The rows that DALI refused, and its words.
        """
        if not rows:
            return {}
        try:
            decoded = self._run(part, rows)
        except RuntimeError as error:
            self._pipelines.clear()  # a pipeline is not to be used after an error
            if len(rows) == 1:
                image = part.encoded[rows[0]]
                super()._take(part, rows[0], image.content, image.chance)
                return {rows[0]: str(error)}
            half = len(rows) // 2
            first = self._fill(part, rows[:half], pixels)
            return first | self._fill(part, rows[half:], pixels)
        pixels[rows] = decoded
        if self._stream is not None:
            self._stream.synchronize()  # before DALI has the memory of `decoded` back
        return {}

    def _run(self, part: Part, rows: list[int]) -> Tensor:
        """Pixels uint8 (n, size, size, 3) of some rows, on the device."""
        look = part.look
        inputs: dict[str, list[NDArray[Any]]] = {
            name: [] for name in ("encoded", "start", "end", "roi_start", "roi_end", "size")
        }
        for row in rows:
            content, size, crop, _ = part.encoded[row]
            start, end = _region(crop, size, look.size)
            left, top, right, bottom = crop.box
            if crop.flip:
                left, right = right, left  # so DALI mirrors
            origin = np.array(start, np.float64)
            inputs["encoded"].append(np.frombuffer(content, np.uint8))
            inputs["start"].append(np.array(start, np.int32))
            inputs["end"].append(np.array(end, np.int32))
            inputs["roi_start"].append((np.array([top, left]) - origin).astype(np.float32))
            inputs["roi_end"].append((np.array([bottom, right]) - origin).astype(np.float32))
            inputs["size"].append(np.array([look.size, look.size], np.float32))
        (batch,) = self._pipeline(look.interpolation).run(**inputs)  # waits for the GPU
        decoded: Tensor = from_dlpack(batch.as_tensor())
        return decoded

    def _pipeline(self, interpolation: Interpolation) -> Any:
        if interpolation not in self._pipelines:
            gpu = None if self._stream is None else self._stream.device.index
            self._pipelines[interpolation] = make_pipeline(
                self._dali, self._most, self._threads, gpu, interpolation
            )
        return self._pipelines[interpolation]


def load_dali() -> Any:
    """DALI's package with the parts that are used here.

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
            hint="hint: pip install nvidia-dali-cuda130, or photos.decoder = 'pillow'",
        ) from error
    return nvidia.dali


def make_pipeline(
    dali: Any, batch: int, threads: int, gpu: int | None, interpolation: Interpolation
) -> Any:
    """A pipeline that decodes a region of each image and scales a box of it.

    Args:
        dali: DALI's package.
        batch: images at most.
        threads: of DALI's own, for what it does on the CPU.
        gpu: number of the GPU; None for the CPU.
        interpolation: how the box is scaled; always with an antialiasing filter, as Pillow's.
    """
    fn, types = dali.fn, dali.types
    filters = {"bilinear": types.INTERP_LINEAR, "bicubic": types.INTERP_CUBIC}
    pipeline = dali.pipeline.Pipeline(
        batch, threads, gpu, prefetch_queue_depth=1, exec_dynamic=True
    )
    with pipeline:

        def given(name: str, dtype: Any) -> Any:
            return fn.external_source(name=name, ndim=1, dtype=dtype)

        images = fn.decoders.image_slice(
            given("encoded", types.UINT8),
            device="cpu" if gpu is None else "mixed",
            start=given("start", types.INT32),
            end=given("end", types.INT32),
            axes=[0, 1],
            output_type=types.RGB,
            jpeg_fancy_upsampling=True,  # as Pillow's decoder
            # All or none of the images that the GPU's decoder can read: with a part of them, an
            # image's pixels would hang on its neighbours in the batch.
            hw_decoder_load=1.0,
        )
        pipeline.set_outputs(
            fn.resize(
                images,
                size=given("size", types.FLOAT),
                roi_start=given("roi_start", types.FLOAT),
                roi_end=given("roi_end", types.FLOAT),
                interp_type=filters[interpolation],
                antialias=True,
            )
        )
    pipeline.build()
    return pipeline


def plain_jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of a whole, upright JPEG of RGB or grey pixels; None for other files.

    Only its head and its end are looked at.
    """
    if not (content.startswith(b"\xff\xd8") and content.endswith(b"\xff\xd9")):
        return None
    try:
        with Image.open(io.BytesIO(content)) as image:
            plain = (
                image.format == "JPEG"
                and image.mode in ("RGB", "L")
                and image.info.get("adobe_transform") != 0  # RGB itself, not YCbCr
                and image.width * image.height <= MAX_PIXELS
                and image.getexif().get(ORIENTATION, 1) == 1
            )
            return image.size if plain else None
    except Exception:  # Pillow's path says what is wrong
        return None


def _region(
    crop: Crop, size: tuple[int, int], pixels: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """First row and column, and those behind the last, that a crop's pixels depend on."""
    left, top, right, bottom = crop.box
    # The widest filter reaches two pixels of the result.
    x, y = (BORDER + math.ceil(2 * max(1, side / pixels)) for side in (right - left, bottom - top))
    start = max(0, math.floor(top) - y), max(0, math.floor(left) - x)
    end = min(size[1], math.ceil(bottom) + y), min(size[0], math.ceil(right) + x)
    return start, end
