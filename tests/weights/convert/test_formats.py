"""Models written in another format and read again are unchanged; or writing is refused."""

import codecs
import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from resnets.models import zoo
from resnets.models.residual import Architecture
from resnets.support.errors import UserError
from resnets.weights.convert import caffe, caffe_convention, formats
from tests.weights.convert.nets import ROWS, answers, model, tiny_preprocessing, tiny_zoo  # noqa: F401

pytestmark = pytest.mark.usefixtures("tiny_zoo")

OUTPUTS = {
    "resnets": "model.safetensors",
    "torchvision": "model.pth",
    "timm": "timm",
    "transformers": "transformers",
    "keras-h5": "model.h5",
    "tfjs": "web",
    "caffe": "model.caffemodel",
}
CASES = [
    *((to, "tiny-v1.5") for to in OUTPUTS),
    *((to, name) for to in ("keras-h5", "tfjs", "caffe")
      for name in ("tiny", "tiny-c", "tiny-ceil", "tiny18", "tinyplain")),
    ("torchvision", "tiny18"),
    ("torchvision", "cifar-resnet8-b"),
    ("transformers", "tiny"),
    ("transformers", "tiny18"),
]  # fmt: skip


@pytest.mark.parametrize(("to", "name"), CASES)
def test_a_written_model_reads_back_unchanged(tmp_path, to, name):
    before = model(name)
    formats.write(before, tmp_path / "out" / OUTPUTS[to], to)
    after = formats.read(tmp_path / "out" / OUTPUTS[to])
    torch.testing.assert_close(answers(after), answers(before), rtol=1e-5, atol=1e-5)
    assert after.card["network"] == name
    assert after.classes == before.classes
    assert after.class_ids == before.class_ids
    assert after.card["measured"] == before.card["measured"]
    assert after.card["provenance"]["recipe"] == "none"
    assert after.preprocessing.resize == 70
    assert after.preprocessing.interpolation == "bicubic"


@pytest.mark.parametrize("to", ["torchvision", "keras-h5", "caffe"])
def test_a_mean_image_is_kept(tmp_path, to):
    before = model("tiny-v1.5", preprocessing=tiny_preprocessing("mean image"))
    formats.write(before, tmp_path / OUTPUTS[to], to)
    after = formats.read(tmp_path / OUTPUTS[to])
    torch.testing.assert_close(answers(after), answers(before), rtol=1e-5, atol=1e-5)


def test_a_safetensors_state_dict_is_not_taken_for_a_model_file(tmp_path):
    before = model("tiny18")
    path = tmp_path / "theirs.safetensors"
    formats.write(before, path, "torchvision")
    torch.testing.assert_close(answers(formats.read(path)), answers(before))


def test_the_model_of_a_run_folder_is_read(tmp_path):
    before = model("tiny18")
    formats.write(before, tmp_path / "model.safetensors", "resnets")
    torch.testing.assert_close(answers(formats.read(tmp_path)), answers(before))


def test_the_card_records_the_origin_of_weights(tmp_path):
    formats.write(model("tiny-ceil"), tmp_path / "model.caffemodel", "caffe")
    origin = formats.read(tmp_path / "model.prototxt").card["provenance"]["converted_from"]
    assert origin["origin"] == "Caffe"
    assert (origin["stride_in"], origin["pool"]) == ("1x1", "ceil")


def test_a_thousand_classes_without_names_are_imagenets(tmp_path):
    files = formats.write(model("tiny18", 1000), tmp_path / "model.h5", "keras-h5")
    files[-1].unlink()  # the card
    after = formats.read(tmp_path / "model.h5")
    assert after.classes[:2] == ["tench", "goldfish"]
    assert after.class_ids[-1] == "n15075141"
    assert after.preprocessing.resize == 74  # the authors' 256 for 224
    mean = 255 * after.preprocessing.mean.flatten()
    torch.testing.assert_close(mean, torch.tensor([123.68, 116.779, 103.939]))


def test_other_numbers_of_classes_are_numbered(tmp_path):
    torch.save(model("tiny18", 12).network.state_dict(), tmp_path / "model.pth")
    assert formats.read(tmp_path / "model.pth").classes[:2] == ["class 00", "class 01"]


