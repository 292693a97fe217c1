"""A run: its settings, validated together, dumped, compared and hashed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from config.conflicts import find_conflict
from config.sections import Section, Settings


class Run(Settings):
    """everything that one run is: frozen, checked as a whole, and alone enough to repeat it"""

    @model_validator(mode="after")
    def _check_together(self) -> Run:
        clash = find_conflict(self)
        if clash:
            raise PydanticCustomError("clash", "{text}", {"text": clash.text, "keys": clash.keys})
        return self

    def dump(self) -> dict[str, Any]:
        """Return the run as plain JSON values; `config.load` makes the same run of them."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """Return the part of `dump` that decides the result."""
        return _identity(self)

    def hash(self) -> str:
        """Return 12 hex digits over everything that decides the result, stores and weights by their paths."""
        text = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _identity(section: Section) -> dict[str, Any]:
    plain = section.model_dump(mode="json")
    kept = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        extra = field.json_schema_extra
        if not (isinstance(extra, dict) and extra.get("identity") is False):
            kept[name] = _identity(value) if isinstance(value, Section) else plain[name]
    return kept
