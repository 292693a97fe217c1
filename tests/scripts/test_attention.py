"""attention.py on tiny stores and random weights: the page's numbers are the model's, and it needs nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as Tree
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from config import load
from config.errors import ConfigError, DataError
from data.batches.pairs import PairIndex
from data.files import write_json
from data.stores.image_writer import ImageWriter
from data.stores.text_store import TextWriter, caption_record
from data.words.wordpiece import SPECIAL_TOKENS, WordPiece
from model.matcher import build
from scripts import attention
from tests.support import DIM, RULE, config_of, open_index, write_config
from train.assembly.kinds import KINDS
from train.checkpointing.checkpoint import Checkpoints
from train.checkpointing.snapshot import Snapshot
from train.scoring.recall import recalls
from train.scoring.scorer import fingerprint, read_images, read_texts
from train.scoring.scores import write_scores

CAPTIONS = (
    "a red dog, a red <b>cat</b>",
    'dog "quoted" & onmouseover=alert(1)',
    "a \u200b cat",
    "</title><script>cat</script>",
    "cat red",
    "unread dog",
)
HOSTILE = (1, 3)


def put_stores(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Two captions for each of three images, of several pieces a word: the vocabulary knows letters and two words."""
    rng, letters = np.random.default_rng(seed), [chr(code) for code in range(33, 127)]
    folder.mkdir(exist_ok=True)
    vocab = [*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters), "dog", "red"]
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
    words = WordPiece(folder / "vocab.txt")
    texts, images = folder / "a.db", folder / "a_img"
    with ImageWriter(images, rule=RULE) as image_writer, TextWriter(texts, words.meta) as text_writer:
        for number in range(3):
            count, name = 3 + number, f"scene_{number:06d}.npz"
            corner, size = rng.random((count, 2)) * 0.5, 0.1 + 0.4 * rng.random((count, 2))
            features = 3 * rng.standard_normal((count, DIM))
            image_writer.add(name, features, np.concatenate([corner, corner + size, size], 1), np.full(count, 0.9))
            for which in range(2):
                caption = CAPTIONS[2 * number + which]
                text_writer.add(str(2 * number + which), caption_record(words, caption, name, {"raw": caption}))
    for number in range(3):
        (folder / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (200, 150), (60 * number, 90, 90)).save(folder / "pictures" / f"scene_{number:06d}.png")
    return texts, images


def put_run(folder: Path, stores: tuple[Path, Path], **sections: dict) -> Path:
    """A run of random weights that are far from looking at everything alike."""
    folder.mkdir()
    sections["matcher"] = {"vocab_size": 300, "initializer_range": 0.3, **sections.get("matcher", {})}
    run = load(write_config(folder / "config.json", config_of(stores, **sections)), {}, KINDS)
    torch.manual_seed(1)
    Checkpoints(folder, keep=1).write(Snapshot.of(0, build(run.matcher).state_dict(), {}, {}))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, tuple[Path, Path]]:
    """A folder that holds a run and its stores; not to be written to."""
    folder = tmp_path_factory.mktemp("attention")
    stores = put_stores(folder / "stores")
    return put_run(folder / "run", stores), stores


@pytest.fixture
def write(made, read_page, tmp_path):
    """write(*flags) makes the page of the run and returns it."""

    def make(*flags, run: Path | None = None):
        pictures = made[1][0].parent / "pictures"
        words = [run or made[0], "--pictures", pictures, "--output", tmp_path / "page.html", *flags]
        assert attention.main([str(word) for word in words]) == 0
        return read_page(tmp_path / "page.html")

    return make


def copied(made, folder: Path) -> Path:
    """A run of one's own, on the same stores."""
    return shutil.copytree(made[0], folder, symlinks=True)


