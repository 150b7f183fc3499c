"""Images with boxes: one form for COCO, VOC, YOLO, labelme and CSV.

- `annotations`: `BoxSet`, `AnnotatedImage` and `Object`, which everything else uses.
"""
