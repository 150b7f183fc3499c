"""The step itself: gentle start, weight decay groups, devices and switches."""

import os

import pytest
import torch

from resnets.kernels import block as whole
from resnets.kernels import native
from resnets.kernels import norm as kernels
from resnets.support import devices
from resnets.support.errors import UserError
from resnets.training import hardware
from resnets.training.hardware import Settings
from resnets.training.objective import make_objective
from resnets.training.trainer import Trainer
from tests.training.test_resume import make_recipe

CPU = torch.device("cpu")
PLAIN = Settings(precision="fp32", channels_last=False, compile=False)
REPLAYED = Settings(precision="fp32", channels_last=True, compile=False, graphs=True)


def make(tiny, settings=PLAIN, **changes):
    recipe = make_recipe(**changes)
    return Trainer(make_objective(recipe, tiny), CPU, settings)


def test_the_gentle_start_of_a_deep_network_ends_when_the_error_is_small_enough(tiny):
    gentle = {"lr": 0.001, "until_error": 0.8, "from_depth": 8}
    schedule = {"kind": "steps", "lr": 0.1, "gentle_start": gentle}
    training = make(tiny, schedule=schedule, iterations=100)
    rates = []
    while training.gentle_end is None and training.step < 60:
        for _ in range(5):
            rates.append(training.rate)
            training.update()
        reading = training.take_reading()
        assert (reading.error < 80) == (training.gentle_end is not None)
    assert training.gentle_end == training.step
    assert set(rates) == {0.001}
    assert training.rate == 0.1
    tensors, facts = training.state()
    again = make(tiny, schedule=schedule, iterations=100)
    again.restore(tensors, facts)
    assert again.rate == 0.1


def test_a_shallow_network_starts_at_the_full_rate(tiny):
    gentle = {"lr": 0.001, "until_error": 0.8, "from_depth": 9}
    assert make(tiny, schedule={"kind": "steps", "lr": 0.1, "gentle_start": gentle}).rate == 0.1


@pytest.mark.parametrize("decay", ["all", "weights"])
def test_weight_decay_applies_to_all_parameters_or_to_weights(tiny, decay):
    training = make(tiny, optimizer={"weight_decay": 0.01, "decay": decay})
    decayed = {
        id(p)
        for group in training.optimizers[0].param_groups
        if group["weight_decay"]
        for p in group["params"]
    }
    for parameter in training.network.parameters():
        assert (id(parameter) in decayed) == (decay == "all" or parameter.ndim > 1)


@pytest.mark.parametrize("settings", [PLAIN, REPLAYED], ids=["called", "replayed"])
def test_one_update_is_caffes_sgd(tiny, settings):
    options = {"momentum": 0.9, "weight_decay": 0.1, "decay": "all"}
    schedule = {"kind": "linear", "lr": 0.1}
    training = make(tiny, settings, optimizer=options, schedule=schedule, iterations=10)
    weight = training.network.conv1.weight
    velocity = torch.zeros_like(weight)
    for _ in range(3):
        before, rate = weight.detach().clone(), training.rate
        training.update()
        velocity = 0.9 * velocity + weight.grad + 0.1 * before
        torch.testing.assert_close(weight.detach(), before - rate * velocity)


def test_captured_updates_equal_direct_ones(tiny):
    called, replayed = (
        make(tiny, settings, progressive={"size": 16, "until": 4}, ema=0.9)
        for settings in (Settings("fp32", True, False), REPLAYED)
    )
    for _ in range(8):  # of both sizes: each is captured once, and leaves nothing behind
        called.update()
        replayed.update()
        assert replayed.take_reading().loss == pytest.approx(called.take_reading().loss, rel=1e-4)
    assert len(replayed._captured._ready) == 2
    for name, tensor in called.state()[0].items():
        torch.testing.assert_close(replayed.state()[0][name], tensor, rtol=1e-3, atol=1e-4)


