"""The graph of a network in Keras' words, which whole H5 models and model.json carry."""

from __future__ import annotations

from typing import Any

from resnets.models.residual import Architecture
from resnets.weights.convert.layer_names import layer_names
from resnets.weights.convert.layers import walk


class _Graph:
    """Layers of a Keras functional model, in its JSON form."""

    def __init__(self, size: int, eps: float) -> None:
        self.layers: list[dict[str, Any]] = []
        self._size, self._eps = size, eps

    def _add(self, kind: str, name: str, *inputs: str, **settings: Any) -> str:
        nodes = [[[source, 0, 0, {}] for source in inputs]] if inputs else []
        config = {"name": name, "dtype": "float32", **settings}
        self.layers.append(
            {"name": name, "class_name": kind, "config": config, "inbound_nodes": nodes}
        )
        return name

    def _pad(self, name: str, x: str, before: int, after: int) -> str:
        sides = [[before, after], [before, after]]
        return self._add("ZeroPadding2D", name, x, padding=sides, data_format="channels_last")

    def input(self) -> str:
        return self._add(
            "InputLayer", "input_1", batch_input_shape=[None, self._size, self._size, 3]
        )

    def conv(self, place: str, x: str, filters: int, size: int, stride: int) -> str:
        conv, norm = layer_names(place)
        # Keras' own `same` pads strided convolutions on one side only.
        same = stride == 1
        if not same and size > 1:
            x = self._pad(f"{conv}_pad", x, size // 2, size // 2)
        x = self._add(
            "Conv2D", conv, x, filters=filters, kernel_size=[size, size],
            strides=[stride, stride], padding="same" if same else "valid",
            data_format="channels_last", activation="linear", use_bias=True,
        )  # fmt: skip
        return self._add("BatchNormalization", norm, x, axis=[3], momentum=0.99,
                         epsilon=self._eps, center=True, scale=True)  # fmt: skip

    def relu(self, name: str, x: str) -> str:
        return self._add("Activation", f"relu_{name}", x, activation="relu")

    def pool(self, x: str, ceil: bool) -> str:
        # Pixels behind a ReLU are not negative: zeros around them change no maximum.
        x = self._pad("pool1_pad", x, 0 if ceil else 1, 1)
        return self._add("MaxPooling2D", "pool1", x, pool_size=[3, 3], strides=[2, 2],
                         padding="valid", data_format="channels_last")  # fmt: skip

    def add(self, name: str, x: str, y: str) -> str:
        return self._add("Add", f"add_{name}", y, x)

    def sorted(self) -> list[dict[str, Any]]:
        """The layers in the order in which Keras will number them: farthest from the end first.

        H5 files hold tensors in this order, and Keras does not look at their names.
        """
        far: dict[str, int] = {}
        for layer in reversed(self.layers):
            far.setdefault(layer["name"], 0)
            for source, *_ in (node for nodes in layer["inbound_nodes"] for node in nodes):
                far[source] = max(far.get(source, 0), far[layer["name"]] + 1)
        return sorted(self.layers, key=lambda layer: -far[layer["name"]])

    def head(self, x: str, classes: int) -> str:
        x = self._add("GlobalAveragePooling2D", "avg_pool", x, data_format="channels_last")
        return self._add("Dense", f"fc{classes}", x, units=classes, activation="softmax",
                         use_bias=True)  # fmt: skip


def describe(row: Architecture, size: int, eps: float) -> dict[str, Any]:
    """A network as a Keras functional model, with the authors' names of layers.

    Args:
        row: the network.
        size: side of the input in pixels.
        eps: of every BN.

    Raises:
        UserError: as `graph.walk`.
    """
    graph = _Graph(size, eps)
    output = walk(row, graph, "Keras")
    return {
        "class_name": "Model",
        "config": {
            "name": "resnet",
            "layers": graph.sorted(),
            "input_layers": [["input_1", 0, 0]],
            "output_layers": [[output, 0, 0]],
        },
    }
