"""One file among thousands: whatever a library raises over it is that file's fault, and is counted by its reason.

Libraries that read medical files raise whatever they stumble over (nibabel an ``OverflowError`` at a negative size or
an ``AttributeError`` at a CIFTI header, pydicom a ``TypeError`` at an empty field), and each new library will have its
own. Every reader of samples opens its files inside :func:`one_file`; the harness puts the same boundary around readers
that it does not know.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from medgraft.errors import DataError, MedgraftError
from medgraft.files.limits import changed_limits


@contextmanager
def one_file(path: str | Path, what: str, reason: str = "", remedy: str = "copy it again") -> Generator[None]:
    """Turns whatever is raised inside into a :class:`DataError` that names the file.

    An interrupt and an exit pass through, and so does a ``MemoryError``: readers check what a header claims before they
    allocate, so memory that is missing all the same is missing on the machine.

    Args:
        path: The file, or what else to call the sample.
        what: What it should be, with its article: ``"a DICOM image"``.
        reason: A few words to count it by, without a name or number; the kind of what was raised where it is empty.
        remedy: What to do about it.

    Raises:
        DataError: Something was raised that is no error of medgraft already.
    """
    try:
        yield
    except (MedgraftError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", "no such file") from error
    except Exception as error:  # the point of this function: each library has its own kinds
        words = reason or f"{type(error).__name__} while reading"
        text = " ".join(str(error).split())[:300]
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
        raise DataError(f"{path} cannot be read as {what} ({text}); {remedy}", words) from error


def reading_facts(version: int) -> str:
    """What decides how files are read besides their content, for the fingerprint of samples.

    Args:
        version: Of the reader; raised whenever it reads the same file differently.
    """
    return f"reader {version} {changed_limits() or ''}".strip()
