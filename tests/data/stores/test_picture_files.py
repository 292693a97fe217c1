"""Stores say which pictures their images are, and are compared where one names a file that the other does not."""

from __future__ import annotations

from typing import Any

import pytest

from data.stores.picture_files import other_files

FLICKR, OWN = "f_{id:012d}.npz", "{stem}.npz"


def told(texts: dict[str, Any], images: dict[str, Any], name: str) -> list[str]:
    return list(other_files(texts, images, [name]))


@pytest.mark.parametrize(("naming", "name", "file", "same"), [
    (OWN, "1.npz", "2.png", False),
    (OWN, "1.npz", "x/1.png", True),
    (OWN, "42.npz", "COCO_val2014_000000000042.jpg", False),
    (FLICKR, "f_000000000042.npz", "42.jpg", True),
    (FLICKR, "f_000000000042.npz", "COCO_val2014_000000000042.jpg", True),
    (FLICKR, "f_000000000042.npz", "43.jpg", False),
    (FLICKR, "f_000000000042.npz", "dog.jpg", False),
    ("a_{stem}.x", "a_dog.x", "pets/dog.jpg", True),
    ("a_{stem}.x", "a_dog.x", "pets/cat.jpg", False),
])  # fmt: skip
def test_a_file_is_compared_with_the_image_of_its_own_name(naming: str, name: str, file: str, same: bool) -> None:
    own, odd = {"image_naming": naming, "files": {}}, {"image_naming": naming, "files": {name: file}}
    assert bool(told(own, odd, name)) == bool(told(odd, own, name)) == (not same)
    assert not told(odd, odd, name)


def test_stores_that_say_nothing_of_files_are_not_compared() -> None:
    odd = {"files": {"1.npz": "2.png"}}
    assert not told({}, odd, "1.npz")
    assert not told(odd, {}, "1.npz")
    assert told(odd, {"files": {}}, "1.npz") == [
        "1.npz is 2.png for the captions, the picture of its own name in the store"
    ]
