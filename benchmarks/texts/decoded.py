"""What was decoded so far, kept batch by batch, so that a run that was killed goes on where it stopped.

A file of JSON lines, one for each batch, written as soon as the batch is decoded. A line that a kill cut off is no
JSON and is left out; its batch is decoded again. Batches are found by their samples: a text may depend, in its last
bits of rounding or by a draw, on the batch that it was decoded in, so a batch is taken whole or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medgraft.language_model import Generated


class DecodedFile:
    """Decoded batches in a file.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._batches: dict[tuple[int, ...], Generated] = {}
        if path.is_file():
            for line in path.read_bytes().split(b"\n"):
                if (read := _read(line)) is not None:
                    self._batches[read[0]] = read[1]

    def __len__(self) -> int:
        return len(self._batches)

    def get(self, samples: Sequence[int]) -> Generated | None:
        """What was decoded for a batch; ``None`` where it was not."""
        return self._batches.get(tuple(map(int, samples)))

    def put(self, samples: Sequence[int], made: Generated) -> None:
        """Keeps what was decoded for a batch; it is on the disk when this returns.

        Raises:
            OSError: It cannot be written.
        """
        key = tuple(map(int, samples))
        self._batches[key] = made
        content = {"samples": key, "texts": made.texts, "ids": made.ids, "endings": made.endings}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            # A line begins anew, whatever a kill left before it.
            file.write(b"\n" + json.dumps(content).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _read(line: bytes) -> tuple[tuple[int, ...], Generated] | None:
    """A batch of a line; ``None`` where a kill cut it off."""
    try:
        content: Any = json.loads(line)
        samples = tuple(int(each) for each in content["samples"])
        texts, endings = tuple(map(str, content["texts"])), tuple(content["endings"])
        ids = tuple(tuple(int(token) for token in row) for row in content["ids"])
    except (ValueError, KeyError, TypeError):
        return None
    if not len(samples) == len(texts) == len(ids) == len(endings):
        return None
    return samples, Generated(texts, ids, endings)
