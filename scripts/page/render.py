"""Templates to self-contained pages: the style goes in, the rest is escaped, the file appears whole."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from data.files import write_text
from scripts.page.plot import plain

TEMPLATES = Path(__file__).resolve().parent.parent / "templates"


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Render a template with `values` into `path`, replacing what was there; returns the path."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": _percent, "plain": plain, "score": _score, "cosine": _cosine}
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    write_text(path, environment.get_template(template).render(style=style, **values))
    return path


def _score(value: float) -> str:
    if value == -math.inf:
        return "not scored"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def _cosine(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}"