def watched(run: Path, index: PairIndex, image: int, text: int) -> tuple[float, dict[str, np.ndarray]]:
    """Score and blocks of one pair alone."""
    matcher = build(load(run / "config.json", {}, KINDS).matcher).eval()
    matcher.load_state_dict(weights_of(run))
    only = torch.zeros(1, dtype=torch.int64)
    with torch.inference_mode():
        images = matcher.encode_image(read_images(index, [image]))
        scores, found = matcher.score_with_attention(
            images, matcher.encode_text(read_texts(index, [text])), only, only, only
        )
    blocks = found.blocks()
    return scores.item(), {name: getattr(blocks, name)[0].double().numpy() for name in ("own", "out", "back", "other")}


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "ckpt" / "latest" / "model.safetensors")


def told(page, kind: str) -> list[str]:
    """The weights in percent that the tips of one kind of mark tell, in order: rows of tables, words of lists."""
    return [re.search(r": ([\d.]+) %$", attrs["title"])[1] for name, attrs in page.tags if name == kind
            and "title" in attrs]


def percents(weights: np.ndarray) -> list[str]:
    return [f"{100 * weight:.1f}" for weight in weights.flatten().tolist()]


def test_the_numbers_are_the_models(made, write):
    run, stores = made
    page, index = write("--pairs", "scene_000002:4"), open_index(stores)
    score, blocks = watched(run, index, 2, 4)
    # "cat red": c ##a ##t, red.
    cat, red = [0, 1, 2], [3]
    assert blocks["own"].shape == (4, 4)
    own = np.array([[blocks["own"][np.ix_(one, other)].sum(1).mean() for other in (cat, red)] for one in (cat, red)])
    out = np.array([blocks["out"][one].mean(0) for one in (cat, red)])
    back = np.stack([blocks["back"][:, one].sum(1) for one in (cat, red)], 1)
    assert blocks["other"].std() > 0.01
    assert told(page, "td") == percents(blocks["other"]) + percents(own)
    assert told(page, "span") == percents(back)
    boxes = re.findall(r"<title>(\w+) → region (\d+): ([\d.]+) %</title>", page.source)
    seen = {(word, int(region)): weight for word, region, weight in boxes}
    assert len(boxes) == len(seen) == out.size
    assert percents(out) == [seen[word, region] for word in ("cat", "red") for region in range(1, 6)]
    assert f"score {score:.3g}" in page.text
    for word, weights in zip(("cat", "red"), out, strict=True):
        most = weights.argmax()
        assert f"<b>{word}</b> region&nbsp;{most + 1}, {100 * weights[most]:.1f}&nbsp;%" in page.source
    assert page.count("rect", **{"class": "most"}) == len(out)


def test_boxes_lie_where_the_store_says_and_shades_follow_the_weights(made, write):
    page, index = write("--pairs", "scene_000002:4"), open_index(made[1])
    boxes = read_images(index, [2]).boxes.numpy()[:, :4]
    for number, (x1, y1, x2, y2) in enumerate((boxes * (400, 300, 400, 300)).tolist(), 1):
        width, height = f"{x2 - x1:.1f}", f"{y2 - y1:.1f}"
        wanted = f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{width}" height="{height}"><title>region {number}</title>'
        assert wanted in page.source
    strengths = [float(attrs["style"].removeprefix("--s:")) for name, attrs in page.tags
                 if name == "rect" and "style" in attrs]
    assert len(strengths) == 2 * len(boxes)
    for panel in (strengths[: len(boxes)], strengths[len(boxes) :]):
        assert max(panel) == 1
        assert min(panel) < 0.99


def test_the_page_is_whole_and_holds_each_picture_once(write):
    page = write("--pairs", "scene_000000:0", "scene_000000:1", "scene_000002:4")
    assert page.open == []
    assert page.fetched
    assert all(value.startswith(("data:image/jpeg;base64,", "#")) for value in page.fetched)
    assert page.count("image", href="data:image/jpeg") == 2
    for forbidden in ("http://", "https://", "@import", "<script", "url("):
        assert forbidden not in page.source
    assert "prefers-color-scheme: dark" in page.source
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    used = [attrs["href"].removeprefix("#") for name, attrs in page.tags if name in ("use", "a")]
    assert set(used) <= ids
    for svg in re.findall(r"<svg.*?</svg>", page.source, re.DOTALL):
        Tree.fromstring(svg)
    drawn = [attrs for name, attrs in page.tags if name == "svg" and attrs.get("role") == "img"]
    assert all(attrs["aria-label"] for attrs in drawn)
    assert len(drawn) == 3 + page.count("figure", **{"class": "panel"})


