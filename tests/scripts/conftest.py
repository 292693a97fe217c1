"""A made-up but lifelike output folder: a run that learns, validates, and is evaluated on drawn pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from train.journal import METRICS, Journal
from train.recall import recalls

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
            journal.event("train", step, loss=loss, loss_i=loss * 0.52, loss_t=loss * 0.48,
                          lr=5e-5 * min(step / (0.1 * steps), (1 - done) / 0.9), grad_norm=rng.gamma(9, 0.2),
                          pairs_per_s=rng.normal(1200, 60), anchors_per_s=rng.normal(2.8, 0.1), eta_s=9.0,
                          hard_margin=0.4 * done + rng.normal(0, 0.03), data_s=rng.gamma(2, 0.01),
                          mine_s=rng.normal(1.1, 0.04), train_s=rng.normal(0.6, 0.03),
                          reduce_s=rng.gamma(9, 0.01), update_s=0.05)
            if step % (steps // 8) < 10:
                scores, owner = make_scores(100, 5, 0.4 + done, seed)
                journal.event("valid", step, split="val", recalls=recalls(scores, owner))
        journal.event("done", steps)
    (folder / "talk.txt").unlink()


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """make_run(name, images=, each=, strength=, steps=, seed=, **config) writes an output folder beside `pictures`."""

    def make(name: str = "itm-scenes", images: int = 24, each: int = 3, strength: float = 1.2, steps: int = 800,
             seed: int = 0, **optim: object) -> Path:
        folder, pictures = tmp_path / name, tmp_path / "pictures" / "test"
        (folder / "scores" / "test").mkdir(parents=True)
        pictures.mkdir(parents=True, exist_ok=True)
        write_events(folder, steps, seed)
        scores, owner = make_scores(images, each, strength, seed + 1)
        np.save(folder / "scores" / "test" / "matrix.npy", scores)
        names = [f"scene_test_{number:06d}" for number in range(images)]
        texts = [f"t{number}" for number in range(images * each)]
        ids = {"images": [f"{name}.npz" for name in names], "texts": texts, "owner": owner.tolist()}
        (folder / "scores" / "test" / "ids.json").write_text(json.dumps(ids))
        with (tmp_path / "captions.jsonl").open("w") as file:
            for number, image in enumerate(names):
                shown = draw_picture(pictures / f"{image}.png", number)
                captions = [f"{shown} stands on a plain ground, seen {way + 1} times & <more>" for way in range(each)]
                file.write(json.dumps({"image_id": image, "file": f"{image}.png", "split": "test",
                                       "captions": captions}) + "\n")
        entry = {"recalls": recalls(scores, owner), "images": images, "texts": len(texts), "ties": "pessimistic",
                 "checkpoint": f"ckpt/step-{steps}"}
        (folder / "results.json").write_text(json.dumps({"test": entry}))
        config = {"seed": seed, "data": {"train_txt_dbs": ["txt_db/train.db"], "test_txt_db": "txt_db/gone.db"},
                  "optim": {"learning_rate": 5e-5, "num_train_steps": steps, "grad_norm": 2.0, **optim},
                  "negatives": {"negative_size": 399, "hard_neg_size": 31},
                  "matcher": {"name": "uniter"}, "objective": {"name": "hinge"}}
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    assert METRICS == "metrics.jsonl"
    return make
