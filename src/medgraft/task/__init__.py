"""Tasks: their base, what they hand over, and how they are named."""

from medgraft.task.base import (
    SPLITS,
    RawInputs,
    Task,
    TaskConfig,
    TaskData,
    Variant,
    subject_split,
)

__all__ = [
    "SPLITS",
    "RawInputs",
    "Task",
    "TaskConfig",
    "TaskData",
    "Variant",
    "subject_split",
]
