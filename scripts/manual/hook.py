"""What mkdocs calls while it builds: the generated pages of the reference join the written ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.manual.flags import programs_page
from scripts.manual.rooms import rooms_page
from scripts.manual.settings import configs_page, settings_page

PAGES = {
    "reference/settings.md": settings_page, "reference/programs.md": programs_page,
    "reference/configs.md": configs_page, "reference/rooms.md": rooms_page,
}  # fmt: skip


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for name, page in PAGES.items():
        files.append(File.generated(config, name, content=page()))
    return files
