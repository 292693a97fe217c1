"""What a matcher is called under: a context that sets the arithmetic of a forward pass, made anew for each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

Autocast = Callable[[], AbstractContextManager[object]]
