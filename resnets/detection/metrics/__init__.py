"""How good detections are: average precision by COCO and VOC, and what kind of mistakes they have.

- `detections`: `Detections`, the input of every metric; overlaps of boxes.
- `coco`: COCO's twelve numbers. `voc`: the numbers of VOC 2007 and 2012.
- `errors`: TIDE's six types of errors.
- `pairing`: confusions with background, and the images with the most errors.
- `matching`: which detection finds which object, for curves. `intervals`: the bootstrap.
"""
