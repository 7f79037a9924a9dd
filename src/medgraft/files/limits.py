"""Upper limits on what a file may ask of the machine, each with a name that a person can raise.

A small file can claim or unpack to more than a machine holds: a header of 32767 voxels a side, a thousand zeros per
byte, a document that repeats itself. Every reader asks here before it allocates or unpacks, and what goes beyond ends
in an error that names the limit. They are set in the environment as whole numbers, with K, M or G for 1024, 1024^2 and
1024^3 where wanted: ``MEDGRAFT_MAX_VOXELS=512M``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import NamedTuple

from medgraft.errors import ConfigError, MedgraftError, UnknownNameError

PREFIX = "MEDGRAFT_MAX_"


class Limit(NamedTuple):
    """One limit.

    Attributes:
        default: Its value where the environment has none.
        meaning: What it bounds, as it stands in the documentation.
    """

    default: int
    meaning: str


LIMITS = {
    "MEDGRAFT_MAX_PIXELS": Limit(64 << 20, "pixels of one image"),
    "MEDGRAFT_MAX_VOXELS": Limit(128 << 20, "voxels of one volume"),
    "MEDGRAFT_MAX_SERIES_VOXELS": Limit(1 << 30, "voxels of all volumes of one run of fMRI together"),
    "MEDGRAFT_MAX_UNPACKED_BYTES": Limit(
        1 << 30, "bytes that one compressed table, DICOM file or member of an archive of weights unpacks to"
    ),
    "MEDGRAFT_MAX_RATIO": Limit(200, "unpacked over packed size of those, from 64 MiB unpacked on"),
    "MEDGRAFT_MAX_HEADER_BYTES": Limit(
        32 << 20, "bytes of the header of a safetensors file, or of the pickle of a PyTorch file"
    ),
    "MEDGRAFT_MAX_PICKLE_OPERATIONS": Limit(4 << 20, "operations of the pickle in a PyTorch file"),
    "MEDGRAFT_MAX_DOCUMENT_BYTES": Limit(16 << 20, "bytes of a YAML or JSON file"),
    "MEDGRAFT_MAX_DOCUMENT_DEPTH": Limit(64, "levels of nesting in a YAML or JSON file"),
    "MEDGRAFT_MAX_DOCUMENT_NODES": Limit(256 << 10, "values in a YAML file, repeated ones counted each time"),
}
"""Name in the environment -> the limit."""

RATIO_FROM = 64 << 20
"""Unpacked bytes below which nothing is said of the ratio: what is small harms nobody."""


def limit(name: str) -> int:
    """The limit of that name: the environment's, else the default.

    Args:
        name: A key of :data:`LIMITS`.

    Raises:
        ConfigError: The environment's value is no whole number above zero.
        UnknownNameError: The environment sets a ``MEDGRAFT_MAX_`` that does not exist.
    """
    for variable in os.environ:
        if variable.startswith(PREFIX) and variable not in LIMITS:
            raise UnknownNameError("limit", variable, LIMITS)
    text = os.environ.get(name, "").strip()
    if not text:
        return LIMITS[name].default
    match = re.fullmatch(r"([0-9]{1,15})([kmg]?)", text.lower())
    value = int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2]] if match else 0
    if value < 1:
        raise ConfigError(f"{name}={text} is no limit; give a whole number above 0, such as 500000, 64M or 2G")
    return value


def changed_limits() -> dict[str, int]:
    """The limits that the environment sets to another value than the default.

    What was left out under one limit may be readable under another, so caches keep them among their facts.

    Raises:
        ConfigError: As :func:`limit`.
    """
    limits = {name: limit(name) for name in LIMITS}
    return {name: value for name, value in limits.items() if value != LIMITS[name].default}


def within(name: str, value: int, what: str, error: Callable[[str], MedgraftError]) -> None:
    """Refuses what is beyond a limit.

    Args:
        name: The limit.
        value: What the file asks for.
        what: The file and its claim, as the start of a sentence: ``"a.nii holds 10^9 voxels"``.
        error: Makes the error of the sentence; its class, as a rule.

    Raises:
        MedgraftError: ``value`` is beyond; what ``error`` makes, naming the limit.
    """
    highest = limit(name)
    if value > highest:
        raise error(f"{what}, more than {name} allows ({highest:,}); raise that variable if the file is sound")


def within_unpacked(packed: int, unpacked: int, what: str, error: Callable[[str], MedgraftError]) -> None:
    """Refuses what unpacks to too much, by its size or in proportion to the packed size.

    Args:
        packed: Bytes read so far.
        unpacked: Bytes that they unpack to.
        what: The file, as the start of a sentence.
        error: Makes the error of the sentence; its class, as a rule.

    Raises:
        MedgraftError: As :func:`within`.
    """
    within("MEDGRAFT_MAX_UNPACKED_BYTES", unpacked, f"{what} unpacks to {unpacked:,} bytes or more", error)
    if unpacked > RATIO_FROM:
        ratio = unpacked // max(packed, 1)
        within("MEDGRAFT_MAX_RATIO", ratio, f"{what} unpacks to {ratio:,} times its size", error)
