"""Predictions by trained models: from image files to classes, features and explanations.

Read the modules in this order:

- `predictor`: `Predictor`, a model ready for use, and `open_predictor`, which opens one by name.
- `engine_choice`: which engine and precision it runs in; when int8 is used.
- `engines`: PyTorch, OpenVINO, ONNX Runtime and torch.export behind one interface.
- `deployable`, `openvino_model`, `int8_file`, `pt2`, `export_folder`: what the engines run, in
  memory and in files.
- `detector_engines`, `deployable_detector`: the same for detectors.
- `image_inputs`, `predictions`, `prediction_files`: images in, predictions out.
- `image_sources`, `web_images`: images from standard input and the web.
- `explanations`, `explanation_files`, `neighbours`: evidence for a class, and similar images.
- `object_detector`: `ObjectDetector`, the same for detectors; `tiles`, `videos`,
  `detection_results`, `detection_files`: large images, frames, results, and their files.
- `cluster`: predictions by many machines.
"""

TOP = 5
"""Classes of a prediction by default."""
