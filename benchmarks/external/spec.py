"""What a trained graft is tested on besides its own cohort."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from medgraft.benchmarks.results.spec import NUMBERS_VERSION, CohortId


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ExternalSpec(_Model):
    """What a trained graft is tested on.

    Attributes:
        task: Task that reads the other cohort.
        task_options: Its options.
        task_version: Its version.
        cohort: The data.
        match: Name of a class there -> name at home, as the user says.
        plugins: Versions of the foreign distributions that take part.
        numbers_version: See :data:`medgraft.benchmarks.results.spec.NUMBERS_VERSION`.
    """

    task: str
    task_options: dict[str, Any] = Field(default_factory=dict)
    task_version: int = 1
    cohort: CohortId
    match: dict[str, str] = Field(default_factory=dict)
    plugins: dict[str, str] = Field(default_factory=dict)
    numbers_version: int = NUMBERS_VERSION

    def mark(self) -> str:
        """First 8 hex digits of the SHA-256 over the canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


class ExternalTest(_Model):
    """A test that a worker is to do once it has trained.

    Attributes:
        spec: What to test on.
        root: Folder of the cohort on this machine.
    """

    spec: ExternalSpec
    root: Path
