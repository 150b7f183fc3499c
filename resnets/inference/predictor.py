"""Predictors: models ready for use, in the engine that suits the machine."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnets.data.preprocessing import CentralCrop, to_array
from resnets.inference import TOP, export_folder
from resnets.inference.engine_choice import check_engine, choose_engine, device_for
from resnets.inference.engines import (
    OnnxRuntime,
    OpenVinoRuntime,
    Precision,
    Runtime,
    TorchExportRuntime,
    TorchRuntime,
    threads,
)
from resnets.inference.image_inputs import ImageInput, as_images, input_name, open_image
from resnets.inference.openvino_model import compiled_folder, open_in_openvino
from resnets.inference.predictions import Prediction, top_classes
from resnets.support.errors import UserError
from resnets.support.files import file_sha256
from resnets.support.parallel import in_threads
from resnets.weights import hub
from resnets.weights.card import read_card, refuse_detector

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from resnets.evaluation.evaluator import Classifier
    from resnets.inference.explanations import ImageExplanation
    from resnets.weights.model_file import Model

_Features = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Computes features of inputs: uint8 (N, 3, H, W) to float32 (N, channels, ...)."""
DECODE_MARGIN = 2
"""Large JPEGs are decoded at a smaller scale, at least this many times the network's resolution."""


class Identity(NamedTuple):
    """What predictions depend on, apart from images and options.

    Args:
        network: its name.
        weights: SHA-256.
        runtime: engine and precision.
        classes: number of classes.
    """

    network: str
    weights: str
    runtime: str
    classes: int