@pytest.mark.parametrize(("count", "first"), [(10, "airplane"), (100, "apple"), (11, "class 00")])
def test_outputs_of_a_cifar_network_are_those_of_the_data_set(tmp_path, count, first):
    torch.save(model("cifar-resnet8-b", count).network.state_dict(), tmp_path / "model.pth")
    assert formats.read(tmp_path / "model.pth").classes[0] == first


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "module._orig_mod.", "model.", "backbone.", "module.encoder."],
)
@pytest.mark.parametrize("key", [None, "state_dict", "model", "net", "model_state_dict"])
def test_wrapped_and_nested_state_dicts_are_read(tmp_path, prefix, key):
    before = model("tiny18")
    state = {prefix + name: tensor for name, tensor in before.network.state_dict().items()}
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "model.pth")
    torch.testing.assert_close(answers(formats.read(tmp_path / "model.pth")), answers(before))


def test_biases_and_another_eps_are_folded_exactly():
    torch.manual_seed(0)
    weight, bias = torch.randn(5, 3, 3, 3), torch.randn(5)
    gamma, beta, mean = torch.randn(3, 5)
    variance = torch.rand(5) * 0.01
    norms = {"bn1": (gamma, beta, mean, variance, 1e-3)}
    state = caffe_convention.rgb_state_dict({"conv1": (weight, bias)}, norms, None)
    rgb = torch.randn(2, 3, 9, 9)
    there = torch.nn.functional.conv2d(rgb.flip(1), weight, bias)
    there = torch.nn.functional.batch_norm(there, mean, variance, gamma, beta, eps=1e-3)
    here = torch.nn.functional.conv2d(rgb, state["conv1.weight"])
    here = torch.nn.functional.batch_norm(
        here, state["bn1.running_mean"], state["bn1.running_var"], state["bn1.weight"],
        state["bn1.bias"], eps=1e-5,
    )  # fmt: skip
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("layer", "module"),
    [
        ("res2a_branch2a", "layer1.0.conv1"),
        ("bn3b_branch2c", "layer2.1.bn3"),
        ("scale5c_branch2b", "layer4.2.bn2"),
        ("res4b22_branch2a", "layer3.22.conv1"),
        ("bn4a_branch1", "layer3.0.downsample.1"),
        ("conv2_block1_0_conv", "layer1.0.downsample.0"),
        ("conv4_block6_3_bn", "layer3.5.bn3"),
        ("conv1_bn", "bn1"),
        ("fc1000", "fc"),
        ("block1_conv1", None),
    ],
)
def test_names_of_layers(layer, module):
    assert caffe_convention.module_of(layer) == module


def test_layers_of_101_are_named_as_the_authors_do():
    depths = (3, 4, 23, 3)
    assert caffe_convention.layer_suffix("layer3.22.conv3", depths) == "4b22_branch2c"
    assert caffe_convention.layer_suffix("layer1.2.conv1", depths) == "2c_branch2a"
    assert caffe_convention.layer_suffix("layer3.5.conv1", (3, 4, 6, 3)) == "4f_branch2a"


@pytest.mark.parametrize("to", ["torchvision", "timm"])
@pytest.mark.parametrize(
    ("name", "what"), [("tiny", "1x1"), ("tiny-c", "option C"), ("tinyplain", "plain blocks")]
)
def test_networks_that_other_programs_would_run_wrongly_are_refused(tmp_path, to, name, what):
    with pytest.raises(UserError, match=f"{to} has no network with .*{what}"):
        formats.write(model(name), tmp_path / "out", to)
    assert not (tmp_path / "out").is_file()


@pytest.mark.parametrize("to", ["timm", "transformers", "keras-h5", "tfjs", "caffe"])
def test_cifar_networks_are_refused_by_other_formats(tmp_path, to):
    with pytest.raises(UserError, match="CIFAR stem"):
        formats.write(model("cifar-resnet8"), tmp_path / "model", to)


@pytest.mark.parametrize("to", ["torchvision", "timm", "transformers", "keras-h5", "tfjs", "caffe"])
@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"stem": "small"}, "the stem for small images"),
        ({"block": "single"}, "blocks of one layer"),
        ({"block": "basic", "shortcut": "highway"}, "gates"),
        ({"order": "pre"}, "the pre-activation order"),
    ],
)
def test_networks_beyond_table_1_are_refused_by_other_formats(
    tmp_path, monkeypatch, to, change, what
):
    row = replace(ROWS["tiny-v1.5"], **change)
    monkeypatch.setattr(zoo, "NAMED", {"odd": row})
    with pytest.raises(UserError, match=what) as caught:
        formats.write(model("odd"), tmp_path / "model", to)
    assert caught.value.hint == "use --to resnets"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["cifar-highway19", "cifar-preact20"])
