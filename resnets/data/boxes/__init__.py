"""Images with boxes: one form for COCO, VOC, YOLO, labelme, CSV and Tiny ImageNet.

Read them in this order:

- `annotations`: `BoxSet`, `AnnotatedImage` and `Object`, which everything else uses.
- `datasets`: `open_boxes`: finds the format and the splits of a folder.
- `coco`, `voc`, `yolo`, `labelme`, `csv_table`, `tsv_table`: the formats; `per_image`: what VOC
  and labelme share.
- `source`: what readers give, and checks of values; `files`: annotation files read safely.
- `orientation`: boxes in the frame of the upright image.
- `segments`: polygons and run lengths as masks; `run_lengths`: COCO's encoding.
- `cleaning`: boxes that no training can use.
- `conversion`: writing another format.
- `batches`: training batches; `one_class`: those of images with objects of one class.
"""
