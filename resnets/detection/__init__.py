"""Detection and localization on this project's networks (appendices A and C of the paper).

- `pooling`: features of regions by RoIAlign or RoI pooling.
- `proposals`: the region proposal network. `regions`: the last stage for every region.
- `masks`: the shape of a region's object; `mask_pixels`: masks in their images.
- `detector`: all on one network. `objective`: its training. `model`: a trained detector in use.
- `alternating`: Faster R-CNN's four steps. `search`: tests with the improvements of appendix B,
  which are `refinement`, `scales` and `ensemble`; `improvements` says which a test has.
- `evaluation`: all that is measured of a detector; `results_file`: detections as COCO results.
- `localizer`: a box for every class (appendix C). `localization`: its training.
  `localizer_model`: a trained one in use. `localizer_evaluation`: its tests.
- `metrics`: how good detections are. `pictures`: detections drawn into images.
"""