def test_state_dicts_of_this_package_are_identified(tmp_path, monkeypatch, name):
    pre = Architecture("bottleneck", "B", (2, 2, 2), (4, 8, 16), "cifar", classes=3, order="pre")
    gates = Architecture("alternating", "highway", (2, 2, 2), (4, 8, 16), "cifar", classes=3)
    rows = {"cifar-preact20": pre, "cifar-highway19": gates}
    monkeypatch.setattr(zoo, "NAMED", rows)
    network = model(name, 3).network
    torch.save(network.state_dict(), tmp_path / "model.pth")
    found = formats.read(tmp_path / "model.pth")
    assert found.card["network"] == name
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(found.network(x), network(x))


@pytest.mark.parametrize(
    ("out", "to", "expected"),
    [("a.h5", None, "keras-h5"), ("a.safetensors", None, "resnets"), ("a", "timm", "timm")],
)
def test_the_format_follows_from_the_name(tmp_path, out, to, expected):
    assert formats.output_format(tmp_path / out, to) == expected


@pytest.mark.parametrize(
    ("to", "message"), [(None, "does not say which format"), ("kera", "did you mean keras-h5")]
)
def test_an_unclear_format_is_refused_with_one_line(tmp_path, to, message):
    with pytest.raises(UserError, match=message):
        formats.output_format(tmp_path / "out", to)


def test_weights_of_another_network_say_what_differs(tmp_path):
    path = tmp_path / "model.pth"
    torch.save(model("tiny18").network.state_dict(), path)
    with pytest.raises(UserError) as caught:
        formats.read(path, "tiny")
    line = str(caught.value)
    assert re.search(r"shapes differ \(first layer1.0.conv1.weight: .* instead of", line)
    assert "tensors are missing (first layer1.0.conv3.weight)" in line
    assert line.endswith("the weights fit --network tiny18")


@pytest.mark.parametrize(
    ("written", "network", "what"),
    [
        ("tiny", "tiny-v1.5", "the stride is in the 1x1 instead of the 3x3"),
        ("tiny-v1.5", "tiny", "the stride is in the 3x3 instead of the 1x1"),
        ("tiny-ceil", "tiny", "the pool is 'ceil' instead of 'padded'"),
    ],
)
@pytest.mark.parametrize("to", ["keras-h5", "caffe"])
def test_stride_and_pool_are_compared_too(tmp_path, to, written, network, what):
    formats.write(model(written), tmp_path / OUTPUTS[to], to)
    with pytest.raises(UserError, match=re.escape(what)) as caught:
        formats.read(tmp_path / OUTPUTS[to], network)
    assert f"--network {written}" in str(caught.value)


def test_a_stride_that_a_file_does_not_say_is_noted_as_assumed(tmp_path):
    torch.save(model("tiny-v1.5").network.state_dict(), tmp_path / "model.pth")
    for network, where in ((None, "3x3"), ("tiny", "1x1")):
        origin = formats.read(tmp_path / "model.pth", network).card["provenance"]["converted_from"]
        assert f"the stride in the {where} convolutions (--network)" in origin["assumed"]


