"""Exports of models to other engines, calibrated and compared with their sources.

Read the modules in this order:

- `exporter`: the folder of an export (`resnets export`), with its `options`.
- `classifier_export`, `detector_export`: what is written for each, and what it must pass.
- `int8`: the int8 file of a model (`resnets quantize`).
- `calibration`: the images to calibrate and to test with, and int8 by NNCF.
- `network_file`: the network as OpenVINO IR, ONNX or a program of torch.export.
- `acceptance`: what an export must pass, by `parity` (outputs), `accuracy` (top-1) and its speed.
- `detector_file`, `detector_parity`, `detector_card`: the same for detectors.
- `model_card`: the README of an export.

What `resnets.inference` needs to run an export lives there: `export_folder`, `engines`.
"""
