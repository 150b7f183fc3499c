"""Recipes: everything that defines a training, as typed data."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from resnets.data.augmentation import Augmentation, CropKind
from resnets.data.cifar_batches import FlipKind
from resnets.data.cifar_classes import NAMES, CifarName, title
from resnets.data.preprocessing import Interpolation
from resnets.models import zoo
from resnets.support.errors import UserError

Switch = Literal["auto"] | bool
OwnImages = Literal["photos", "boxes", "localization"]
"""Kinds of data that a user brings, of images of any size; the others are CIFAR's."""
FEW_BAD = 5
"""Unreadable training images that a run leaves out, however few images there are."""
SWITCHES = ("channels_last", "compile", "kernels")


class Section(BaseModel):
    """A table of the recipe: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Muon(Section):
    """Orthogonalised momentum for all convolutions except the first; it keeps their norm."""

    lr: float = Field(0.03, gt=0, le=1)
    """The rate at the schedule's peak: the length of a step in units of the weights' norm."""
    momentum: float = Field(0.8, ge=0, lt=1)
    """Share of the last direction that a step keeps."""


class Optimizer(Section):
    """SGD with momentum in Caffe's form: v = momentum * v + gradient, w = w - lr * v."""

    momentum: float = Field(0.9, ge=0, lt=1)
    """Share of the last direction that a step keeps."""
    nesterov: bool = False
    """Nesterov's form of momentum."""
    weight_decay: float = Field(1e-4, ge=0, le=1)
    """This multiple of the weights is added to their gradient."""
    decay: Literal["all", "weights"] = "all"
    """Weight decay of `all` parameters, or only of the `weights` of convolutions and classifier."""
    muon: Muon | None = None
    """Muon for the convolutions, SGD for the rest: a table [optimizer.muon] turns it on,
    `--set optimizer.muon=none` turns it off."""
    clip: float | None = Field(None, ge=1e-6, le=1e6)
    """Largest norm of the gradient of all parameters; a longer one is shortened to it."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Optimizer:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class GentleStart(Section):
    """Section 4.2, 110 layers: a small learning rate until the training error is below a limit."""

    lr: float = Field(0.01, gt=0, le=100)
    """The small rate."""
    until_error: float = Field(0.80, gt=0, lt=1)
    """The training error, as a share, below which it ends."""
    from_depth: int = Field(110, ge=0)
    """Shallower networks start at the full rate."""


LONGEST = 1_000_000_000
"""The most iterations or epochs."""
Duration = Annotated[int | float, Field(ge=0, le=LONGEST)]
"""A number of iterations, or of epochs if the recipe gives its length in `epochs`."""


def _array_to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class Schedule(Section):
    """The learning rate as a function of the iteration."""

    kind: Literal["steps", "linear", "cosine", "plateau"]
    """`steps`: constant between `drops`; `linear`, `cosine`: falls to zero; `plateau`: drops when
    the training error no longer falls."""
    lr: float = Field(gt=0, le=100)
    """The peak rate; it does not scale with the batch."""
    drops: Annotated[tuple[Duration, ...], BeforeValidator(_array_to_tuple)] = ()
    """`steps`: the iterations at which the rate is multiplied by `factor`."""
    factor: float = Field(0.1, gt=0, lt=1)
    """`steps`, `plateau`: by which the rate is multiplied at a drop."""
    patience: int = Field(5, ge=1)
    """`plateau`: the rate drops after this many tests without a lower training error."""
    warmup: Duration = 0
    """Iterations over which the rate rises linearly from zero."""
    head: float = Field(1.0, gt=0, le=1000)
    """The rate of the classifier, in detection of all new layers, is this multiple of the rate."""
    gentle_start: GentleStart | None = None

    @model_validator(mode="after")
    def _drops_rise(self) -> Schedule:
        if list(self.drops) != sorted(self.drops):
            raise ValueError("drops must rise")
        if self.drops and self.kind != "steps":
            raise ValueError(f"drops belong to kind = 'steps', not {self.kind!r}")
        return self


class Augment(Section):
    """Section 4.2: a random crop of the padded image, and a horizontal flip."""

    pad: int = Field(4, ge=0, le=16)
    """Pixels of zeros around the image before the crop."""
    flip: FlipKind = "random"
    """`random`: mirror half of the images; `alternating`: every image in every second epoch."""


Pair = Annotated[tuple[float, float], BeforeValidator(_array_to_tuple)]
Sides = Annotated[tuple[int, int], BeforeValidator(_array_to_tuple)]


class Photos(Section):
    """Section 3.4: augmentation in training and preprocessing in tests of photographs."""

    size: int = Field(224, ge=8, le=2048)
    """Side of the training crops in pixels."""
    test_size: int | None = Field(None, ge=8, le=2048)
    """Side of the test crops in pixels; `size` by default."""
    resize: float = Field(256 / 224, ge=1, le=4)
    """Shorter side of a test image in units of `test_size`, before the central crop."""
    crop: CropKind = "scale"
    """`scale`: the paper's, of a random scale; `area`: GoogLeNet's, of random area and aspect
    ratio; `centre`: no random crop."""
    sides: Sides = (256, 480)
    """`scale`: range of the image's shorter side in pixels, for a `size` of 224."""
    areas: Pair = (0.08, 1.0)
    """`area`: range of the crop's share of the image."""
    flip: bool = True
    """Mirror half of the training crops."""
    colour: float = Field(0.1, ge=0, le=10)
    """Standard deviation of AlexNet's colour augmentation; 0 turns it off."""
    mean: Literal["pixel", "channel", "imagenet"] = "channel"
    """What is subtracted: the mean of each pixel or channel of the training images, or ImageNet's
    channel means, followed by a division by its deviations. `init` brings its own."""
    decoder: Literal["pillow", "dali"] = "pillow"
    """Decoder of the training images: `dali` (NVIDIA DALI) decodes on the GPU; some pixels differ
    from Pillow's by one grey level."""
    split_seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the random split of a folder without `val`."""
    bad_images: float = Field(0.001, ge=0, le=1)
    """The run stops when more than this share of the images cannot be read. Of small data sets a
    few images are allowed, see `most_bad_images`; none with 0."""

    @model_validator(mode="after")
    def _ranges_rise(self) -> Photos:
        if self.mean == "pixel" and self.test_size not in (None, self.size):
            raise ValueError("mean = 'pixel' needs tests of the training's size; use 'channel'")
        if not 224 <= self.sides[0] <= self.sides[1] <= 4096:
            raise ValueError("sides must rise, from 224 or more to at most 4096")
        if not 1e-4 <= self.areas[0] <= self.areas[1] <= 1:
            raise ValueError("areas must rise, from 0.0001 or more to at most 1")
        return self

    def most_bad_images(self, images: int) -> int:
        """How many of so many training images may be unreadable.

        In small data sets one, or a twentieth of the images, but at most `FEW_BAD`.
        """
        few = min(FEW_BAD, max(1, images // 20)) if self.bad_images else 0
        return max(math.floor(self.bad_images * images), few)

    def at_size(self, size: int) -> dict[str, Any]:
        """The keys that change for images of `size` pixels a side."""
        if self.test_size is None:
            return {"size": size}
        return {"size": size, "test_size": round(size / self.size * self.test_size)}

    def augmentation(self, size: int, interpolation: Interpolation) -> Augmentation:
        """The augmentation of training images for inputs of `size` pixels a side."""
        low, high = (max(size, round(side * size / 224)) for side in self.sides)
        return Augmentation(
            kind=self.crop,
            size=size,
            sides=(low, high),
            areas=self.areas,
            resize=round(size * self.resize),
            flip=self.flip,
            colour=self.colour,
            interpolation=interpolation,
        )


Lengths = Annotated[
    tuple[Annotated[float, Field(ge=1, le=10_000)], ...],
    BeforeValidator(_array_to_tuple),
    Field(min_length=1),
]
Ratios = Annotated[
    tuple[Annotated[float, Field(ge=0.01, le=100)], ...],
    BeforeValidator(_array_to_tuple),
    Field(min_length=1),
]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
"""Of anchors, regions or detections in an image."""


class Detection(Section):
    """The detector of appendix A: Faster R-CNN, with a network's last stage for every region.

    All sizes are in pixels of the scaled image. Numbers are per image.
    """

    size: int = Field(600, ge=16, le=4096)
    """Shorter side."""
    max_size: int = Field(1000, ge=16, le=8192)
    """Limit of the longer side; long images get a smaller shorter side."""
    scales: Pair = (1.0, 1.0)
    """Training: range of a random factor of both sizes."""
    flip: bool = True
    """Training: mirror half of the images."""
    anchors: Lengths = (128.0, 256.0, 512.0)
    """Sides of the square anchors."""
    ratios: Ratios = (0.5, 1.0, 2.0)
    """Height to width of the anchors."""
    border_anchors: bool = True
    """Train on anchors that cross the image's border, too; the paper's training ignores them."""
    rpn_width: int = Field(512, ge=1, le=4096)
    """Filters of the RPN's 3x3 convolution."""
    rpn_batch: int = Field(256, ge=2, le=1_000_000)
    """Training: anchors, at most half of them on objects."""
    candidates: Count = 12000
    """Training: anchors with the highest scores, among which proposals are chosen by NMS."""
    proposals: Count = 2000
    """Training: proposals, of which the regions are drawn."""
    rois: Count = 128
    """Training: regions for the last stage."""
    foreground: float = Field(0.25, gt=0, le=1)
    """Training: largest share of regions on objects."""
    background: float = Field(0.0, ge=0, lt=0.5)
    """Training: smallest IoU of background regions with an object; Fast R-CNN's 0.1 on VOC."""
    test_candidates: Count = 6000
    """Tests: anchors with the highest scores, among which proposals are chosen by NMS."""
    test_proposals: Count = 300
    """Tests: proposals, which are all classified."""
    pool: Literal["align", "max"] = "align"
    """`align`: RoIAlign; `max`: RoI pooling, as in 2015."""
    context: bool = False
    """Siblings also see the whole image as one region: "global context", appendix B."""
    training: Literal["joint", "alternating"] = "joint"
    """`alternating`: Faster R-CNN's four steps, each of the recipe's length
    (`detection/alternating.py`)."""
    score: float = Field(0.05, ge=0, lt=1)
    """Detections with a lower score are left out."""
    nms: float = Field(0.3, gt=0, le=1)
    """Of two detections of a category with a larger IoU only the better one stays."""
    detections: Count = 100
    """Detections, at most."""
    masks: bool = False
    """Also find the shape of each object (Mask R-CNN); all objects need polygons or run lengths."""

    @model_validator(mode="after")
    def _ranges_rise(self) -> Detection:
        if not 0.1 <= self.scales[0] <= self.scales[1] <= 4:
            raise ValueError("scales must rise, from 0.1 or more to at most 4")
        if self.max_size < self.size:
            raise ValueError("max_size must not be below size")
        return self

    def at_size(self, size: int) -> dict[str, Any]:
        """The keys that change for images whose shorter side is `size`."""
        scale = size / self.size
        return {
            "size": size,
            "max_size": round(scale * self.max_size),
            "anchors": tuple(scale * side for side in self.anchors),
        }