@pytest.mark.parametrize(("pair", "words"), [
    ("scene_000000:0", ["a", "red", "dog,", "a", "red", "<b>cat</b>"]),
    ("scene_000002:5", ["unread", "dog"]),
])
def test_one_panel_a_word(pair, words, write):
    page = write("--pairs", pair)
    assert re.findall(r"<figcaption><b>(.*?)</b>", page.source) == [
        word.replace("<", "&lt;").replace(">", "&gt;") for word in words]


def test_words_that_yield_no_piece_leave_the_others_whole(write):
    page = write("--pairs", "scene_000001:2")
    assert re.findall(r"<figcaption><b>(.*?)</b>", page.source) == ["a", "cat"]


@pytest.mark.parametrize("number", HOSTILE)
def test_hostile_captions_are_text(number, write):
    page = write("--pairs", f"scene_{number // 2:06d}:{number}")
    assert f"\n{CAPTIONS[number]}\n" in page.text
    assert page.count("script") == 0
    assert not [name for name, attrs in page.tags if any(key.startswith("on") for key in attrs)]
    assert page.open == []


def test_pairs_are_drawn_by_the_seed(write):
    shown = [re.findall(r"caption (\d+)", write("--count", 3, "--seed", seed).text) for seed in (0, 0, 1, 2, 3)]
    assert shown[0] == shown[1]
    assert len(set(shown[0])) == 3
    assert len({tuple(each) for each in shown}) > 1


def test_captions_of_a_file_are_shown(write, tmp_path):
    entry = {"image_id": "scene_000000", "split": "test", "captions": ["A cat <seen> elsewhere."]}
    (tmp_path / "captions.jsonl").write_text(json.dumps(entry))
    page = write("--pairs", "scene_000000:0", "--captions", tmp_path / "captions.jsonl")
    assert '<h2 id="pair-1">A cat &lt;seen&gt; elsewhere.</h2>' in page.source


def test_the_place_of_the_right_picture(made, write, tmp_path):
    run, index = copied(made, tmp_path / "run"), open_index(made[1])
    assert "holds no score matrix" in write("--pairs", "scene_000001:2", run=run).text
    matrix = np.zeros((3, 6), np.float32)
    matrix[0, 2], matrix[1, 4], matrix[2, 4] = 1, 0.5, 0.25
    matcher = build(load(run / "config.json", {}, KINDS).matcher)
    matcher.load_state_dict(weights_of(run))
    (run / "scores" / "test").mkdir(parents=True)
    write_json(run / "results.json", {"test": {"recalls": recalls(matrix, index.owner), "ties": "pessimistic"}})
    write_scores(run / "scores" / "test", matrix, index, f"{fingerprint(matcher, index)}-off-float32")
    assert "right picture at place 3 of 3" in write("--pairs", "scene_000001:2", run=run).text
    page = write("--pairs", "scene_000000:4", run=run)
    assert "a wrong pair: the caption is of scene_000002" in page.text
    assert "right picture at place 2 of 3" in page.text
    assert "not told" not in page.text
    write_json(run / "results.json", {"test": {"recalls": recalls(matrix, index.owner), "ties": "optimistic"}})
    assert "right picture at place 2 of 3" in write("--pairs", "scene_000001:2", run=run).text
    write_json(run / "results.json", {"test": {"recalls": recalls(matrix, index.owner), "ties": "index"}})
    assert "right picture at place 2 of 3" in write("--pairs", "scene_000001:2", run=run).text
    assert "right picture at place 3 of 3" in write("--pairs", "scene_000002:5", run=run).text, "all three are equal"
    write_scores(run / "scores" / "test", matrix, index, "other-off-float32")
    page = write("--pairs", "scene_000001:2", run=run)
    assert "was made with other weights or stores" in page.text
    assert "right picture at place" not in page.text