def test_captured_updates_resume_from_a_checkpoint_bit_for_bit(tiny):
    whole, stopped = make(tiny, REPLAYED), make(tiny, REPLAYED)
    for _ in range(5):
        whole.update()
        stopped.update()
    again = make(tiny, REPLAYED)
    again.update()  # what was captured before must see what is restored
    again.restore(*stopped.state())
    for _ in range(8):
        whole.update()
        again.update()
    tensors = again.state()[0]
    for name, tensor in whole.state()[0].items():
        assert torch.equal(tensors[name], tensor), name


def test_a_capture_needs_the_whole_batch_of_one_process(tiny):
    with pytest.raises(UserError, match="needs one process and no micro_batch"):
        make(tiny, REPLAYED, micro_batch=25)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("compiled", [False, True])
def test_updates_captured_on_a_gpu_equal_direct_ones(tiny, compiled):
    recipe = make_recipe(progressive={"size": 16, "until": 4}, ema=0.9)
    gpu = torch.device("cuda")
    called, replayed = (
        Trainer(make_objective(recipe, tiny), gpu, Settings("fp32", True, compiled, graphs))
        for graphs in (False, True)
    )
    for _ in range(8):
        called.update()
        replayed.update()
        assert replayed.take_reading().loss == pytest.approx(called.take_reading().loss, rel=1e-2)
    for name, tensor in called.state()[0].items():
        torch.testing.assert_close(replayed.state()[0][name], tensor, rtol=1e-2, atol=1e-3)


def test_recipes_of_earlier_versions_keep_their_hash():
    assert make_recipe().content_hash() == make_recipe(graphs=False).content_hash()
    assert make_recipe().content_hash() != make_recipe(graphs=True).content_hash()


def test_a_checkpoint_without_momentum_is_refused(tiny):
    tensors, facts = make(tiny).state()
    del tensors["momentum.conv1.weight"]
    with pytest.raises(UserError, match="does not fit cifar-resnet8"):
        make(tiny).restore(tensors, facts)


def test_progressive_sizes_and_memory_formats(tiny):
    training = make(tiny, progressive={"size": 16, "until": 2})
    for expected in (16, 16, 32):
        images, _ = training.batch()
        assert images.shape[-1] == expected
        assert images.is_contiguous()
        training.update()
    training = make(tiny, Settings("fp32", True, False))
    assert training.batch()[0].is_contiguous(memory_format=torch.channels_last)


def test_a_reading_covers_the_updates_since_the_last(tiny):
    training = make(tiny)
    assert training.take_reading() is None
    training.update()
    reading = training.take_reading()
    assert 0 <= reading.error <= 100
    assert reading.loss > 0
    assert training.take_reading() is None


def test_every_switch_can_be_set_and_auto_resolves():
    for precision in ("bf16", "fp32"):
        for switch in (True, False):
            chosen = hardware.resolve(
                make_recipe(
                    precision=precision, channels_last=switch, compile=switch, kernels=False
                ),
                CPU,
            )
            assert chosen == Settings(precision, switch, switch)
    assert hardware.resolve(make_recipe(), CPU).precision in ("bf16", "fp32")
    assert not hardware.resolve(make_recipe(graphs=True), CPU).graphs
    on_gpu = make_recipe(graphs=True, precision="fp32", compile=False)
    assert hardware.resolve(on_gpu, torch.device("cuda")).graphs


def test_kernels_are_chosen_where_they_are_available(monkeypatch):
    available = kernels.available()
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        kind = ("blocks" if whole.available(dtype) else "norms") if available else "none"
        assert hardware.resolve(make_recipe(precision=precision), CPU).kernels == kind
    assert hardware.resolve(make_recipe(kernels=False), CPU).kernels == "none"
    assert hardware.resolve(make_recipe(compile=True), CPU).kernels == "none"
    assert hardware.resolve(make_recipe(channels_last=False), CPU).kernels == "none"
    assert hardware.resolve(make_recipe(), torch.device("meta")).kernels == "none"
    monkeypatch.setattr(kernels, "available", lambda: False)
    assert hardware.resolve(make_recipe(), CPU).kernels == "none"
    assert make_recipe().content_hash() == make_recipe(kernels="auto").content_hash()
    assert make_recipe().content_hash() != make_recipe(kernels=False).content_hash()