class Localization(Section):
    """The localizer of appendix C: a box for each class of an image (`detection/localizer.py`).

    `photos` has the crops and their size, which anchors are in pixels of. The paper gives neither
    anchors nor how far they must overlap an object.
    """

    anchors: Lengths = (64.0, 128.0, 224.0)
    """Sides of the square anchors."""
    ratios: Ratios = (0.5, 1.0, 2.0)
    """Height to width of the anchors."""
    sampled: int = Field(8, ge=2, le=1_000_000)
    """Training: anchors of an image, at most half of them on its object."""
    object_iou: float = Field(0.7, gt=0, le=1)
    """Training: least overlap (IoU) of an anchor on an object; the best one always is."""
    background_iou: float = Field(0.3, ge=0, lt=1)
    """Training: anchors with less overlap are background; the others are not trained on."""
    visible: float = Field(0.25, ge=0, le=1)
    """Training: objects with a smaller share within the crop are not trained on."""

    @model_validator(mode="after")
    def _overlaps_rise(self) -> Localization:
        if self.background_iou > self.object_iou:
            raise ValueError("background_iou must not be above object_iou")
        return self

    def at_size(self, factor: float) -> dict[str, Any]:
        """The keys that change for crops that are larger by a factor."""
        return {"anchors": tuple(factor * side for side in self.anchors)}


