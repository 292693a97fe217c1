"""A made-up but lifelike output folder: a run that learns, validates, and is evaluated on drawn pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from train.metrics.journal import Journal
from train.scoring.recall import recalls

COLOURS = {"red": (196, 62, 52), "green": (62, 140, 84), "blue": (58, 104, 170), "yellow": (222, 184, 64)}
SHAPES = ("circle", "square", "bar")


def draw_picture(path: Path, number: int) -> str:
    """A shape on a plain ground; returns what it shows."""
    rng = np.random.default_rng(number)
    colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
    ground = tuple(int(level) for level in rng.integers(170, 235, 3))
    picture = Image.new("RGB", (200, 150), ground)
    x, y, size = (int(value) for value in rng.integers((20, 15, 40), (110, 60, 80)))
    draw = ImageDraw.Draw(picture)
    if shape == "circle":
        draw.ellipse((x, y, x + size, y + size), COLOURS[colour])
    else:
        draw.rectangle((x, y, x + size, y + (size if shape == "square" else 14)), COLOURS[colour])
    picture.save(path)
    return f"a {colour} {shape}"


def make_scores(images: int, each: int, strength: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(images), each)
    hidden = rng.normal(size=(images, 12))
    words = hidden[owner] + rng.normal(size=(images * each, 12)) / strength
    return (hidden @ words.T).astype(np.float32), owner


def write_events(folder: Path, steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with Journal(folder, tensorboard=False, talk=(folder / "talk.txt").open("w")) as journal:
        journal.event("start", 0, world=2, parameters=111_000_000)
        for step in range(10, steps + 1, 10):
            done = step / steps
            loss = 0.25 * np.exp(-3 * done) + 0.03 + rng.gamma(4, 0.004)
            journal.event("train", step, loss=loss, hinge_i=loss * 0.52, hinge_t=loss * 0.48,
                          pool_r1_i=0.75 * done + rng.normal(0.1, 0.03),
                          pool_r1_t=0.6 * done + rng.normal(0.1, 0.03),
                          lr=5e-5 * min(step / (0.1 * steps), (1 - done) / 0.9), grad_norm=rng.gamma(9, 0.2),
                          pairs_per_s=rng.normal(1200, 60), anchors_per_s=rng.normal(2.8, 0.1),
                          scale=0.4 * done + rng.normal(0, 0.03), load_s=rng.gamma(2, 0.01),
                          mine_s=rng.normal(1.1, 0.04), train_s=rng.normal(0.6, 0.03),
                          reduce_s=rng.gamma(9, 0.01), update_s=0.05)
            if step % (steps // 8) < 10:
                scores, owner = make_scores(100, 5, 0.4 + done, seed)
                journal.event("valid", step, split="val", recalls=recalls(scores, owner))
    (folder / "talk.txt").unlink()


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """make_run(name, images=, each=, strength=, steps=, seed=, **optim): an output folder, pictures beside it."""

    def make(name: str = "itm-scenes", images: int = 24, each: int = 3, strength: float = 1.2,
             steps: int = 800, seed: int = 0, **optim: object) -> Path:
        folder = tmp_path / name
        (folder / "scores" / "test").mkdir(parents=True)
        write_events(folder, steps, seed)
        scores, owner = make_scores(images, each, strength, seed + 1)
        names = [f"scene_test_{number:06d}" for number in range(images)]
        write_pictures(tmp_path, names, each)
        np.save(folder / "scores" / "test" / "matrix.npy", scores)
        write_json(folder / "scores" / "test" / "ids.json",
                   {"images": [f"{name}.npz" for name in names], "texts": [str(t) for t in range(len(owner))],
                    "owner": owner.tolist()})
        write_json(folder / "results.json",
                   {"test": {"recalls": recalls(scores, owner), "images": images, "texts": len(owner),
                             "ties": "pessimistic", "checkpoint": f"step-{steps}"}})
        write_json(folder / "config.json",
                   {"seed": seed, "data": {"train_txt_dbs": ["train.db"], "test_txt_db": "gone.db"},
                    "optim": {"learning_rate": 5e-5, "num_train_steps": steps, "grad_norm": 2.0, **optim},
                    "negatives": {"negative_size": 399, "hard_neg_size": 31},
                    "matcher": {"name": "uniter"}, "objective": {"name": "hinge"}})
        return folder

    return make


def write_pictures(folder: Path, names: list[str], each: int) -> None:
    """`pictures/test/NAME.png` and captions.jsonl."""
    (folder / "pictures" / "test").mkdir(parents=True, exist_ok=True)
    with (folder / "captions.jsonl").open("w") as file:
        for number, name in enumerate(names):
            shown = draw_picture(folder / "pictures" / "test" / f"{name}.png", number)
            captions = [f"{shown} on a plain ground, seen <{way + 1}> times & more" for way in range(each)]
            entry = {"image_id": name, "file": f"{name}.png", "split": "test", "captions": captions}
            file.write(json.dumps(entry) + "\n")


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


@pytest.fixture
def change() -> Callable[[Path, Callable[[dict], None]], None]:
    """change(path, edit) edits a JSON file in place."""

    def make(path: Path, edit: Callable[[dict], None]) -> None:
        content = json.loads(path.read_text())
        edit(content)
        write_json(path, content)

    return make


class Page(HTMLParser):
    """Counts tags and keeps what a browser would fetch."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self, path):
        super().__init__()
        self.tags, self.open, self.fetched, self.text = [], [], [], ""
        self.source = path.read_text()
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.fetched += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def count(self, tag, **wanted):
        return sum(name == tag and all(wanted[key] in (attrs.get(key) or "") for key in wanted)
                   for name, attrs in self.tags)


@pytest.fixture
def read_page() -> type[Page]:
    return Page