@dataclass(frozen=True, repr=False)
class Predictor:
    """A model ready for use.

    ```python
    model = open_predictor("cifar-resnet20")
    for prediction in model.predict(["a.jpg", "b.jpg"]):
        print(prediction.image, prediction.top[0].name, prediction.top[0].probability)
    ```

    Images are paths, PIL images, uint8 RGB arrays (H, W, 3) or uint8 RGB tensors (3, H, W). They
    are scaled and cropped as the model's card says.

    Args:
        name: by which it was opened.
        card: network, classes, provenance, measured error.
        preprocessing: its scaling and crop; the engine does the normalization.
        runtime: the network in its engine.
        digest: SHA-256 of the weights' file, or of the exported network.
        device: of the PyTorch network; None is the CPU.
    """

    name: str
    card: dict[str, Any]
    preprocessing: CentralCrop
    runtime: Runtime
    digest: str
    device: torch.device | None = None

    def __repr__(self) -> str:
        """Such as `<Predictor cifar-resnet20: 10 classes, openvino int8>`."""
        return f"<Predictor {self.name}: {len(self.classes)} classes, {self.runtime.name}>"

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the logits."""
        return list(self.card["classes"])

    @property
    def class_ids(self) -> list[str] | None:
        """Identifiers of the classes, such as WordNet's, where the card has them."""
        return self.card.get("class_ids")

    @property
    def identity(self) -> Identity:
        """What predictions depend on, apart from images and options."""
        return Identity(
            self.card["network"], self.digest, self.runtime.name, len(self.card["classes"])
        )

    @property
    def shorter_side(self) -> int:
        """Pixels that the shorter side of a decoded image needs."""
        return DECODE_MARGIN * self.preprocessing.resize

    def input_array(self, image: Image.Image) -> NDArray[np.uint8]:
        """Scale and crop an upright RGB image to the network's input: uint8 (3, size, size)."""
        return to_array(self.preprocessing.crop(image))

    def predict(
        self, images: ImageInput | Iterable[ImageInput], top: int = TOP, *, batch: int = 16
    ) -> list[Prediction]:
        """Predict the most probable classes of images.

        ```python
        model.predict("cat.jpg")[0].top[0]     # ClassProbability(name='cat', probability=0.99, ...)
        model.predict([Image.open("a.png"), numpy.zeros((32, 32, 3), numpy.uint8)], top=1)
        ```

        Args:
            images: one image, several, or a batch: an array (N, H, W, 3) or a tensor (N, 3, H, W).
            top: how many classes; all if the model has fewer.
            batch: images that the network computes at a time.

        Returns:
            A prediction for each image, in their order. Images that cannot be read have an `error`.

        Raises:
            TypeError: if something is not an image, or `top` or `batch` not a whole number.
            ValueError: if an array or tensor is not uint8 RGB, or `top` or `batch` below 1.
        """
        return list(self.iter_predictions(images, top, batch=batch))

    def iter_predictions(
        self,
        images: ImageInput | Iterable[ImageInput],
        top: int = TOP,
        *,
        batch: int = 16,
        embeddings: bool = False,
    ) -> Iterator[Prediction]:
        """Yield predictions as they are computed, for any number of images; see `predict`.

        Args:
            images: as for `predict`; they are read as they are needed, in threads.
            top: likewise.
            batch: likewise.
            embeddings: whether predictions hold the pooled features.

        Raises:
            UserError: if the network has no pooled features, but embeddings are requested.
        """
        if embeddings:
            self.require_features()
        return self._iter_predictions(images, _at_least_one("top", top), batch, embeddings)

    def _iter_predictions(
        self, images: ImageInput | Iterable[ImageInput], top: int, batch: int, embeddings: bool
    ) -> Iterator[Prediction]:
        classes, ids = self.classes, self.class_ids
        for group in self._batches(images, batch):
            inputs = [pixels for _, pixels in group if not isinstance(pixels, UserError)]
            rows: Iterator[Any] = iter(())
            if inputs:
                outputs = self.runtime.arrays(np.stack(inputs))
                features = outputs.features.tolist() if embeddings else [None] * len(inputs)
                rows = zip(top_classes(outputs.logits, top, classes, ids), features, strict=True)
            for name, pixels in group:
                if isinstance(pixels, UserError):
                    yield Prediction(name, error=pixels.reason)
                else:
                    best, embedding = next(rows)
                    yield Prediction(name, best, tuple(embedding) if embedding else None)

    def features(
        self,
        images: ImageInput | Iterable[ImageInput],
        stage: str | None = None,
        *,
        batch: int = 16,
    ) -> NDArray[np.float32]:
        """Compute features of images.

        ```python
        model.features(["a.jpg", "b.jpg"])             # (2, 64): pooled, in front of the classifier
        model.features("a.jpg", stage="layer2")        # (1, 32, 16, 16): a stage's output
        ```

        Args:
            images: as for `predict`.
            stage: `stem`, `layer1`, `layer2`, ...: the output of that stage, by PyTorch in float32;
                None is the last stage's output after global average pooling, by the predictor's
                engine, but never in int8 (except of an int8 export).
            batch: images that the network computes at a time.

        Returns:
            float32 (N, channels); of a stage (N, channels, H, W).

        Raises:
            UserError: if an image cannot be read, or the network has no such features.
            ValueError: if there are no images.
        """
        compute = self._pooled_features() if stage is None else self._stage_features(stage)
        outputs = []
        for group in self._batches(images, batch):
            inputs = []
            for _, pixels in group:
                if isinstance(pixels, UserError):
                    raise pixels
                inputs.append(pixels)
            outputs.append(compute(np.stack(inputs)))
        if not outputs:
            raise ValueError("no images were given")
        return np.concatenate(outputs)

    def _pooled_features(self) -> _Features:
        """The function that computes pooled features; raises `UserError` if there are none."""
        self.require_features("")
        runtime = self._float_runtime
        return lambda pixels: runtime.arrays(pixels).features

    def _stage_features(self, stage: str) -> _Features:
        """The function that computes a stage's output; raises `UserError` if there is none."""
        import torch

        from resnets.analysis.activation_maps import with_stages
        from resnets.inference.explanations import check_stage

        model, device = self.torch_model, self.device or torch.device("cpu")
        check_stage(model, stage)
        network, normalize = with_stages(model.network), model.normalize(device)

        def compute(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            with torch.inference_mode():
                inputs = normalize(torch.from_numpy(pixels).to(device))
                output: NDArray[np.float32] = network.features(inputs)[stage].cpu().numpy()
                return output

        return compute

    def explain(
        self, image: ImageInput, class_name: str | int | None = None, stage: str | None = None
    ) -> ImageExplanation:
        """Explain the prediction for an image: where each stage finds the evidence for a class.

        ```python
        explanation = model.explain("cat.jpg", class_name="dog")
        explanation.overlay("layer3").save("dog.png")
        explanation.sheet().show()
        ```

        Args:
            image: as for `predict`.
            class_name: name or index of the class to explain; the most probable one by default.
            stage: the only stage to explain, such as `layer3`; all by default.

        Raises:
            UserError: if the image cannot be read, there is no such class or stage, the network
                has no stages (VGG), or an export's folder lacks the model file.
        """
        from resnets.inference import explanations

        model = self.torch_model
        index = None if class_name is None else explanations.find_class(self.classes, class_name)
        if stage is not None:
            explanations.check_stage(model, stage)
        name = input_name(image, 0)
        explanation = explanations.explain(model, open_image(image), index, name)
        chosen = tuple(one for one in explanation.stages if stage in (None, one.stage))
        return replace(explanation, stages=chosen)

    @cached_property
    def torch_model(self) -> Model:
        """The model in PyTorch in float32; of an export, the model file in its folder.

        Raises:
            UserError: if it cannot be loaded.
        """
        import torch

        from resnets.weights import model_file

        model = model_file.load(str(export_folder.source_of(self.name)))
        model.network.to(self.device or torch.device("cpu"))
        return model

    @cached_property
    def _float_runtime(self) -> Runtime:
        """The same engine, but not in int8, which rounds features; an int8 export has no other."""
        if not self.runtime.name.endswith("int8") or export_folder.is_export(self.name):
            return self.runtime
        return open_predictor(self.name, "openvino", allow_int8=False).runtime

    def classifier(self) -> Classifier:
        """What a test of `resnets.evaluation` needs of the model, in its engine, on the CPU.

        It takes crops of the preprocessing's size only.
        """
        from resnets.evaluation.evaluator import Classifier

        def score(images: Tensor) -> Tensor:
            probabilities: Tensor = self.runtime(images).logits.softmax(1)
            return probabilities

        return Classifier(self.card["network"], score, self.classes, self.class_ids)

    def require_features(self, option: str = "--embeddings") -> None:
        """Raise `UserError` if the network has no pooled features, which `option` requests."""
        from resnets.models import zoo  # imports torch

        if self.card["network"] in zoo.VGG_NAMES:
            raise UserError(f"{self.card['network']} has no pooled features", option)

    def _batches(
        self, images: ImageInput | Iterable[ImageInput], size: int
    ) -> Iterator[list[tuple[str, NDArray[np.uint8] | UserError]]]:
        """Names of images with their inputs, or why they cannot be read, in lists of `size`."""
        loaded = in_threads(self._load, enumerate(as_images(images)), min(threads(), 16))
        size = _at_least_one("batch", size)
        while group := list(islice(loaded, size)):
            yield group

    def _load(self, numbered: tuple[int, ImageInput]) -> tuple[str, NDArray[np.uint8] | UserError]:
        number, image = numbered
        name = input_name(image, number)
        try:
            return name, self.input_array(open_image(image, self.shorter_side))
        except UserError as error:
            return name, error


def _at_least_one(name: str, value: int) -> int:
    """An argument that counts; raises TypeError or ValueError if it cannot."""
    try:
        count = operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be a whole number, not {value!r}") from error
    if count < 1:
        raise ValueError(f"{name} must be at least 1, not {count}")
    return count


def open_predictor(
    name: str,
    runtime: str = "auto",
    precision: str = "auto",
    device: str | torch.device | None = None,
    *,
    allow_int8: bool = True,
) -> Predictor:
    """Open a model by its name.

    Args:
        name: a shipped model, a model file, a run folder, a named source such as `resnet50@msra`,
            or the folder of an export, which has its own engine and precision.
        runtime: `torch`, `openvino`, or `auto`: OpenVINO on CPUs where it is installed.
        precision: `fp32`, `bf16`, `int8`, or `auto`: in OpenVINO int8 for models that have been
            calibrated, else bf16 where the device has hardware for it, else float32.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ... or a torch device; None is the CPU. torch is
            not imported for an engine that does not need it.
        allow_int8: whether the precision `auto` may mean int8.

    Raises:
        UserError: if there is no such model, or it cannot be run in this way.
    """
    if isinstance(device, str):
        device = device_for(name, runtime, device)
    if device is not None and device.type == "cpu":
        device = None
    if export_folder.is_export(name):
        return _open_export(name, runtime, precision, device)
    check_engine(name, runtime, precision)  # before a model is downloaded
    path = hub.resolve(name)
    refuse_detector(read_card(path)[0], name)
    digest = file_sha256(path)
    choice = choose_engine(name, path, runtime, precision, device, allow_int8=allow_int8)
    if choice.runtime == "torch":
        return _open_in_torch(name, path, digest, device, choice.precision)
    if choice.int8 is not None:
        digest = hashlib.sha256((digest + choice.int8.digest).encode()).hexdigest()
    card, crop = read_card(path)
    engine = open_in_openvino(path, digest, choice.precision, choice.int8)
    return Predictor(name, card, crop, engine, digest)


def _open_in_torch(
    name: str, path: Path, digest: str, device: torch.device | None, precision: Precision
) -> Predictor:
    import torch

    from resnets.inference.deployable import Deployable
    from resnets.weights import model_file

    model = model_file.load(str(path))
    network = Deployable(model.network, model.preprocessing)
    engine = TorchRuntime(network, device or torch.device("cpu"), precision)
    return Predictor(name, model.card, model.preprocessing, engine, digest, device)


def _open_export(name: str, runtime: str, precision: str, device: torch.device | None) -> Predictor:
    """An exported model in its own engine."""
    export = export_folder.read(Path(name))
    export.check_options(runtime, precision, device)
    refuse_detector(export.card, name)
    if export.dense:
        raise UserError(
            "a dense export predicts locations of an image, not images",
            name,
            "export without --dense",
        )
    engine = open_engine(export)
    return Predictor(name, export.card, export.preprocessing, engine, export.digest)


def open_engine(export: export_folder.Export, keep: bool = True) -> Runtime:
    """The network of an exported model in its engine, on the CPU.

    Args:
        export: the export.
        keep: whether OpenVINO keeps the compiled network in the cache for the next start.

    Raises:
        UserError: if a file is damaged, or the engine cannot run it.
    """
    export.check()
    precision: Precision = export.precision  # type: ignore[assignment]
    if export.engine == "openvino":
        return OpenVinoRuntime(export.file, precision, compiled_folder() if keep else None)
    if export.engine == "onnx":
        return OnnxRuntime(export.file, precision)
    return TorchExportRuntime(export.file, precision)