@pytest.mark.parametrize(
    ("changes", "device", "reason"),
    [
        ({"compile": True}, "cpu", "compile = true"),
        ({"channels_last": False}, "cpu", "channels_last = false"),
        ({}, "cuda", "the device is cuda, not cpu"),
        ({"compile": True}, "cuda", "the device is cuda, not cpu, compile = true"),
        ({}, "cpu", "no C++ compiler (g++)"),
    ],
)
def test_kernels_that_are_not_possible_are_refused_with_the_reason(
    monkeypatch, changes, device, reason
):
    monkeypatch.setattr(native, "library", lambda name: None)
    monkeypatch.setattr(native, "unavailable_reason", lambda name: "no C++ compiler (g++)")
    recipe = make_recipe(kernels=True, precision="fp32", **{"compile": False, **changes})
    with pytest.raises(UserError) as refusal:
        hardware.resolve(recipe, torch.device(device))
    assert str(refusal.value) == (
        f"kernels = true is not possible: {reason}; use --set kernels=auto"
    )


@pytest.mark.skipif(not kernels.available(), reason="no C++ compiler, or not Linux")
@pytest.mark.parametrize("save_memory", [False, True])
@pytest.mark.parametrize("network", ["cifar-resnet8", "cifar-plain8", "cifar-resnet8-b"])
def test_kernels_do_not_change_a_training(tiny, network, save_memory):
    trainings = []
    for use in (False, True):
        recipe = make_recipe(network=network, save_memory=save_memory, batch=32)
        settings = Settings("fp32", True, False, kernels="blocks" if use else "none")
        trainings.append(Trainer(make_objective(recipe, tiny), CPU, settings))
    for _ in range(3):
        for training in trainings:
            training.update()
    plain, fused = (t.network.state_dict() for t in trainings)
    for name, tensor in plain.items():
        if tensor.ndim == 4:
            assert (fused[name] - tensor).norm() < 0.01 * tensor.norm(), name
    assert int(fused["bn1.num_batches_tracked"]) == 3
    losses = [t.take_reading().loss for t in trainings]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_saving_memory_does_not_change_a_training_with_kernels(tiny, precision):
    if not whole.available({"fp32": torch.float32, "bf16": torch.bfloat16}[precision]):
        pytest.skip("whole blocks need AVX2 in float32, AVX-512 BF16 without AMX in bf16")
    trainings = []
    for save_memory in (False, True):
        recipe = make_recipe(network="cifar-resnet26", save_memory=save_memory, batch=32)
        settings = Settings(precision, True, False, kernels="blocks")
        trainings.append(Trainer(make_objective(recipe, tiny), CPU, settings))
        trainings[-1].update()
    for (name, plain), (_, again) in zip(
        *(t.network.named_parameters() for t in trainings), strict=True
    ):  # rows of blocks are cut elsewhere, which rounds otherwise
        assert (again.grad - plain.grad).norm() < 0.2 * plain.grad.norm(), name
    assert all(int(t.network.layer2[1].bn2.num_batches_tracked) == 1 for t in trainings)
    assert trainings[0].take_reading().loss == trainings[1].take_reading().loss


@pytest.mark.parametrize("name", ["cuda:99", "toaster", "cpu0", "meta", "hpu", "xla"])
def test_a_device_that_does_not_exist(name):
    with pytest.raises(UserError, match=r"--device: no device .*available: cpu"):
        devices.find_device(name)


def test_compiling_without_a_compiler_is_refused_before_anything_is_written(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"no C\+\+ compiler \(no-such-compiler\); use --set comp"):
        hardware.resolve(make_recipe(compile=True), CPU)
    assert not hardware.resolve(make_recipe(), CPU).compile


def test_pytorch_compiles_in_a_path_without_blanks(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # restored at the end
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path / "my cache"))
    hardware.prepare(make_recipe(), CPU)
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    hardware.prepare(make_recipe(compile=True), CPU)
    assert " " not in os.environ["TORCHINDUCTOR_CACHE_DIR"]
