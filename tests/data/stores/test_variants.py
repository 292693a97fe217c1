"""Which folder a rule finds, and what the user is told where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.errors import DataError
from data.records.regions import Codec, RegionRule
from data.stores.variants import find_variant, store_variants

RULE = RegionRule()


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(folder: Path, rule: RegionRule = RULE, codec: Codec | None = None) -> tuple[str, str, str | None]:
    layout, path, counts = find_variant(folder, rule, codec)
    return layout, path.name, counts and str(counts.relative_to(folder))


def test_native_comes_first_unless_another_layout_is_asked_for(tmp_path: Path) -> None:
    make(tmp_path, "feat_th0.2_max100_min10/data.mdb", "nbb_th0.2_max100_min10.json")
    make(tmp_path, "native_th0.2_max100_min10/data.mdb", "native_th0.2_max100_min10/nbb_th0.2_max100_min10.json")
    inside = "native_th0.2_max100_min10/nbb_th0.2_max100_min10.json"
    assert found(tmp_path) == ("native", "native_th0.2_max100_min10", inside)
    outside = ("published", "feat_th0.2_max100_min10", "nbb_th0.2_max100_min10.json")
    assert found(tmp_path, codec="published") == outside


def test_compressed_is_a_folder_of_its_own(tmp_path: Path) -> None:
    make(tmp_path, "feat_th0.2_max100_min10_compressed/data.mdb", "nbb_th0.2_max100_min10.json")
    assert found(tmp_path, RegionRule(compressed=True))[0] == "compressed"
    with pytest.raises(DataError, match=r"no feat_th0\.2_max100_min10, but feat_th0\.2_max100_min10_compressed"):
        found(tmp_path)


def test_without_a_count_file_the_folder_of_all_regions_is_read(tmp_path: Path) -> None:
    make(tmp_path, "all/data.mdb", "nbb.json", "feat_th0.2_max100_min10/data.mdb")
    assert found(tmp_path) == ("published", "all", "nbb.json")


def test_counts_of_all_compressed_are_computed(tmp_path: Path) -> None:
    make(tmp_path, "all_compressed/data.mdb", "nbb.json")
    assert found(tmp_path, RegionRule(compressed=True)) == ("compressed", "all_compressed", None)


def test_a_folder_without_any_count_file_is_still_read(tmp_path: Path) -> None:
    make(tmp_path, "feat_th0.2_max100_min10/data.mdb")
    assert found(tmp_path) == ("published", "feat_th0.2_max100_min10", None)


def test_a_fixed_number_never_falls_back_to_all(tmp_path: Path) -> None:
    make(tmp_path, "all/data.mdb", "nbb.json", "feat_numbb36/data.mdb")
    assert found(tmp_path, RegionRule(conf_th=-1)) == ("published", "feat_numbb36", None)
    with pytest.raises(DataError, match="no feat_numbb12, but all, feat_numbb36"):
        found(tmp_path, RegionRule(conf_th=-1, num_bb=12))


def test_counts_without_their_folder_do_not_lead_to_all(tmp_path: Path) -> None:
    make(tmp_path, "all/data.mdb", "nbb.json", "nbb_th0.2_max100_min10.json")
    with pytest.raises(DataError, match=r"no feat_th0\.2_max100_min10, but all;"):
        found(tmp_path)


def test_an_empty_or_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no image store"):
        found(tmp_path / "nowhere")


def test_half_written_variants_are_not_listed(tmp_path: Path) -> None:
    make(tmp_path, "all/data.mdb", "native_all.partial/data.mdb")
    assert store_variants(tmp_path) == ["all"]


def test_a_folder_of_pictures_alone_says_so(tmp_path: Path) -> None:
    make(tmp_path, "pictures/data.mdb")
    with pytest.raises(DataError, match="holds no regions, but pictures; choose a matcher that takes pictures"):
        found(tmp_path)
    make(tmp_path, "feat_numbb36/data.mdb")
    with pytest.raises(DataError, match=r"no feat_th0\.2_max100_min10, but feat_numbb36, pictures; set"):
        found(tmp_path)
