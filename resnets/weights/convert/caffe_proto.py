"""The part of Caffe's protocol buffers that residual networks use, built at run time."""

from __future__ import annotations

from functools import cache
from typing import Any

from resnets.support.errors import UserError

# message: {field: (number, type)}; `*` marks repeated fields. The numbers are Caffe's.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "BlobShape": {"dim": (1, "int64*")},
    # Packed floats have the same bytes on the wire as a string of bytes, which numpy reads at once.
    "BlobProto": {
        "num": (1, "int64"), "channels": (2, "int64"), "height": (3, "int64"),
        "width": (4, "int64"), "data": (5, "bytes"), "shape": (7, "BlobShape"),
        "double_data": (8, "bytes"),
    },
    "Convolution": {
        "num_output": (1, "uint32"), "bias_term": (2, "bool"), "pad": (3, "uint32*"),
        "kernel_size": (4, "uint32*"), "stride": (6, "uint32*"), "stride_h": (13, "uint32"),
    },
    "BatchNorm": {"use_global_stats": (1, "bool"), "eps": (3, "float")},
    "Scale": {"bias_term": (4, "bool")},
    "Pooling": {
        "pool": (1, "uint32"), "kernel_size": (2, "uint32"), "stride": (3, "uint32"),
        "pad": (4, "uint32"), "global_pooling": (12, "bool"), "round_mode": (13, "uint32"),
    },
    "InnerProduct": {"num_output": (1, "uint32")},
    "Input": {"shape": (1, "BlobShape*")},
    "Layer": {
        "name": (1, "string"), "type": (2, "string"), "bottom": (3, "string*"),
        "top": (4, "string*"), "blobs": (7, "BlobProto*"),
        "convolution_param": (106, "Convolution"),
        "inner_product_param": (117, "InnerProduct"), "pooling_param": (121, "Pooling"),
        "batch_norm_param": (139, "BatchNorm"), "scale_param": (142, "Scale"),
        "input_param": (143, "Input"),
    },
    "Net": {
        "name": (1, "string"), "input": (3, "string*"), "input_dim": (4, "int64*"),
        "input_shape": (8, "BlobShape*"), "layer": (100, "Layer*"),
    },
}  # fmt: skip
_ENUMS = {"pool": ("MAX", "AVE"), "round_mode": ("CEIL", "FLOOR")}


@cache
def messages() -> dict[str, Any]:
    """Message classes by name.

    Raises:
        UserError: if protobuf is not installed.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise UserError(
            "Caffe's files need the package protobuf", hint="pip install 'resnets[convert]'"
        ) from error
    file = descriptor_pb2.FileDescriptorProto(
        name="resnets/caffe.proto", package="resnets.caffe", syntax="proto2"
    )
    for name, values in _ENUMS.items():
        enum = file.enum_type.add(name=f"{name}_values")
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, text) in fields.items():
            kind = text.removesuffix("*")
            label = kinds.LABEL_REPEATED if text.endswith("*") else kinds.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if field in _ENUMS:
                added.type, added.type_name = kinds.TYPE_ENUM, f".resnets.caffe.{field}_values"
            elif kind in _MESSAGES:
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".resnets.caffe.{kind}"
            else:
                added.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
            if text == "int64*" and name == "BlobShape":
                added.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"resnets.caffe.{name}"))
        for name in _MESSAGES
    }
