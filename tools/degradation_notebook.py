# %% [markdown]
# # Degradation, and its cure
#
# A notebook to run cell by cell. It follows section 4 of *Deep Residual Learning for Image
# Recognition* ([arXiv 1512.03385](https://arxiv.org/abs/1512.03385)). It needs two CPU cores and
# a few minutes; CIFAR-10 (170 MB) is downloaded once. Run it from a clone of the repository:
# `pip install jupyterlab`, then `jupyter lab docs/tutorials/degradation.ipynb`.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import resnets
from resnets.analysis.deepen import check, deepen
from resnets.analysis.responses import layer_responses
from resnets.analysis.signals import measure
from resnets.data import cifar
from resnets.weights import model_file

root = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "results").is_dir())
results = root / "results" / "paper" / "cifar10-short"
colours = {20: "tab:olive", 56: "tab:red"}
torch.manual_seed(0)

# %% [markdown]
# ## 1. Plain and residual
#
# Both networks have the same layers. A residual block adds its input to its output. Between maps
# of different size the input is thinned out and padded with zeros (option A), so the shortcut has
# no parameters.

# %%
networks = {}
for name in ("cifar-plain20", "cifar-resnet20", "cifar-plain56", "cifar-resnet56"):
    networks[name] = resnets.create_model(name)
    parameters = sum(p.numel() for p in networks[name].parameters())
    print(f"{name:15} {parameters:,} parameters")

# %%
print(networks["cifar-resnet20"].layer2[0])

# %% [markdown]
# ## 2. Signals and gradients in new networks
#
# One batch of 128 images goes forward and back through each network, before any training. The
# left panel shows how large the response of each layer is, the right one how large the gradient
# is that reaches it.

# %%
data = cifar.load("cifar10")
pixels = torch.tensor(data.train.images[:128]).float() / 255
images = pixels - pixels.mean((0, 2, 3), keepdim=True)
labels = torch.tensor(data.train.labels[:128]).long()

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5))
for name, network in networks.items():
    signals = measure(network, images, labels)
    style = "--" if "plain" in name else "-"
    colour = colours[20 if name.endswith("20") else 56]
    left.plot([one.forward for one in signals], style, color=colour, label=name)
    right.semilogy([one.gradient for one in signals], style, color=colour, label=name)
left.set(title="response", xlabel="layer", ylabel="standard deviation", ylim=(0, 1.2))
right.set(title="gradient", xlabel="layer", ylabel="root mean square")
left.legend()
plt.show()

# %% [markdown]
# No signal vanishes: batch normalization keeps every response at a standard deviation of 1. No
# gradient vanishes either. But in the plain network of 56 layers it grows, on its way from the
# last layer to the first, a few thousand times; in the residual one 10 to 20 times. After 30
# updates it grows 13 times in the plain network too
# ([measurements](../analysis.md#signals-and-gradients)), and that still trains badly. Section 4.1,
# too, says that vanishing gradients are unlikely to be the reason.

# %% [markdown]
# ## 3. Figures 1 and 6: training and test errors
#
# These curves are results in the repository: 3,000 iterations instead of the paper's 64,000, two
# seeds. Dashed lines are training errors, solid lines test errors.


# %%
def load(name):
    """The values of a committed result."""
    return json.loads((results / f"{name}.json").read_text())["values"]


figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), sharey=True)
for axis, kind in zip(axes, ("plain", "resnet"), strict=True):
    for depth, colour in colours.items():
        for seed in (0, 1):
            run = load(f"cifar-{kind}{depth}-seed{seed}")
            label = f"{depth} layers" if seed == 0 else None
            axis.plot(*zip(*run["train_curve"], strict=True), "--", color=colour, linewidth=0.8)
            axis.plot(*zip(*run["test_curve"], strict=True), color=colour, label=label)
    axis.set(title=kind, xlabel="iteration", ylabel="error (%)", ylim=(0, 80))
    axis.legend()
plt.show()

# %% [markdown]
# The left panel is Figure 1: 56 plain layers are worse than 20, in training too, so this is not
# overfitting. In the right panel the order is reversed.

# %%
for kind in ("plain", "resnet"):
    for depth in colours:
        runs = [load(f"cifar-{kind}{depth}-seed{seed}") for seed in (0, 1)]
        training = np.mean([run["train_error"] for run in runs])
        test = np.mean([run["measured"]["error"] for run in runs])
        print(
            f"{kind:6} {depth} layers: training error {training:4.1f} %, test error {test:4.1f} %"
        )

# %% [markdown]
# ## 4. Figure 7: how much does each layer change?
#
# The standard deviation of each layer's response, in the trained networks, on 500 images.

# %%
models = {}
for name in networks:
    models[name] = model_file.load(str(results / f"{name}-seed0.safetensors"))

tests = torch.tensor(data.test.images[:500])
figure, axis = plt.subplots(figsize=(7, 3.5))
for name, model in models.items():
    prepare = model.normalize(torch.device("cpu"))
    responses = layer_responses(model.network, [prepare(tests)])
    style = "--" if "plain" in name else "-"
    colour = colours[20 if name.endswith("20") else 56]
    axis.plot([one.std for one in responses], style, color=colour, label=name)
axis.set(xlabel="layer", ylabel="standard deviation")
axis.legend()
plt.show()

# %% [markdown]
# Most residual blocks respond less than plain layers: they change the signal only a little. The
# paper also finds that deeper residual networks respond less than shallow ones. Its networks
# trained twenty times longer; after 3,000 iterations this is hardly visible.

# %% [markdown]
# ## 5. A deeper network that is no worse
#
# The introduction argues by construction: add layers that copy their input, and the deeper network
# gives the same outputs. Training could find this solution, but in plain networks it does not.

# %%
shallow = models["cifar-plain20"]
prepare = shallow.normalize(torch.device("cpu"))
batches = [prepare(torch.tensor(data.train.images[:500]))]
deep, agreement = deepen(shallow, "56", batches)
print(f"{deep.card['network']}: largest difference of logits {agreement.difference:.1e}")
print(f"on test images: {check(shallow.network, deep.network, [prepare(tests)]).difference:.1e}")

# %%
answers = deep.network(prepare(tests)).argmax(1).numpy()
error = 100 * np.mean(answers != data.test.labels[:500])
trained = load("cifar-plain56-seed0")["measured"]["error"]
print(f"56 plain layers by construction: {error:.1f} % wrong on 500 test images")
print(f"56 plain layers by training:     {trained:.1f} % wrong on 10,000 test images")

# %% [markdown]
# The good solution exists; the optimiser misses it. A residual network starts near it: if its
# blocks give zero, it copies its input.
#
# **To try:** replace `56` by `110` in the construction. Train your own:
# `resnets train cifar10-short --network cifar-plain32`.