def test_other_stores_and_weights_than_the_runs(made, write, tmp_path):
    texts, images = put_stores(tmp_path / "other", seed=7)
    first = write("--pairs", "scene_000002:4")
    others = write("--pairs", "scene_000002:4", "--txt_db", texts, "--img_db", images)
    assert str(images) in others.text
    assert told(first, "td") != told(others, "td")
    again = write("--pairs", "scene_000002:4", "--img_db", made[1][1], "--checkpoint", made[0] / "ckpt" / "latest")
    assert told(again, "td") == told(first, "td")


@pytest.mark.parametrize(("flags", "kind", "said"), [
    (["--pairs", "scene_000001"], ConfigError, "--pairs scene_000001: should be IMAGE:CAPTION_ID, such as scene_0000"),
    (["--pairs", "scene_000009:2"], DataError, "holds no 'scene_000009'; near: scene_0000"),
    (["--pairs", "scene_000001:17"], DataError, "holds no '17'; near: "),
    (["--count", "7"], ConfigError, "--count 7: the split has 6 captions; give 1 to 6"),
    (["--count", "0"], ConfigError, "--count 0: the split has 6 captions"),
    (["--checkpoint", "none"], DataError, "no such checkpoint"),
    (["--output", "none/page.html"], ConfigError, "there is no folder none; make it"),
    (["--pictures", "none"], DataError, "none: neither a folder nor a tar of pictures"),
    (["--txt_db", "none.db"], DataError, "there is no text store none.db"),
    (["--captions", "none.jsonl"], DataError, "none.jsonl"),
])
def test_bad_flags_are_refused(flags, kind, said, write, tmp_path):
    with pytest.raises(kind, match=re.escape(said)) as caught:
        write(*flags)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "page.html").exists()


def without_stores(run: Path) -> None:
    content = json.loads((run / "config.json").read_text())
    del content["data"]["test_txt_db"], content["data"]["test_img_db"]
    write_json(run / "config.json", content)


def with_parity_switch(run: Path) -> None:
    content = json.loads((run / "config.json").read_text())
    content["matcher"]["hn_image_gather_offset"] = "last_caption"
    write_json(run / "config.json", content)


@pytest.mark.parametrize(("spoil", "kind", "said"), [
    (lambda run: (run / "config.json").unlink(), ConfigError, "is a folder of other things (ckpt); give the output"),
    (lambda run: shutil.rmtree(run / "ckpt"), DataError, "holds no checkpoint; name one with --checkpoint PATH"),
    (with_parity_switch, ConfigError, "matcher uniter with these settings offers no attention"),
    (without_stores, ConfigError, "names no stores of test; give --txt_db and --img_db"),
])
def test_runs_that_cannot_be_watched_are_refused(spoil, kind, said, made, write, tmp_path):
    run = copied(made, tmp_path / "run")
    spoil(run)
    with pytest.raises(kind, match=re.escape(said)) as caught:
        write(run=run)
    assert "\n" not in str(caught.value)


def test_a_missing_or_damaged_picture_is_named(made, write, tmp_path):
    pictures = shutil.copytree(made[1][0].parent / "pictures", tmp_path / "pictures")
    (pictures / "scene_000000.png").unlink()
    (pictures / "scene_000001.png").write_bytes(b"no picture")
    for pair in ("scene_000000:0", "scene_000001:2"):
        with pytest.raises(DataError, match=f"holds no readable picture of {pair[:12]}: it .*; name its folder"):
            write("--pairs", pair, "--pictures", pictures)
    write("--pairs", "scene_000002:4", "--pictures", pictures)


def test_from_the_command_line(made, tmp_path):
    script, pictures = Path(attention.__file__), made[1][0].parent / "pictures"
    run = copied(made, tmp_path / "run")
    done = subprocess.run([sys.executable, script, run, "--pictures", pictures], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(run / "attention.html")
    assert (run / "attention.html").is_file()
    shutil.rmtree(run / "ckpt")
    failed = subprocess.run([sys.executable, script, run, "--pictures", pictures], capture_output=True, text=True)
    assert failed.returncode == 3
    assert len(failed.stderr.splitlines()) == 1
