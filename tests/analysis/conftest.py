"""The small hierarchies of the core's tests."""

from __future__ import annotations

from tests.core.conftest import configure

__all__ = ["configure"]
