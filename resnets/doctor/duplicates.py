"""Files that show the same image, even if it was scaled or encoded anew.

Each image is first reduced to a difference hash of 64 bits: whether brightness falls between
neighbouring pixels of a 9x8 thumbnail. Only images whose hashes nearly agree are compared, by
their 32x32 thumbnails.
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

DECODED_SIDE = 64
"""The least shorter side, in pixels, at which images are decoded for comparison."""

_MAX_DIFFERENT_BITS = 4
_NEIGHBOURS = 8  # how far apart in a sorted list hashes are still compared
_PAIRS_AT_ONCE = 2048  # pairs whose thumbnails are in memory together


def difference_hash(image: Image.Image) -> int:
    """The image as 64 bits: whether brightness falls from each of 9x8 pixels to the next."""
    grey = _thumbnail(image).convert("L").resize((9, 8))
    pixels = np.asarray(grey, np.int16)
    return int.from_bytes(np.packbits(pixels[:, 1:] < pixels[:, :-1]).tobytes(), "big")


def find_groups(
    samples: Samples,
    *,
    digests: NDArray[np.void],
    hashes: NDArray[np.uint64],
    usable: NDArray[np.bool_],
    threads: int,
) -> list[tuple[bool, NDArray[np.int64]]]:
    """Find the groups of two or more files that show the same image.

    Args:
        samples: the images.
        digests: cryptographic hash of each file's content.
        hashes: `difference_hash` of each image.
        usable: which images could be decoded; the others are in no group.
        threads: how many thumbnails are made at once.

    Returns:
        For each group whether its files are equal to the last byte, and its images' numbers.
    """
    index = np.flatnonzero(usable)
    if not len(index):
        return []
    _, first, content_of = np.unique(digests[index], return_index=True, return_inverse=True)
    examples = index[first]  # one image of each content
    sets = _DisjointSets(len(examples))
    for a, b in _same_pairs(samples, examples, _candidates(hashes[examples]), threads):
        sets.join(a, b)
    members: dict[int, list[int]] = defaultdict(list)
    contents: dict[int, set[int]] = defaultdict(set)
    shared = np.bincount(content_of) > 1
    for image, content in zip(index.tolist(), content_of.tolist(), strict=True):
        root = sets.root(content)
        if shared[content] or sets.joined[content]:
            members[root].append(image)
            contents[root].add(content)
    return [(len(contents[root]) == 1, np.array(group)) for root, group in members.items()]


class _DisjointSets:
    """Union-find: numbers in sets that are joined."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count)
        self.joined = np.zeros(count, bool)
        """Which numbers are in a set of two or more."""

    def root(self, a: int) -> int:
        while (parent := int(self._parent[a])) != a:
            self._parent[a] = self._parent[parent]
            a = parent
        return a

    def join(self, a: int, b: int) -> None:
        self.joined[[a, b]] = True
        self._parent[self.root(b)] = self.root(a)


def _candidates(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Pairs (N, 2), sorted, whose hashes nearly agree.

    The hashes are sorted four times, each time rotated by another quarter of the bits. Two that
    differ in few bits are neighbours in one of the four lists, unless very many are alike.
    """
    found = [np.zeros((0, 2), np.int64)]
    for bits in (0, 16, 32, 48):
        rotated = hashes << np.uint64(bits)
        if bits:
            rotated |= hashes >> np.uint64(64 - bits)
        order = np.argsort(rotated, kind="stable")
        for apart in range(1, min(_NEIGHBOURS + 1, len(hashes))):
            a, b = order[:-apart], order[apart:]
            near = np.bitwise_count(hashes[a] ^ hashes[b]) <= _MAX_DIFFERENT_BITS
            found.append(np.sort(np.stack([a[near], b[near]], 1), axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _same_pairs(
    samples: Samples, examples: NDArray[np.int64], pairs: NDArray[np.int64], threads: int
) -> Iterable[tuple[int, int]]:
    """Those of the pairs whose thumbnails agree."""

    def thumbnail(number: int) -> NDArray[np.float32] | None:
        try:
            image = decode(samples.read(int(examples[number])), "", DECODED_SIDE)
        except UserError:  # removed or changed since it was examined
            return None
        return np.asarray(_thumbnail(image), np.float32)

    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        part = pairs[start : start + _PAIRS_AT_ONCE]
        needed = np.unique(part).tolist()
        thumbnails = dict(zip(needed, in_threads(thumbnail, needed, threads), strict=True))
        for a, b in part.tolist():
            one, other = thumbnails[a], thumbnails[b]
            if one is not None and other is not None and _agree(one, other):
                yield a, b


def _thumbnail(image: Image.Image) -> Image.Image:
    return image.resize((32, 32), Image.Resampling.BOX)


def _agree(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    # Encoding anew changes a thumbnail by 1 to 3 of 255; images of low contrast must agree better.
    tolerance = 0.5 + min(0.08 * float(one.std()), 4.5)
    return float(np.abs(one - other).mean()) <= tolerance
