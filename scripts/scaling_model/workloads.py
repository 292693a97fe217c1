"""The updates that are measured here and projected: published runs, at their size or cut down, on made-up stores."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from config import load
from config.schema import Run
from scripts.benchmarks.synthetic_stores import Shape, write_stores
from train.assembly.kinds import KINDS

ROOT = Path(__file__).resolve().parents[2]
REGIONS, WORDS = 36, 13
"""Of every made-up image and caption: all alike, so that what an update takes depends on their number alone."""
RULE = Shape(0, 0, regions=(REGIONS,) * 3).rule


@dataclass(frozen=True)
class Workload:
    """An update.

    Attributes:
        name: what the tables call it.
        config: a file of config/.
        settings: what differs from it, by dotted keys.
        items: anchors of each rank, of each direction.
    """

    name: str
    config: str
    settings: dict[str, Any]
    items: int

    def plain(self) -> dict[str, Any]:
        """As JSON values; `Workload(**plain)` makes it again."""
        return asdict(self)

    def of(self, items: int) -> Workload:
        """The same with so many items."""
        return replace(self, items=items)

    def run(self, stores: tuple[Path, Path]) -> Run:
        """The checked run on these stores, without weights to start from, in float32 and in one process."""
        texts, images = map(str, stores)
        ours = {
            "data.train_txt_dbs": [texts], "data.train_img_dbs": [images], "data.n_workers": 0,
            "data.conf_th": RULE.conf_th, "data.max_bb": RULE.max_bb, "data.min_bb": RULE.min_bb,
            "data.val_txt_db": "", "data.val_img_db": "", "data.test_txt_db": "", "data.test_img_db": "",
            "weights.checkpoint": "", "optim.precision": "off", "optim.train_batch_size": self.items,
            "optim.num_train_steps": 10**6, "eval.valid_steps": 10**6, "output.log_steps": 10**6,
            "output.tensorboard": False,
        }  # fmt: skip
        return load(ROOT / "config" / self.config, ours | self.settings, KINDS)


def published(config: str) -> Run:
    """A run of config/ as it is."""
    return load(ROOT / "config" / config, {}, KINDS)


def lifelike_stores(folder: Path, width: int, vocab: int, items: int) -> tuple[Path, Path]:
    """Stores of `items` images with a caption each; features `width` wide."""
    shape = Shape(items, items, width, (REGIONS, REGIONS, REGIONS), (WORDS, WORDS), vocab, 0)
    return write_stores(folder, shape, "native")


def small_uniter(width: int, items: int, vocab: int, img_dim: int) -> Workload:
    """Hard negatives of small pools, by a joint encoder of two layers."""
    sizes = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 4 * width,
             "vocab_size": vocab, "img_dim": img_dim}
    settings = {f"matcher.{name}": value for name, value in sizes.items()}
    settings |= {"negatives.negative_size": 7, "negatives.hard_neg_size": 3}
    return Workload(f"pools {width} x {items}", "itm-flickr-hn.json", settings, items)


def small_vsrn(width: int, items: int, vocab: int, img_dim: int) -> Workload:
    """Batches of items, by a VSRN that is narrower than the published one but as deep."""
    sizes = {"embed_size": width, "img_dim": img_dim, "vocab_size": vocab, "word_dim": 64, "dim_hidden": 64,
             "dim_word": 64}
    settings = {f"matcher.{name}": value for name, value in sizes.items()}
    return Workload(f"batch {width} x {items}", "vsrn-f30k.json", settings, items)
