"""Third-party loggers and progress bars kept off the terminal while weights are fetched and models are built."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOGGERS = ("huggingface_hub", "transformers", "timm", "open_clip", "monai", "urllib3", "httpx", "httpcore", "filelock")


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the libraries inside; what they would say is checked, and said in one sentence, by who calls them.

    Loggers and bars are as before afterwards. A library that is not imported yet is left alone.
    """
    tops = [logging.getLogger(name) for name in LOGGERS]
    below = [  # a child may have a level of its own
        each
        for name, each in logging.Logger.manager.loggerDict.items()
        if isinstance(each, logging.Logger) and name.partition(".")[0] in LOGGERS and name not in LOGGERS
    ]
    before = [(each, each.level, each.disabled) for each in (*tops, *below)]
    for each in tops:
        each.setLevel(logging.CRITICAL)  # also for children that are made inside
    for each in below:
        each.disabled = True  # setLevel() goes through every logger there is, and there are hundreds of these
    bars, root = _bars_off(), logging.getLogger()
    root.addFilter(_nothing)  # open_clip logs to the root itself; what reaches it from below passes no filter of its
    try:
        yield
    finally:
        root.removeFilter(_nothing)
        for each, level, disabled in before:
            if each.level != level:
                each.setLevel(level)
            each.disabled = disabled
        for enable in bars:
            enable()


def _nothing(record: logging.LogRecord) -> bool:
    return False


def _bars_off() -> list[Callable[[], None]]:
    """Turns progress bars off where their libraries are imported; returns what turns them on again."""
    undo: list[Callable[[], None]] = []
    if "transformers" in sys.modules:
        from transformers.utils import logging as bars

        if bars.is_progress_bar_enabled():
            bars.disable_progress_bar()
            undo.append(bars.enable_progress_bar)
    if "huggingface_hub" in sys.modules:
        from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

        if not are_progress_bars_disabled():
            disable_progress_bars()
            undo.append(enable_progress_bars)
    return undo