def test_weights_of_no_network_name_the_nearest(tmp_path):
    state = model("tiny18").network.state_dict()
    state["extra.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"nearest tiny18: 1 tensor is unknown \(first extra"):
        formats.read(tmp_path / "model.pth")


def test_option_a_and_plain_networks_of_equal_weights_need_a_name(tmp_path):
    torch.save(model("cifar-resnet8", 10).network.state_dict(), tmp_path / "model.pth")
    with pytest.raises(UserError, match="cifar-resnet8 as well as cifar-plain8"):
        formats.read(tmp_path / "model.pth")
    assert formats.read(tmp_path / "model.pth", "cifar-plain8").card["network"] == "cifar-plain8"


def test_a_wrong_number_of_classes_says_how_to_train_a_classifier(tmp_path):
    found = formats.write(model("tiny18", 7), tmp_path / "model.pth", "torchvision")
    card = json.loads(found[-1].read_text())
    card["classes"] = card["class_ids"] = ["ant", "bee"]
    found[-1].write_text(json.dumps(card))
    with pytest.raises(
        UserError, match=r"have 7 classes, but the card names 2; .*resnets train finetune"
    ):
        formats.read(tmp_path / "model.pth")


def test_a_card_of_another_file_is_refused(tmp_path):
    formats.write(model("tiny18"), tmp_path / "model.pth", "torchvision")
    torch.save(model("tiny-v1.5").network.state_dict(), tmp_path / "model.pth")
    with pytest.raises(UserError, match="describes another file; remove the card"):
        formats.read(tmp_path / "model.pth")


@pytest.mark.parametrize("to", [t for t in OUTPUTS if t != "resnets"])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.999])
def test_truncated_files_are_refused_with_one_line(tmp_path, to, keep):
    main = formats.write(model("tiny-v1.5"), tmp_path / OUTPUTS[to], to)[0]
    main.with_name(f"{main.name}.card.json").unlink()
    if to == "tfjs":
        main = next(main.parent.glob("group1-shard*"))
    content = main.read_bytes()
    main.write_bytes(content[: keep if keep > 1 else int(keep * len(content))])
    with pytest.raises(UserError):
        formats.read(tmp_path / OUTPUTS[to])


@pytest.mark.parametrize("suffix", [".prototxt", ".caffemodel"])
def test_a_caffe_model_needs_both_files(tmp_path, suffix):
    formats.write(model("tiny"), tmp_path / "model.caffemodel", "caffe")
    (tmp_path / f"model{suffix}").unlink()
    other = next(p for p in tmp_path.iterdir() if p.suffix in (".prototxt", ".caffemodel"))
    with pytest.raises(UserError, match=rf"no files \*{suffix} in "):
        formats.read(other)


def test_a_prototxt_may_have_a_byte_order_mark(tmp_path):
    formats.write(model("tiny"), tmp_path / "model.caffemodel", "caffe")
    path = tmp_path / "model.prototxt"
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert formats.read(path).classes == model("tiny").classes


def test_the_authors_file_names_are_paired(tmp_path):
    formats.write(model("tiny-ceil"), tmp_path / "net.caffemodel", "caffe")
    (tmp_path / "net.caffemodel").rename(tmp_path / "ResNet-50-model.caffemodel")
    (tmp_path / "net.prototxt").rename(tmp_path / "ResNet-50-deploy.prototxt")
    (tmp_path / "net.caffemodel.card.json").unlink()
    for name in ("ResNet-50-model.caffemodel", "ResNet-50-deploy.prototxt", ""):
        after = formats.read(tmp_path / name)
        # The mean image is in the same folder, on Caffe's scale.
        torch.testing.assert_close(
            answers(after), answers(model("tiny-ceil")), rtol=1e-4, atol=1e-4
        )


def test_caffe_as_the_authors_wrote_it(tmp_path):
    """Sums of statistics with their factor, a bias before BN, shapes of old files."""
    before = model("tiny-ceil")
    path, *_ = formats.write(before, tmp_path / "net.caffemodel", "caffe")
    net = caffe.messages()["Net"]()
    net.ParseFromString(path.read_bytes())
    layers = {layer.name: layer for layer in net.layer}

    def change(blob, by):
        blob.data = by(np.frombuffer(blob.data, np.float32)).astype("<f4").tobytes()

    for layer in net.layer:
        if layer.type == "BatchNorm":
            for blob in layer.blobs:
                change(blob, lambda a: 3 * a)
    bias = layers["conv1"].blobs.add()
    bias.data = np.arange(4, dtype="<f4").tobytes()
    change(layers["bn_conv1"].blobs[0], lambda a: a + 3 * np.arange(4))
    (weight, *_) = layers["fc7"].blobs
    weight.num, weight.channels, (weight.height, weight.width) = 1, 1, weight.shape.dim
    weight.ClearField("shape")
    path.write_bytes(net.SerializeToString())
    (tmp_path / "net.caffemodel.card.json").unlink()
    after = formats.read(path)
    torch.testing.assert_close(answers(after), answers(before), rtol=1e-4, atol=1e-4)
    origin = after.card["provenance"]["converted_from"]
    assert origin["convolution_biases"] == "folded into the means of BN"


