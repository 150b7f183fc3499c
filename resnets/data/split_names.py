"""Names of splits: of folders of images, of shards, and in tables.

Annotations with boxes have their own rule, `boxes.source.split_of`, for names such as
`instances_val2017.json`.
"""

from __future__ import annotations

import re
from typing import Literal

Split = Literal["train", "val", "test"]
_WORDS: dict[str, Split] = {  # of several folders to test on, that of the first word is used
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "eval": "test",
}  # fmt: skip
_THINGS = ("set", "images", "imgs", "data", "split")
"""What may follow the word, and a year after it: `train_set`, `Test images`, `val2017`."""
_NAME = re.compile(
    rf"({'|'.join(_WORDS)})([-_. ]?({'|'.join(_THINGS)}))?([-_. ]?\d{{4}})?", re.IGNORECASE
)
_ALONE = frozenset(_WORDS) - {"dev", "testing", "eval"}
_TESTED = "|".join(word for word, split in _WORDS.items() if split != "train")
_TESTED_WORD = re.compile(rf"(?<![a-z])({_TESTED})({'|'.join(_THINGS)})?(?![a-z])", re.IGNORECASE)


def split_of(name: str) -> Split | None:
    """The split that a name means, in any letter case; None if it means none."""
    found = _NAME.fullmatch(name)
    return _WORDS[found[1].lower()] if found else None


def means_a_split_alone(name: str) -> bool:
    """Whether a folder of this name is a split also where no other split lies next to it."""
    return name.lower() in _ALONE


def rank(name: str) -> int:
    """The place of a split's name in the order in which folders to test on are chosen."""
    found = _NAME.fullmatch(name)
    return list(_WORDS).index(found[1].lower()) if found else len(_WORDS)


def has_test_word(text: str) -> bool:
    """Whether a word of this text, such as the name of a shard, means a split to test on."""
    return bool(_TESTED_WORD.search(text))
