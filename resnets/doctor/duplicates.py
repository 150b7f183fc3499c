"""Files that show the same image, though scaled or encoded in another way.

Each image is first reduced to 64 bits (the signs of differences between neighbouring pixels of a
9x8 thumbnail). Only images whose bits nearly agree are compared, by their 32x32 thumbnails.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.data.images import decode
from resnets.data.samples import Samples
from resnets.support.errors import UserError
from resnets.support.parallel import in_threads

SIDE = 64
"""Pixels of the shorter side that images are decoded with at least."""

_BITS = 4  # most bits that may differ
_NEIGHBOURS = 8  # how far apart in a sorted list images are still compared
_PAIRS = 2048  # pairs whose thumbnails are held at once


def look(image: Image.Image) -> int:
    """The image as 64 bits: whether brightness falls from each of 9x8 pixels to the next."""
    grey = image.resize((32, 32), Image.Resampling.BOX).convert("L").resize((9, 8))
    pixels = np.asarray(grey, np.int16)
    return int.from_bytes(np.packbits(pixels[:, 1:] < pixels[:, :-1]).tobytes(), "big")


def groups(
    samples: Samples,
    digests: NDArray[np.void],
    looks: NDArray[np.uint64],
    usable: NDArray[np.bool_],
    threads: int,
) -> list[tuple[bool, NDArray[np.int64]]]:
    """Groups of two or more images that are the same, and whether to the last byte.

    Args:
        samples: the images.
        digests: hash of each file's content.
        looks: `look` of each image.
        usable: which images could be decoded; the others are in no group.
        threads: how many thumbnails are made at once.
    """
    index = np.flatnonzero(usable)
    if not len(index):
        return []
    _, first, inverse = np.unique(digests[index], return_index=True, return_inverse=True)
    heads = index[first]  # one image of each content
    head_of = _Union(len(heads))
    for a, b in _alike(samples, heads, _candidates(looks[heads]), threads):
        head_of.join(a, b)
    members: dict[int, list[int]] = defaultdict(list)
    contents: dict[int, set[int]] = defaultdict(set)
    shared = np.bincount(inverse) > 1
    for image, head in zip(index.tolist(), inverse.tolist(), strict=True):
        root = head_of.root(head)
        if shared[head] or head_of.joined[head]:
            members[root].append(image)
            contents[root].add(head)
    return [(len(contents[k]) == 1, np.array(m)) for k, m in members.items()]


class _Union:
    """Sets of numbers that grow together."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count)
        self.joined = np.zeros(count, bool)

    def root(self, a: int) -> int:
        while (parent := int(self._parent[a])) != a:
            self._parent[a] = self._parent[parent]
            a = parent
        return a

    def join(self, a: int, b: int) -> None:
        self.joined[[a, b]] = True
        self._parent[self.root(b)] = self.root(a)


def _candidates(looks: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Pairs whose bits nearly agree, (N, 2), sorted.

    The bits are sorted four times, each time beginning with another quarter; those that differ
    in few bits are neighbours in one of the four lists, but for crowded places.
    """
    found = [np.zeros((0, 2), np.int64)]
    for quarter in (0, 16, 32, 48):
        turned = looks << np.uint64(quarter)
        if quarter:
            turned |= looks >> np.uint64(64 - quarter)
        order = np.argsort(turned, kind="stable")
        for apart in range(1, min(_NEIGHBOURS + 1, len(looks))):
            a, b = order[:-apart], order[apart:]
            near = np.bitwise_count(looks[a] ^ looks[b]) <= _BITS
            found.append(np.sort(np.stack([a[near], b[near]], 1), axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _alike(
    samples: Samples, heads: NDArray[np.int64], pairs: NDArray[np.int64], threads: int
) -> Iterable[tuple[int, int]]:
    """Those of the pairs whose thumbnails agree."""

    def thumbnail(head: int) -> NDArray[np.float32] | None:
        index = int(heads[head])
        try:
            image = decode(samples.read(index), "", SIDE)
        except UserError:  # gone or changed since it was examined
            return None
        return np.asarray(image.resize((32, 32), Image.Resampling.BOX), np.float32)

    for start in range(0, len(pairs), _PAIRS):
        part = pairs[start : start + _PAIRS]
        needed = np.unique(part).tolist()
        thumbnails = dict(zip(needed, in_threads(thumbnail, needed, threads), strict=True))
        for a, b in part.tolist():
            one, other = thumbnails[a], thumbnails[b]
            if one is not None and other is not None and _agree(one, other):
                yield a, b


def _agree(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    # Encoding anew changes a thumbnail by 1 to 3 of 255; faint pictures must agree better.
    allowed = 0.5 + min(0.08 * float(one.std()), 4.5)
    return float(np.abs(one - other).mean()) <= allowed
