"""Detection: Faster R-CNN on this project's networks (appendix A of the paper).

- `pooling`: features of regions by RoIAlign or RoI pooling.
- `proposals`: the region proposal network. `regions`: the last stage for every region.
- `detector`: both on one network. `objective`: its training. `model`: a trained detector in use.
- `metrics`: how good detections are. `pictures`: detections drawn into images.
"""
