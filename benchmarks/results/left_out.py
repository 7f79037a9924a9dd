"""What was left out of a folder of results: the first few by name, the rest as counts by reason."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from medgraft.benchmarks.results.result_files import UnreadableError

logger = logging.getLogger(__name__)

NAMED = 30
"""Files that a log names; of more, it gives counts."""


@dataclass
class LeftOut:
    """Files that are no results, or contradict themselves.

    Attributes:
        files: Each with its reason.
    """

    files: list[tuple[Path, UnreadableError]] = field(default_factory=list[tuple[Path, UnreadableError]])

    @property
    def kinds(self) -> Counter[str]:
        """Kind of reason -> how many files."""
        return Counter(error.kind for _, error in self.files)

    def add(self, path: Path, error: UnreadableError) -> None:
        """Notes a file; the first :data:`NAMED` are told at once, the others where the log is asked for all (INFO)."""
        level = logging.WARNING if len(self.files) < NAMED else logging.INFO
        logger.log(level, "%s is left out: %s", path, error)
        self.files.append((path, error))

    def told(self) -> str:
        """How many files were left out for which kind of reason; empty for none.

        Example:
            >>> left = LeftOut()
            >>> left.add(Path("x.json"), UnreadableError("it is no JSON", "damaged"))
            >>> left.told()
            '1 file left out (1 damaged)'
        """
        if not self.files:
            return ""
        counts = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())
        return f"{len(self.files)} file{'s' if len(self.files) > 1 else ''} left out ({counts})"

    def tell(self) -> None:
        """Logs the counts where not every file was named."""
        if len(self.files) > NAMED:
            logger.warning("%s; the first %d are named above", self.told(), NAMED)
