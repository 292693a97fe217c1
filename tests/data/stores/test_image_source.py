"""Regions and pictures answer the same questions; lists and notes of a store are read and, where damaged, named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from config.errors import DataError
from data.stores.image_source import ImageSource, stored_meta, stored_names
from data.stores.image_store import ImageStore
from data.stores.lmdb_store import LmdbStore
from data.stores.lmdb_writer import LmdbWriter
from data.stores.picture_store import PictureView
from tests.arrays import write_image_store
from tests.drawn import write_picture_store


def test_both_kinds_of_store_are_sources(tmp_path: Path) -> None:
    names = write_image_store(tmp_path)
    write_picture_store(tmp_path, names)
    sources: list[ImageSource] = [ImageStore(tmp_path), PictureView(8).open(tmp_path)]
    assert [source.row_shape for source in sources] == [(8,), (3, 8, 8)]
    for source in sources:
        assert source.names == names
        assert source.meta["count"] == len(names)
        assert source.dim == 8
        count = int(source.counts(names[:1])[0])
        assert count <= source.index_counts(names[:1])[0]
        rows, boxes = np.empty((count, *source.row_shape), source.dtype), np.empty((count, 7), np.float32)
        source.read_into(names[0], rows, boxes, key=5)
        assert np.isfinite(boxes).all()
        assert boxes.any() == source.has_boxes
        assert rows.any()
        assert source.damaged(names) == []
        source.close()


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    with LmdbWriter(tmp_path / "store") as writer:
        writer.put("__keys__", b'["a", ')
    with pytest.raises(DataError, match=r"store: its list __keys__ is damaged .*; pack it again"):
        stored_names(LmdbStore(tmp_path / "store"))


@pytest.mark.parametrize("content", [b'{"a": 1}', b'"abc"', b"null", b"3", b'[["a"]]', b"[null]", b"[true]"])
def test_a_list_of_something_else_is_named(content: bytes, tmp_path: Path) -> None:
    with LmdbWriter(tmp_path / "store") as writer:
        writer.put("__keys__", content)
    with pytest.raises(DataError, match=r"store: its list __keys__ is no list of image names; pack it again"):
        stored_names(LmdbStore(tmp_path / "store"))


def test_notes_are_there_or_empty(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    assert stored_meta(store) == {}
    (tmp_path / "meta.json").write_text('{"count": 3}')
    assert stored_meta(store) == {"count": 3}
