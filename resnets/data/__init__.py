"""Data: from image files to training batches and to the inputs of a test.

Read them in this order:

- `datasets`: opens a data set by its location; `archives` unpacks one first.
- `samples`: `Samples`, labelled images that are read one by one, and subsets of them.
- `folders`, `label_files`: images in folders, and the files that list their classes.
- `shards`: the same images in WebDataset tar files, in a folder or at a URL.
- `images`: decoding a file to upright RGB. `preprocessing`: the crop of a test, and normalising.
- `augmentation`: random crops of photographs. `photo_batches`, `dali_batches`: batches of them.
- `cifar`, `cifar_files`, `cifar_classes`: CIFAR-10 and CIFAR-100 as arrays, their official files,
  their names. `cifar_batches`: batches of them with crops and flips.
- `random_streams`: which random choices share a seed, and what keeps them apart.
"""
