"""Recordings cut into windows, filtered: the samples of tasks on EEG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field, model_validator

from medgraft.benchmarks.cohorts.eeg.recordings import Header, Unit, header, microvolts
from medgraft.benchmarks.cohorts.tables.reading import ReadReport
from medgraft.errors import DataError
from medgraft.modalities.signal import Recording
from medgraft.options import Options

ORDER = 4
NOTCH_QUALITY = 30.0
MARGIN = 1.5
"""Periods of the lowest frequency that is kept, which are filtered before and behind a window with it."""

SHARED = 0.9
"""Share of the recordings that must have a channel for baselines to read it; recordings without it do without them."""

RECORDINGS_VERSION = "recordings-1"
"""Of how files of one's own are read."""

LONGEST = 60.0
"""Seconds that are read of a recording that is one sample."""


class WindowOptions(Options):
    """How recordings become samples.

    Attributes:
        seconds: Length of a window; an encoder reads the first seconds that it takes.
        windows: Most windows of a recording, evenly spread over it and never overlapping.
        high_pass: Hz below which a recording is filtered out, both ways by a Butterworth filter of order 4; 0 for none.
        low_pass: Hz above which it is, likewise; 0 for none. None is applied at or above half of a recording's rate.
        notch: Hz of the mains, filtered out by a second-order notch of quality 30; 0 for none.
        unit: What the values are in, where a file says it wrongly.
    """

    seconds: float = Field(10.0, gt=0, le=3600)
    windows: int = Field(12, ge=1, le=10_000)
    high_pass: float = Field(0.1, ge=0)
    low_pass: float = Field(75.0, ge=0)
    notch: float = Field(50.0, ge=0)
    unit: Unit = "file"

    @model_validator(mode="after")
    def _a_band(self) -> WindowOptions:
        if self.low_pass and self.high_pass >= self.low_pass:
            raise ValueError(f"high_pass {self.high_pass:g} Hz leaves nothing below low_pass {self.low_pass:g} Hz")
        return self

    @property
    def filters(self) -> Filters:
        """The three filters."""
        return Filters(self.high_pass, self.low_pass, self.notch)


@dataclass(frozen=True)
class Filters:
    """Filters of a recording; see :class:`WindowOptions`.

    Attributes:
        high_pass: Hz, 0 for none.
        low_pass: Hz, 0 for none.
        notch: Hz, 0 for none.
    """

    high_pass: float
    low_pass: float
    notch: float

    @property
    def margin(self) -> float:
        """Seconds before and behind a window that are filtered with it, where the recording has them."""
        return MARGIN / self.high_pass if self.high_pass else 1.0

    def __call__(self, values: np.ndarray, rate: float) -> np.ndarray:
        """Channels ``[C, T]`` filtered without a shift in time, ``float64``; flat ones stay flat."""
        from scipy.signal import butter, iirnotch, sosfiltfilt, tf2sos

        half = rate / 2
        parts = []
        if self.high_pass:
            parts.append(butter(ORDER, self.high_pass, "highpass", fs=rate, output="sos"))
        if self.low_pass and self.low_pass < half:
            parts.append(butter(ORDER, self.low_pass, "lowpass", fs=rate, output="sos"))
        if self.notch and self.notch < half:
            parts.append(tf2sos(*iirnotch(self.notch, NOTCH_QUALITY, fs=rate)))
        values = np.asarray(values, np.float64)
        flat = np.ptp(values, axis=1) == 0
        for sos in parts:
            padding = min(round(self.margin * rate), values.shape[1] - 1)
            values = sosfiltfilt(sos, values, axis=1, padlen=padding)
        values[flat] = 0.0
        return values


@dataclass(frozen=True)
class Window:
    """A sample.

    Attributes:
        recording: Number of its recording.
        path: The file.
        start: First sample.
        length: Samples.
    """

    recording: int
    path: str
    start: int
    length: int


@dataclass(frozen=True)
class Cut:
    """Windows of some recordings.

    Attributes:
        windows: The samples, ``n``.
        headers: Number of a recording -> what is known of it; those that cannot be used are not there.
    """

    windows: tuple[Window, ...]
    headers: dict[int, Header]

    @property
    def channels(self) -> tuple[str, ...]:
        """Channels that nearly all recordings have (:data:`SHARED`), sorted."""
        counts = Counter(name for header in self.headers.values() for name in header.channels)
        return tuple(sorted(name for name, count in counts.items() if count >= SHARED * len(self.headers)))


