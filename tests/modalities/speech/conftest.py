"""The small hierarchies and tokenizers that tests of tasks use."""

from __future__ import annotations

from tests.tasks.conftest import hierarchy_fixture, rows

__all__ = ["hierarchy_fixture", "rows"]
