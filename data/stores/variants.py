"""The LMDB folder below `img_db/<split>/` that fits a rule for the number of regions."""

from __future__ import annotations

from pathlib import Path

from config.errors import DataError
from config.paths import Kind, describe_mismatch, inspect_path, store_folders
from data.records.regions import Codec, RegionRule

PICTURES = "pictures"
"""The folder of a split's pictures themselves, beside those of its regions."""


def find_variant(folder: Path, rule: RegionRule, codec: Codec | None) -> tuple[Codec, Path, Path | None]:
    """Layout, LMDB folder and count file for a rule.

    Native comes before the published layout that the rule names, unless `codec` insists on one. As published,
    a store without the rule's count file is read from the folder of all regions, where there is one. The count
    file is None where the number of regions is fixed, or has to be computed from the confidences.

    Raises:
        DataError: there is no such folder; the message lists those there are.
    """
    published: Codec = "compressed" if rule.compressed else "published"
    for layout in (codec,) if codec else ("native", published):
        path, counts = folder / rule.folder_name(layout), _count_file(folder, rule, layout)
        whole = folder / rule.folder_name(layout, keep_all=True)
        if not rule.is_fixed and counts is None and _is_store(whole):
            noted = None if layout == "compressed" else _count_file(folder, rule, layout, keep_all=True)
            return layout, whole, noted
        if _is_store(path):
            return layout, path, counts
    there = store_variants(folder)
    if inspect_path(folder).kind is not Kind.IMAGES:
        what = describe_mismatch(folder, Kind.IMAGES, "check img_db or pack one with scripts/build_imgdb.py")
        raise DataError(f"{folder} holds no image store: {what}")
    if there == [PICTURES]:
        raise DataError(
            f"{folder} holds no regions, but {PICTURES}; choose a matcher that takes pictures, or pack regions with "
            "scripts/build_imgdb.py"
        )
    raise DataError(
        f"{folder} holds no {rule.folder_name(codec or published)}, but {', '.join(there)}; set conf_th, "
        "max_bb, min_bb, num_bb and compressed to one of these, or pack it with scripts/build_imgdb.py"
    )


def _count_file(folder: Path, rule: RegionRule, codec: Codec, keep_all: bool = False) -> Path | None:
    """The file that states the region counts; None where there is none. Native stores hold it inside."""
    name = rule.count_file(keep_all)
    if name is None:
        return None
    path = (folder / rule.folder_name(codec, keep_all) if codec == "native" else folder) / name
    return path if path.is_file() else None


def _is_store(path: Path) -> bool:
    return (path / "data.mdb").is_file()


def store_variants(folder: str | Path) -> list[str]:
    """The LMDB folders that an image folder holds, in order of name."""
    return store_folders(Path(folder))
