"""Numbers of the random streams: they keep choices apart that depend on the same seed.

A generator is seeded with `[seed, stream, ...]`, for example `[seed, CROP, epoch, image]`. Another
number here means other batches: a training that is resumed would not continue as it began.
"""

EPOCH = 1
"""The order of the images in an epoch; for CIFAR-10 its crops and flips, too."""
FIRST_FLIPS = 2
"""Which images of CIFAR-10 are mirrored in the first epoch, where flips alternate."""
TEST_SPLIT = 2
"""Which photographs are set aside for testing."""
SUBSET = 3
"""The subset of a data set for short trainings and tests; its seed is always 0."""
CROP = 4
"""Crop, flip and colours of a photograph."""
MEAN_SAMPLE = 5
"""The photographs that the mean image is made of."""
BOX_VIEW = 6
"""Scale and flip of an image with boxes."""
REGIONS = 7
"""Which anchors and regions of an image are trained on."""
