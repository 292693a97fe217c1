"""attention.py on LAPS with tiny picture stores and random weights: the page's numbers are the model's."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as Tree
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from config import load
from config.errors import ConfigError
from data.batches.pairs import PairIndex, Source
from data.stores.picture_store import PictureView, PictureWriter, encode_picture
from data.stores.text_store import TextStore, TextWriter, caption_record
from data.words.wordpiece import SPECIAL_TOKENS, WordPiece
from model.laps import Laps
from model.matcher import build
from scripts import attention
from tests.samples import SMALL, lively
from tests.support import config_of, write_config
from train.assembly.kinds import KINDS
from train.checkpointing.checkpoint import Checkpoints, read_weights
from train.checkpointing.snapshot import Snapshot
from train.scoring.scorer import read_images, read_texts

CAPTIONS = ("cat red", "a <b>dog</b>", "a dog", "red red cat")
GRID, SIDE = 4, 16
SWIN = {"model_type": "swin", "image_size": SIDE, "patch_size": 2, "embed_dim": 8, "depths": [1, 1],
        "num_heads": [2, 2], "window_size": 4}
Stores = tuple[Path, Path]
Write = Callable[..., Any]


def put_stores(folder: Path) -> Stores:
    """Two captions for each of two pictures, twice as wide as high; the vocabulary knows letters and two words."""
    folder.mkdir(exist_ok=True)
    (folder / "pictures").mkdir()
    letters = [chr(code) for code in range(33, 127)]
    vocab = [*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters), "dog", "red"]
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
    words, rng = WordPiece(folder / "vocab.txt"), np.random.default_rng(0)
    with PictureWriter(folder / "img") as pictures, TextWriter(folder / "a.db", words.meta) as texts:
        for number in range(2):
            name, data = f"scene_{number:06d}", io.BytesIO()
            coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
            coarse.resize((80, 40), Image.Resampling.NEAREST).save(data, "PNG")
            (folder / "pictures" / f"{name}.png").write_bytes(data.getvalue())
            pictures.put(f"{name}.npz", encode_picture(data.getvalue()))
            for which, caption in enumerate(CAPTIONS[2 * number : 2 * number + 2], 2 * number):
                texts.add(str(which), caption_record(words, caption, f"{name}.npz", {"raw": caption}))
    return folder / "a.db", folder / "img"


def put_run(folder: Path, stores: Stores, **settings: Any) -> Path:
    """A run of random weights that tell words and patches apart."""
    folder.mkdir()
    config = config_of(stores, objective={"name": "triplet"})
    del config["negatives"]
    config["matcher"] = {"name": "laps", "embed_size": 16, "vision": SMALL["vision"],
                         "text": {**SMALL["text"], "vocab_size": 300}, **settings}
    run = load(write_config(folder / "config.json", config), {}, KINDS)
    torch.manual_seed(1)
    Checkpoints(folder, keep=1).write(Snapshot.of(0, lively(build(run.matcher)).state_dict(), {}, {}))
    return folder


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    return put_stores(tmp_path_factory.mktemp("patches") / "stores")


@pytest.fixture
def write(stores: Stores, read_page: Any, tmp_path: Path) -> Write:
    """write(*flags, **settings) makes the page of a run with these settings of LAPS, and returns page and matcher."""

    def make(*flags: str, **settings: Any) -> tuple[Any, Laps]:
        run = put_run(tmp_path / f"run-{len(list(tmp_path.iterdir()))}", stores, **settings)
        pictures = stores[0].parent / "pictures"
        assert attention.main([str(run), "--pictures", str(pictures), *flags]) == 0
        matcher = build(load(run / "config.json", {}, KINDS).matcher).eval()
        matcher.load_state_dict(read_weights(run / "ckpt" / "latest"))
        assert isinstance(matcher, Laps)
        return read_page(run / "attention.html"), matcher

    return make


class Naive(NamedTuple):
    """A pair as the paper has it, with vectors of its own."""

    kept: np.ndarray
    significance: np.ndarray
    aggregated: np.ndarray
    fused: np.ndarray
    cosines: np.ndarray
    of_words: float
    of_rows: float


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


@torch.inference_mode()
def naive(matcher: Laps, stores: Stores, image: int, text: int) -> Naive:
    """One pair, step by step."""
    index = PairIndex([Source(TextStore(stores[0]), PictureView(SIDE).open(stores[1]))])
    tokens = matcher.encode_image(read_images(index, [image])).rows.values
    has_cls = len(tokens) == 1 + GRID**2
    words = matcher.encode_text(read_texts(index, [text])).rows.values.double().numpy()
    assert matcher.aggregate is not None
    logits = matcher.aggregate(tokens[None, has_cls:])[0].double().numpy()
    tokens = tokens.double().numpy()
    patches = tokens[has_cls:]
    significance = unit(patches) @ unit(patches.mean(0)) + unit(patches) @ unit(words.mean(0))
    kept = np.zeros(len(patches), bool)
    kept[np.argsort(-significance)[: len(patches) // 2]] = True
    aggregated, fused = np.zeros_like(logits), np.zeros(len(patches))
    aggregated[:, kept], fused[~kept] = softmax(logits[:, kept]), softmax(significance[~kept])
    rows = unit(np.concatenate([tokens[:has_cls], aggregated @ patches, fused[None] @ patches]))
    cosines = rows @ unit(words).T
    bent = np.where(cosines < 0, 0.1 * cosines, cosines)
    return Naive(kept, significance, aggregated, fused, cosines, bent.max(0).mean(), bent.max(1).mean())


def titles(svg: str) -> dict[tuple[int, int], str]:
    """What each patch of a drawing tells, by its row and column from 1."""
    told = re.findall(r"<rect [^>]*><title>(.*?), row (\d+), column (\d+): (.*?)</title>", svg)
    return {(int(row), int(column)): f"{what}: {value}" for what, row, column, value in told}


def drawings(page: Any, kind: str) -> list[str]:
    return re.findall(rf'<svg class="patches {kind}".*?</svg>', page.source, re.DOTALL)


def place(patch: int) -> tuple[int, int]:
    return patch // GRID + 1, patch % GRID + 1


def panels(page: Any) -> list[str]:
    return re.findall(r'<figure class="panel.*?</figure>', page.source, re.DOTALL)


def names_of(found: Naive) -> list[str]:
    numbers = range(1, len(found.aggregated) + 1)
    whole = ["whole picture"] * (len(found.cosines) - len(numbers) - 1)
    return [*whole, *(f"aggregated patch {n}" for n in numbers), "fused patch"]


def test_kept_patches_weights_and_score_are_the_models(write: Write, stores: Stores) -> None:
    page, matcher = write("--pairs", "scene_000000:3")
    found = naive(matcher, stores, 0, 3)
    (cut,) = drawings(page, "cut")
    assert titles(cut) == {place(at): f"{'kept' if kept else 'dropped'}: significance {value:.3f}"
                           for at, (kept, value) in enumerate(zip(found.kept, found.significance, strict=True))}
    mixed, fused = map(titles, drawings(page, "heats")[:2])
    assert mixed == {place(at): f"all aggregated patches: {100 * found.aggregated.mean(0)[at]:.2f} %"
                     for at in np.flatnonzero(found.kept)}
    assert fused == {place(at): f"fused patch: {100 * found.fused[at]:.2f} %" for at in np.flatnonzero(~found.kept)}
    assert f"score {found.of_words + found.of_rows:.3g}" in page.text
    assert f"<dd>{found.of_words:.3f}</dd>" in page.source
    assert f"<dd>{found.of_rows:.3f}</dd>" in page.source
    assert "a wrong pair: the caption is of scene_000001" in page.text


def pieces_of(word: str) -> int:
    """Words of the vocabulary are one piece, letters and signs one each."""
    return len(word.replace("dog", "d").replace("red", "r"))


@pytest.mark.parametrize("has_cls", [True, False])
@pytest.mark.parametrize("pair", [(0, 0), (0, 3), (1, 1), (1, 2)])
def test_each_word_is_shown_with_its_best_row(
    pair: tuple[int, int], has_cls: bool, write: Write, stores: Stores
) -> None:
    image, text = pair
    page, matcher = write("--pairs", f"scene_{image:06d}:{text}", **({} if has_cls else {"vision": SWIN}))
    found, words = naive(matcher, stores, image, text), CAPTIONS[text].split()
    ends = 1 + np.cumsum([pieces_of(word) for word in words])
    starts = [1, *ends[:-1]]
    columns = [*(list(range(*span)) for span in zip(starts, ends, strict=True)), [0], [int(ends[-1])]]
    finds, names, count = found.cosines.argmax(1), names_of(found), len(found.aggregated)
    weights = [*found.aggregated, found.fused]
    shown = panels(page)
    for panel, word, mine in zip(shown, [*words, "[CLS]", "[SEP]"], columns, strict=True):
        cosines = found.cosines[:, mine].mean(1)
        best, drawn = int(cosines.argmax()), has_cls + int(cosines[has_cls:].argmax())
        finders, label = int(np.isin(finds, mine).sum()), word.replace("<", "&lt;").replace(">", "&gt;")
        told = f"<b>{label}</b><br>{names[best]}, {cosines[best]:.2f}"
        told += f"<br>of patches: {names[drawn]}, {cosines[drawn]:.2f}" if best != drawn else ""
        told += f"<br>best word of {finders} row{'s' if finders > 1 else ''}" if finders else ""
        assert f"<figcaption>{told}</figcaption>".replace("-", "−") in panel
        assert ('class="panel other"' in panel) == (best != drawn)
        which = drawn - has_cls
        where = np.flatnonzero(found.kept if which < count else ~found.kept)
        assert titles(panel) == {place(at): f"{label} → patch: {100 * weights[which][at]:.2f} %" for at in where}


def test_patches_lie_over_the_picture_in_its_proportions(write: Write, stores: Stores) -> None:
    page, matcher = write("--pairs", "scene_000000:0")
    kept = naive(matcher, stores, 0, 0).kept
    svg = drawings(page, "cut")[0]
    assert 'viewBox="0 0 400 200.0"' in svg
    assert 'transform="scale(100.0 50.0)"' in svg
    dark = re.search(r'<path class="dim" d="(.*?)"', svg)
    assert dark is not None
    covered = np.zeros((GRID, GRID), bool)
    for column, row, length in re.findall(r"M(\d) (\d)h(\d)v1h-\3z", dark[1]):
        covered[int(row), int(column) : int(column) + int(length)] = True
    np.testing.assert_array_equal(covered.flatten(), ~kept)


def test_the_page_is_whole(write: Write) -> None:
    page, _ = write("--count", "4")
    assert page.open == []
    assert page.count("script") == 0
    assert all(value.startswith(("data:image/jpeg;base64,", "#")) for value in page.fetched)
    assert page.count("image", href="data:image/jpeg") == 2
    for forbidden in ("http://", "https://", "@import", "url("):
        assert forbidden not in page.source
    for svg in re.findall(r"<svg.*?</svg>", page.source, re.DOTALL):
        Tree.fromstring(svg)
    drawn = [attrs for name, attrs in page.tags if name == "svg" and attrs.get("role") == "img"]
    assert drawn
    assert all(attrs["aria-label"] for attrs in drawn)


def test_where_nothing_is_dropped_nothing_is_fused(write: Write) -> None:
    page, _ = write("--pairs", "scene_000001:2", sparse_ratio=1.0)
    assert "16 of 16 patches;" in page.text
    assert "fused" not in page.text
    assert 'class="dim"' not in drawings(page, "cut")[0]
    assert "These 7 rows meet the words" in page.text
    zeros, _ = write("--pairs", "scene_000001:2", sparse_ratio=1.0, extra_token="zero")
    assert "These 8 rows meet the words" in zeros.text


def test_where_rows_look_for_no_words_the_score_has_one_part(write: Write) -> None:
    page, _ = write("--pairs", "scene_000001:2", both_ways=False)
    assert "words find rows" in page.text
    assert "rows find words" not in page.text
    assert "best word of" not in page.text
    assert "plus the mean" not in page.text


def test_a_score_network_is_told_of(write: Write) -> None:
    assert "score network" not in write("--pairs", "scene_000001:2")[0].text
    assert "score network" in write("--pairs", "scene_000001:2", score_net=True)[0].text


def test_words_behind_max_word_are_named(write: Write) -> None:
    # "red red cat": the mark, two words, one of three letters.
    page, _ = write("--pairs", "scene_000001:3", max_word=3)
    assert re.findall(r"<figcaption><b>(.*?)</b>", page.source) == ["red", "red", "[CLS]"]
    assert "longer than max_word: cat [SEP]" in page.text
    partly, _ = write("--pairs", "scene_000001:3", max_word=4)
    assert re.findall(r"<figcaption><b>(.*?)</b>", partly.source) == ["red", "red", "cat", "[CLS]"]


@pytest.mark.parametrize("alignment", ["max_mean", "pooled"])
def test_an_alignment_that_slims_nothing_is_refused(alignment: str, write: Write) -> None:
    said = f"matcher laps with alignment={alignment} slims nothing, so no patches can be shown; give a run with align"
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        write(alignment=alignment)
    assert "\n" not in str(caught.value)
