"""Weights: model files, models by name, and weights of other programs.

Read them in this order:

- `card`: what a model file says about its network, read without torch; `RUN_MODEL`, its name in
  a run folder.
- `model_file`: `Model`, and saving and loading one.
- `hub`: from a name, a file or a run folder to a model file; `hub.json` lists the downloads.
- `pretrained`: networks that start from a model's weights.
- `convert`: files of torchvision, timm, Keras, TensorFlow.js and Caffe.
"""
