"""The stores of a run, opened, joined, and checked against each other and the model before the first batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from config.errors import ConfigError, DataError
from config.sections import Data, Named
from data.batches.pairs import Array, PairIndex, Source
from data.records.regions import RegionRule
from data.stores.image_source import ImageSource
from data.stores.image_store import ImageStore
from data.stores.picture_store import PICTURES, PictureView
from data.stores.text_store import TextStore
from data.stores.variants import store_variants
from train.distributed.comm import Comm


@dataclass(frozen=True)
class Split:
    """A joined split and its vocabulary; the damaged images and captions left out of it, and whether to list them."""

    index: PairIndex
    vocab_hash: str | None
    left_out: tuple[str, ...]
    listed: bool


def open_split(
    name: str, data: Data, comm: Comm, leave_out_absent: bool = False, pictures: PictureView | None = None
) -> Split:
    """Open "train", "val" or "test"; with `leave_out_absent` without the images that the image store does not hold.

    Images are region features, or `pictures` looked at in this way.

    Damaged records are looked for up front where the policy is to go on without them: ranks share the reading and
    all leave out the same ones. With the policy "fail" a damaged record stops the run when it is met.

    Raises:
        ConfigError: the split is not configured.
        DataError: stores are missing, disagree, or nothing sound is left.
    """
    pairs = store_folders(name, data)
    if not pairs:
        raise ConfigError(f"{name}_txt_db and {name}_img_db are not set; name the stores of this split")
    sources = [Source(TextStore(texts), open_images(images, data, pictures)) for texts, images in pairs]
    damaged = () if data.damaged == "fail" else find_damaged(sources, comm)
    absent = {name for source in sources for name in find_absent(source)} if leave_out_absent else set()
    left_out = tuple(sorted({*damaged, *absent}))
    index = PairIndex(sources, frozenset(left_out))
    return Split(index, shared_vocabulary(sources), left_out, data.damaged == "quarantine")


def open_images(folder: str, data: Data, pictures: PictureView | None) -> ImageSource:
    """The region features or the `pictures` of a folder; raises DataError where it does not hold them."""
    if pictures is not None:
        return pictures.open(folder)
    if store_variants(folder) == [PICTURES]:
        raise DataError(
            f"{folder} holds pictures but the matcher takes region features; name a store of regions, or choose a "
            "matcher that takes pictures (--matcher laps)"
        )
    return ImageStore(folder, RegionRule(data.conf_th, data.max_bb, data.min_bb, data.num_bb, data.compressed_db))


def find_absent(source: Source) -> set[str]:
    """The images that captions of a source speak of and its image store does not hold."""
    return set(source.texts.image_order) - set(source.images.names)


def store_folders(name: str, data: Data) -> list[tuple[str, str]]:
    """(text store, image store) pairs of a split; empty where it is not configured."""
    if name == "train":
        return list(zip(data.train_txt_dbs, data.train_img_dbs, strict=True))
    pair = (getattr(data, f"{name}_txt_db"), getattr(data, f"{name}_img_db"))
    return [pair] if all(pair) else []


def find_damaged(sources: list[Source], comm: Comm) -> tuple[str, ...]:
    """The images and captions whose records cannot be used, by name, found by all ranks together."""
    found, mine = [], slice(comm.rank, None, comm.size)
    for source in sources:
        found += [name for name, _ in source.images.damaged(comm.progress.advance_over(source.texts.image_order[mine]))]
        found += [text for text, _ in source.texts.damaged(comm.progress.advance_over(source.texts.ids[mine]))]
    return tuple(sorted({name for part in comm.all_gather_object(found) for name in part}))


def shared_vocabulary(sources: list[Source]) -> str | None:
    """The hash of the vocabulary that all text stores were packed with; None where none says."""
    known = {source.texts.vocab_hash: source.texts.folder for source in sources if source.texts.vocab_hash}
    if len(known) > 1:
        raise DataError(f"{' and '.join(map(str, known.values()))} differ in their vocabulary; pack one of them again")
    return next(iter(known), None)


def check_against_model(
    split: Split, image_dim: int, vocab_size: int, vocab_hash: str | None, uses_boxes: bool, texts: str = "matcher"
) -> None:
    """Raise DataError where a store does not fit the model: its width, boxes, word ids, or vocabulary.

    Args:
        texts: where the settings of the model's text side are (see `text_settings`).
    """
    for source in split.index.sources:
        if source.images.dim != image_dim:
            raise DataError(
                f"{source.images.path}: features are {source.images.dim} wide but the model takes {image_dim}; "
                f"set matcher.img_dim={source.images.dim} or use another store"
            )
        if uses_boxes and not source.images.has_boxes:
            raise DataError(
                f"{source.images.path}: holds features without boxes, but the model looks at boxes; "
                "use a store with boxes or choose another matcher (--matcher)"
            )
        special = source.texts.special
        # A word list has no spare ids: a model that knows more of them was trained with another one.
        if special.size > vocab_size or (special.mask is None and special.size != vocab_size):
            raise DataError(
                f"{source.texts.folder}: its vocabulary has {special.size} entries but the model knows {vocab_size}; "
                f"set {texts}.vocab_size={special.size} where the text side starts from nothing, or use another store"
            )
    if vocab_hash and split.vocab_hash and vocab_hash != split.vocab_hash:
        folder = split.index.sources[0].texts.folder
        raise DataError(
            f"{folder}: packed with vocabulary {split.vocab_hash[:12]}, but the model was trained with "
            f"{vocab_hash[:12]}; pack the store with the model's vocabulary"
        )


def check_lengths(index: PairIndex, texts: Array, longest: int | None, settings: str = "matcher") -> None:
    """Raise DataError where one of the captions `texts` has more ids than the model has positions for.

    Args:
        settings: where those of the model's text side are (see `text_settings`).
    """
    words = index.words[texts]
    if longest is None or words.max(initial=0) <= longest:
        return
    text = texts[words.argmax()]
    folder = index.sources[index.text_source[text]].texts.folder
    raise DataError(
        f"{folder}: caption {index.texts[text]} has {words.max()} ids, its marks included, but the model takes "
        f"{longest}; shorten it or leave it out (max_txt_len leaves longer ones out of training), or, where the text "
        f"side starts from nothing, set {settings}.max_position_embeddings={words.max()}"
    )


def text_settings(config: Named) -> str:
    """Where a matcher's config says how large its text side is: in itself, or in what it says of a text tower."""
    return "matcher.text" if hasattr(config, "text") else "matcher"


def write_quarantine(splits: Iterable[Split], folder: Path) -> None:
    """List what was left out of all splits beside the run's results, where that is the policy."""
    names = sorted({name for split in splits if split.listed for name in split.left_out})
    if names:
        (folder / "quarantine.txt").write_text("\n".join(names) + "\n")