class Progressive(Section):
    """Progressive resizing: images of `size` pixels a side before iteration `until`."""

    size: int = Field(ge=8, le=2048)
    """Side of the smaller images in pixels."""
    until: Annotated[int | float, Field(gt=0, le=LONGEST)]
    """The first iteration with images of full size."""


_OPTIONAL_IN_V1 = {
    "optimizer.muon": None,
    "optimizer.clip": None,
    "graphs": False,
    "kernels": "auto",
    "class_weights": None,
    "freeze": None,
    "detection": Detection().model_dump(mode="json"),
    "detection.masks": False,
    "detection.context": False,
    "detection.training": "joint",
    "localization": Localization().model_dump(mode="json"),
}
"""Keys with their defaults that the hash of version 1 leaves out. Every new key belongs here."""


def _hash(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class Recipe(Section):
    """Everything that defines a training: recipe and data determine every weight of the result."""

    dataset: CifarName | OwnImages = "cifar10"
    """`cifar100-coarse`: CIFAR-100 in its 20 superclasses; `photos`: a folder of images, or shards
    of it; `boxes`: images with boxes, for detection; `localization`: the same, but all objects of
    an image are of one class."""
    split: Literal["50k/10k", "45k/5k"] = "50k/10k"
    """CIFAR: test on the test set, or on 5,000 of the 50,000 training images."""
    split_seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the random split, for `45k/5k`."""
    limit: int | None = Field(None, ge=2)
    """At most this many images, drawn at random, to train on, and as many to test on."""
    classes: int | None = Field(None, ge=2)
    """Number of classes, the first ones, to keep; by default all."""
    network: str = ""
    """May be left out if there is an `init`, which names it."""
    init: str | None = None
    """The model whose weights the training starts from: a name, a file or a run folder."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of new weights, of the order of the images and of their augmentation."""
    iterations: int | None = Field(None, ge=1, le=LONGEST)
    """Length of the training in steps of SGD."""
    epochs: int | float | None = Field(None, gt=0, le=LONGEST)
    """Instead of `iterations`; all other numbers of iterations are then numbers of epochs."""
    batch: int = Field(128, ge=2, le=1_000_000)
    """Images in one step of SGD, over all processes."""
    micro_batch: int | None = Field(None, ge=1)
    """Images in one forward pass, over which BN computes its statistics; the gradients of
    several passes add up to one step. By default all images of a process."""
    schedule: Schedule
    optimizer: Optimizer = Optimizer()
    augment: Augment = Augment()
    photos: Photos = Photos()
    detection: Detection = Detection()
    localization: Localization = Localization()
    progressive: Progressive | None = None
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each label's weight that is spread evenly over all classes."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """Weight of each class's images in the loss: a table of classes, the others having 1; or
    `balanced`, n / (k n_c) for n_c of n training images and k classes (`class_weights.py`)."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of a moving average of the weights, which is tested and saved instead of them."""
    batch_norm: Literal["batch", "frozen", "sync"] = "batch"
    """`batch`: statistics of each process's own images, as in the paper; `sync`: of all
    processes' images (GPUs only); `frozen`: those of `init`, with fixed scale and shift."""
    freeze: str | None = None
    """Parts of the network that keep the weights and BN statistics of `init`: `stem, layer1`, or
    `all but fc` (`frozen.py`)."""
    recompute_bn: int = Field(0, ge=0)
    """Training images over which BN's statistics are recomputed before each test, as the authors
    did; 0 keeps the moving averages."""
    save_memory: bool = False
    """Recompute activations in the backward pass instead of keeping them (checkpointing)."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of convolutions and classifier; `auto`: bf16 where the hardware multiplies it fast."""
    channels_last: Switch = "auto"
    """Memory layout with the channels innermost."""
    compile: Switch = "auto"
    """`torch.compile` of the network."""
    graphs: bool = False
    """On GPUs: capture an update as a CUDA graph and replay it. It pays for small networks, and
    needs one process and no `micro_batch`."""
    kernels: Switch = "auto"
    """On CPUs: BN, additions, ReLU and whole blocks by this project's kernels (docs/speed.md)."""
    deterministic: bool = False
    """On GPUs: only kernels that repeat bit for bit, which are slower. CPUs always repeat."""
    test_every: Annotated[int | float, Field(gt=0, le=LONGEST)] = 1000
    """Iterations between tests."""
    log_every: int = Field(50, ge=1)
    """Iterations between readings of training loss and error, one line of metrics each, which wait
    for the device. A gentle start ends at a reading."""
    checkpoint_seconds: float = Field(60, ge=0)
    """Seconds between checkpoints; does not affect the result."""

    @field_validator("network")
    @classmethod
    def _network_exists(cls, value: str) -> str:
        if value in zoo.VGG_NAMES:
            raise ValueError(f"{value} is for comparison only and cannot be trained")
        try:
            if value:
                zoo.architecture(value)
        except UserError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("class_weights", mode="before")
    @classmethod
    def _weights_are_positive(cls, value: Any) -> Any:
        if value is None or value == "balanced":
            return value
        if not isinstance(value, dict) or not value:
            raise ValueError(f"should be 'balanced' or a table of classes, not {value!r}")
        for name, weight in value.items():
            number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if not (number and 1e-6 <= weight <= 1e6):
                raise ValueError(
                    f"the weight of {name!r} should be from 0.000001 to 1,000,000, not {weight!r}"
                )
        return value

    @model_validator(mode="after")
    def _norms_and_sizes(self) -> Recipe:
        if self.freeze is not None and self.init is None:
            raise ValueError("freeze keeps trained weights: it needs an init")
        if self.batch_norm == "frozen" and self.init is None:
            raise ValueError("batch_norm = 'frozen' needs the statistics of an init")
        if self.batch_norm == "frozen" and self.recompute_bn:
            raise ValueError("batch_norm = 'frozen' leaves nothing to recompute_bn")
        full = self.photos.size if self.dataset == "photos" else 32
        if self.progressive and self.progressive.size > full:
            raise ValueError(f"progressive.size: the images have {full} pixels a side")
        return self

    @model_validator(mode="after")
    def _boxes_fit(self) -> Recipe:
        if self.dataset != "boxes" and self.dataset != "localization":
            return self
        name = self.dataset
        if self.batch_norm != "frozen":
            raise ValueError(f"dataset = {name!r} needs batch_norm = 'frozen' (appendix A)")
        if self.compile is True:
            raise ValueError(f"compile = true is not for {name}: test images differ in size")
        refused: dict[str, Any] = {
            "classes": self.classes,
            "class_weights": self.class_weights,
            "progressive": self.progressive,
        }
        if name == "localization":
            refused["label_smoothing"] = self.label_smoothing or None
            refused["photos.decoder"] = None if self.photos.decoder == "pillow" else "dali"
        for key, value in refused.items():
            if value is not None:
                raise ValueError(f"{key} does not apply to dataset = {name!r}")
        if self.stages > 1:
            for key, used in (
                ("ema", self.ema is not None),
                ("schedule.gentle_start", self.schedule.gentle_start is not None),
                ("schedule.kind = 'plateau'", self.schedule.kind == "plateau"),
            ):
                if used:
                    raise ValueError(f"{key} does not apply to training = 'alternating'")
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if not self.network and self.init is None:
            raise ValueError("key 'network' is missing")
        if (self.iterations is None) == (self.epochs is None):
            raise ValueError("give the length as either iterations or epochs")
        stem = zoo.architecture(self.network).stem if self.network else "cifar"
        if self.cifar is not None and stem != "cifar":
            size = 64 if stem == "small" else 224
            raise ValueError(
                f"{self.network} is made for {size}-pixel photographs; "
                f"for {title(self.cifar)} take a cifar- network, for example cifar-resnet20"
            )
        if self.epochs is None:
            counts = [*self.schedule.drops, self.schedule.warmup, self.test_every]
            counts += [self.progressive.until] if self.progressive else []
            if any(isinstance(count, float) for count in counts):
                raise ValueError("drops, warmup, until and test_every are whole iterations")
        return self

    @property
    def cifar(self) -> CifarName | None:
        """Which of CIFAR's data sets it is for; None for images that a user brings."""
        return next((name for name in NAMES if name == self.dataset), None)

    def allowing_bad_images(self, share: float) -> Recipe:
        """This recipe with another limit of images that cannot be read."""
        photos = self.photos.model_copy(update={"bad_images": share})
        return self.model_copy(update={"photos": photos})

    def content_hash(self) -> str:
        """Hash of everything that decides the result; run folders are identified by it.

        It covers only what differs from the defaults, so that new keys do not change it. For the
        same reason a default must never change without a new version of the hash.
        """
        decisive = self.allowing_bad_images(Photos().bad_images)
        facts = decisive.model_dump(
            mode="json", exclude_defaults=True, exclude={"checkpoint_seconds"}
        )
        return f"2-{_hash(facts)}"

    def matches(self, stored: str) -> bool:
        """Whether a stored hash, of this or an earlier version, is this recipe's."""
        return stored in (self.content_hash(), self._hash_v1())

    def _hash_v1(self) -> str:
        """The hash of version 1, which run folders and checkpoints may hold: of all keys."""
        facts = self.model_dump(
            mode="json", exclude={"checkpoint_seconds": True, "photos": {"bad_images": True}}
        )
        for key, default in _OPTIONAL_IN_V1.items():
            *tables, last = key.split(".")
            table = facts
            for name in tables:
                table = table.get(name, {})  # a table may be left out as a whole
            if last in table and table[last] == default:
                del table[last]
        return _hash(facts)

    def in_iterations(self, images: int) -> Recipe:
        """This recipe with its length in iterations, for a training set of `images`."""
        if self.epochs is None:
            return self

        def iterations(epochs: float) -> int:
            return max(1, round(epochs * images / self.batch)) if epochs else 0

        schedule, progressive = self.schedule, self.progressive
        return self.model_copy(
            update={
                "epochs": None,
                "iterations": iterations(self.epochs),
                "test_every": iterations(self.test_every),
                "schedule": schedule.model_copy(
                    update={
                        "drops": tuple(iterations(drop) for drop in schedule.drops),
                        "warmup": iterations(schedule.warmup),
                    }
                ),
                "progressive": progressive
                and progressive.model_copy(update={"until": iterations(progressive.until)}),
            }
        )

    def at_size(self, size: int) -> Recipe:
        """This recipe for photographs of `size` pixels a side; its other sizes scale with it.

        Raises:
            UserError: if it is not for photographs, or the size is out of range.
        """
        if self.cifar is not None:
            raise UserError(
                f"{title(self.cifar)}'s images have 32 pixels a side",
                "--image-size",
                "leave it out",
            )
        facts = self.model_dump()
        if self.dataset == "boxes":
            facts["detection"] |= self.detection.at_size(size)
        else:
            facts["photos"] |= self.photos.at_size(size)
        if self.dataset == "localization":
            facts["localization"] |= self.localization.at_size(size / self.photos.size)
        if self.progressive is not None:
            scale = size / self.photos.size
            facts["progressive"]["size"] = max(8, round(scale * self.progressive.size))
        try:
            return Recipe.model_validate(facts)
        except ValueError as error:
            raise UserError("does not suit this recipe", f"--image-size {size}") from error

    @property
    def steps(self) -> int:
        """Iterations of the whole training: of all its stages."""
        assert self.iterations is not None, "call in_iterations first"
        return self.iterations * self.stages

    @property
    def stages(self) -> int:
        """Stages of the training; schedule and length are those of one stage."""
        alternating = self.dataset == "boxes" and self.detection.training == "alternating"
        return 4 if alternating else 1
