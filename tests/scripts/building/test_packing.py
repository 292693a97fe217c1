"""What packers leave out is named and listed; what is left goes on."""

from __future__ import annotations

import pytest

from scripts.building.packing import Packed, leave_out, nothing_packed, usable


def test_only_whole_images_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    broken: list[str] = []
    images = [Packed("a", b"1"), Packed("b", error="is empty"), Packed("c", b"2", 3, 4)]
    assert list(usable(images, 3, broken)) == [images[0], images[2]]
    assert broken == ["b"]
    assert capsys.readouterr().err == "b left out: is empty\n"
    leave_out("d", "is not there")
    assert capsys.readouterr().err == "d left out: is not there\n"


def test_an_empty_store_is_an_error() -> None:
    assert str(nothing_packed(["a", "b"])) == "none of 2 inputs could be packed; see the messages above"
