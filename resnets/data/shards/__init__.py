"""WebDataset tar shards: images in few large files, in a folder or at a URL.

Read them in this order:

- `reader`: `Shards`, the images of a split; opening a set of shards.
- `index`: where each image is in the shards, as files and, for other writers, by a scan.
- `store`: the files of a set, in a folder, or downloaded into a cache of limited size.
- `writer`: writes a data set as shards; an interrupted writing is resumed.
"""