def blob_of(net, layer, number):
    return {known.name: known for known in net.layer}[layer].blobs[number]


def two_factors(net):
    blob_of(net, "bn_conv1", 2).CopyFrom(blob_of(net, "bn_conv1", 0))


def odd_bytes(net):
    blob_of(net, "conv1", 0).data = blob_of(net, "conv1", 0).data[:-3]


def short_weight(net):
    blob = blob_of(net, "conv1", 0)
    blob.data = blob.data[:40]
    blob.ClearField("shape")


def long_bias(net):
    {known.name: known for known in net.layer}["conv1"].blobs.add().data = bytes(4 * 5)


def short_classifier(net):
    blob_of(net, "fc7", 1).data = blob_of(net, "fc7", 1).data[:-4]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (two_factors, "layer 'bn_conv1': it divides by 4 numbers instead of one"),
        (odd_bytes, r"layer 'conv1': a tensor of shape \(4, 3, 7, 7\) has 2,349 bytes"),
        (short_weight, r"tensors of conv1 do not match: \(10,\)"),
        (long_bias, r"tensors of conv1 do not match: .*\(5,\)"),
        (short_classifier, r"layer 'fc7': a tensor of shape \(7,\) has 24 bytes"),
    ],
)
def test_a_caffemodel_of_wrong_sizes_is_refused_with_one_line(tmp_path, damage, message):
    path, *_ = formats.write(model("tiny"), tmp_path / "net.caffemodel", "caffe")
    net = caffe.messages()["Net"]()
    net.ParseFromString(path.read_bytes())
    damage(net)
    path.write_bytes(net.SerializeToString())
    with pytest.raises(UserError, match=message):
        formats.read(path)


@pytest.mark.parametrize(("height", "side"), [(97, 97), (64, None)])
def test_an_input_layer_gives_the_size_of_images(tmp_path, height, side):
    files = formats.write(model("tiny"), tmp_path / "net.caffemodel", "caffe")
    text = re.sub(r"input_dim: \d+\n|input: .*\n", "", files[1].read_text())
    shape = f"shape {{ dim: 1 dim: 3 dim: {height} dim: 97 }}"
    layer = f'layer {{ name: "data" type: "Input" top: "data" input_param {{ {shape} }} }}\n'
    files[1].write_text(layer + text)
    files[-1].unlink()
    if side is None:
        with pytest.raises(UserError, match="not square"):
            formats.read(files[1])
    else:
        assert formats.read(files[1]).preprocessing.size == side