def evenly(length: int, size: int, most: int) -> list[int]:
    """First samples of up to ``most`` windows of ``size`` samples, evenly spread over ``length`` without overlap.

    Example:
        >>> evenly(100, 20, 3), evenly(50, 20, 3), evenly(10, 20, 3)
        ([0, 40, 80], [0, 30], [])
    """
    count = min(most, length // size)
    if count < 2:
        return [(length - size) // 2] * count
    return [int(start) for start in np.linspace(0, length - size, count)]


def cut(
    paths: Sequence[str],
    options: WindowOptions,
    report: ReadReport,
    bids_root: str = "",
    starts: Callable[[int, Header], list[int]] | None = None,
) -> Cut:
    """Windows of recordings; those that cannot be used are counted.

    Args:
        paths: The files.
        options: How they are cut.
        report: Takes counts of what is left out, and notes.
        bids_root: The BIDS folder of the files, if they are in one.
        starts: Number of a recording and its header -> first samples of its windows; evenly spread unless given.

    Raises:
        DataError: Nothing is left.
    """
    windows: list[Window] = []
    headers: dict[int, Header] = {}
    for i, path in enumerate(paths):
        try:
            facts = header(path, bids_root)
        except DataError as error:
            report.skip(f"a recording left out: {error.reason or 'unreadable'}", str(error))
            continue
        size = round(options.seconds * facts.rate)
        begins = starts(i, facts) if starts else evenly(facts.length, size, options.windows)
        if not begins and starts is None:
            report.skip(f"a recording shorter than a window of {options.seconds:g} s", path)
            continue
        headers[i] = facts
        windows += [Window(i, path, start, size) for start in begins]
    if not windows:
        raise DataError(
            f"no window of {options.seconds:g} s can be cut from {len(paths)} recordings ({report.skipped})"
        )
    _note(headers, report)
    return Cut(tuple(windows), headers)


def _note(headers: dict[int, Header], report: ReadReport) -> None:
    """Counts what differs between recordings."""
    rates = Counter(facts.rate for facts in headers.values())
    if len(rates) > 1:
        for rate, count in sorted(rates.items()):
            report.note(f"a recording of {rate:g} Hz; the cohort has several rates, and encoders resample", count)
    bipolar = sum(facts.bipolar for facts in headers.values())
    if bipolar:
        report.note("a bipolar recording, which few encoders take", bipolar)
    if unknown := Counter(name for facts in headers.values() for name in facts.unknown):
        named = ", ".join(sorted(unknown)[:5])
        report.note(f"a channel left out whose name the 10-05 system does not know ({named})", unknown.total())


def load_recording(path: str) -> Recording:
    """A file of one's own as one sample: its first minute in microvolts, 0.1 to 75 Hz without 50 Hz.

    Raises:
        DataError: It cannot be read; see :func:`medgraft.benchmarks.cohorts.eeg.recordings.microvolts`.
    """
    facts, options = header(path), WindowOptions()  # pyright: ignore[reportCallIssue]
    length = min(facts.length, round(LONGEST * facts.rate))
    return read_window(Window(0, path, 0, length), options)


def read_window(window: Window, options: WindowOptions, bids_root: str = "") -> Recording:
    """The recording of one window in microvolts, filtered.

    Raises:
        DataError: It cannot be read; see :func:`medgraft.benchmarks.cohorts.eeg.recordings.microvolts`.
    """
    facts = header(window.path, bids_root)
    margin = round(options.filters.margin * facts.rate)
    first, stop = max(window.start - margin, 0), min(window.start + window.length + margin, facts.length)
    stop = max(stop, window.start + window.length)  # beyond the end, which reading then refuses
    wide = microvolts(window.path, bids_root, first, stop, options.unit)
    values = options.filters(wide.values, wide.rate)[:, window.start - first :][:, : window.length]
    return Recording(np.ascontiguousarray(values, np.float32), wide.channels, wide.rate)
