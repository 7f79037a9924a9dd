"""Task families, one per file."""

from __future__ import annotations

from medgraft.task.names import build_task, task_class

__all__ = ["build_task", "task_class"]