def test_keras_weights_without_a_graph(tmp_path):
    """Layers named as in today's keras.applications: v1, BGR, eps 1.001e-5."""
    h5py = pytest.importorskip("h5py")
    before = model("tiny")
    formats.write(before, tmp_path / "whole.h5", "keras-h5")
    with (
        h5py.File(tmp_path / "whole.h5") as whole,
        h5py.File(tmp_path / "weights.h5", "w") as file,
    ):
        names = []
        for layer, group in whole["model_weights"].items():
            name = {"conv1": "conv1_conv", "bn_conv1": "conv1_bn", "fc7": "predictions"}.get(layer)
            if found := re.fullmatch(r"(res|bn)(\d)([ab])_branch(1|2[abc])", layer):
                kind, stage, letter, branch = found.groups()
                place = ["1", "2a", "2b", "2c"].index(branch)
                end = "conv" if kind == "res" else "bn"
                name = f"conv{stage}_block{'ab'.index(letter) + 1}_{place}_{end}"
            names.append((name or layer).encode())
            group.copy(group, file, name or layer)
        file.attrs["layer_names"] = names
    after = formats.read(tmp_path / "weights.h5")
    assert after.card["network"] == "tiny"
    assert after.card["provenance"]["converted_from"]["bn_eps"] == [1.001e-5]
    assert after.preprocessing.size == 224
    moved = replace(after.preprocessing, mean=before.preprocessing.mean)
    torch.testing.assert_close(
        answers(replace(after, preprocessing=moved)), answers(before), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(
    ("change", "pool"),
    [
        ({}, "padded"),
        ({"padding": [[0, 1], [0, 1]]}, "ceil"),
        ({"padding": [[1, 0], [1, 0]]}, None),
        ({"padding": [[0, 0], [0, 0]]}, None),
        ({"pool_size": [2, 2]}, None),
        ({"strides": [1, 1]}, None),
    ],
)
def test_the_pool_of_a_keras_graph_is_a_known_one_or_refused(tmp_path, change, pool):
    files = formats.write(model("tiny"), tmp_path / "web", "tfjs")
    files[-1].unlink()
    document = json.loads(files[0].read_text())
    for layer in document["modelTopology"]["model_config"]["config"]["layers"]:
        if layer["config"]["name"] in ("pool1_pad", "pool1"):
            layer["config"].update({k: v for k, v in change.items() if k in layer["config"]})
            if layer["config"]["name"] == "pool1":
                layer["config"]["padding"] = "valid"
    files[0].write_text(json.dumps(document))
    if pool is None:
        with pytest.raises(UserError, match="layer 'pool1': unsupported pool"):
            formats.read(files[0])
    else:
        assert formats.read(files[0]).network.architecture.pool == pool


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("type: ", "typ "), "not a readable prototxt"),
        (("kernel_size: 3\n    stride: 2", "kernel_size: 2\n    stride: 2"), "unsupported pool"),
        (('name: "res2a_branch2a"', 'name: "inception"'), "no network of the paper has this layer"),
        (('name: "res2a_branch2a"', 'name: "res2b_branch2a"'), "has 0 tensors instead of 1"),
    ],
)
def test_a_prototxt_of_another_network_is_refused_with_one_line(tmp_path, change, message):
    formats.write(model("tiny"), tmp_path / "model.caffemodel", "caffe")
    path = tmp_path / "model.prototxt"
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises(UserError, match=message):
        formats.read(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pth", b"", "the file is empty"),
        ("a.bin", b"what is this", "unknown format of weights"),
        ("a.pth", b"PK\x03\x04 and no more", "not a PyTorch file"),
        ("a.keras", b"PK\x03\x04", "save the model as H5"),
        ("model.json", b"{}", "not a readable layers model"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "not a readable Keras H5 file"),
    ],
)
def test_files_of_unknown_format_are_refused_with_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        formats.read(tmp_path / name)
    assert str(tmp_path) in str(caught.value)


def test_a_pickle_of_more_than_tensors_is_never_run(tmp_path):
    torch.save(model("tiny18").network, tmp_path / "whole.pth")
    with pytest.raises(
        UserError, match=r"holds more than tensors.*; save only the model\'s state_dict\(\)"
    ):
        formats.read(tmp_path / "whole.pth")


@pytest.mark.parametrize(
    ("to", "module", "package"),
    [("keras-h5", "h5py", "h5py"), ("caffe", "google.protobuf", "protobuf")],
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, to, module, package):
    formats.write(model("tiny"), tmp_path / OUTPUTS[to], to)
    caffe.messages.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    for convert in (
        lambda: formats.read(tmp_path / OUTPUTS[to]),
        lambda: formats.write(model("tiny"), tmp_path / "new" / OUTPUTS[to], to),
    ):
        with pytest.raises(UserError, match=rf"files need the package {package}; pip install"):
            convert()


def test_missing_files_and_shards_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        formats.read(tmp_path / "none.pth")
    formats.write(model("tiny"), tmp_path / "web", "tfjs")
    next((tmp_path / "web").glob("group1-shard*")).unlink()
    with pytest.raises(UserError, match="no such file"):
        formats.read(tmp_path / "web")


def test_infinite_weights_are_refused(tmp_path):
    state = model("tiny18").network.state_dict()
    state["fc.bias"][0] = float("inf")
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(UserError, match="not finite"):
        formats.read(tmp_path / "model.pth")


def test_negative_variances_are_refused(tmp_path):
    """Some engines take them for another number and give plausible answers."""
    broken = model("tiny18")
    broken.network.state_dict()["bn1.running_var"][0] = -1
    torch.save(broken.network.state_dict(), tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"bn1.running_var has negative variances"):
        formats.read(tmp_path / "model.pth")
    formats.write(broken, tmp_path / "model.safetensors", "resnets")
    with pytest.raises(UserError, match=r"bn1.running_var has negative variances"):
        formats.read(tmp_path / "model.safetensors")


def test_only_imagenet_networks_have_a_ceil_variant():
    assert zoo.architecture("tiny-ceil").pool == "ceil"
    with pytest.raises(UserError, match="unknown network"):
        zoo.architecture("cifar-resnet20-ceil")
