"""Object storage through fsspec: Amazon S3 and what speaks its protocol by s3fs, Google Cloud Storage by gcsfs."""

from __future__ import annotations

import datetime
import importlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medgraft.benchmarks.storage.base import SharedStorageError, Storage, Stored
from medgraft.commands.plain_text import one_line
from medgraft.errors import ConfigError

LIBRARIES = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs")}
"""Scheme -> the library and the extra that brings it."""

OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 30, "retries": {"max_attempts": 1}}},
    "gs": {},
}
TRIES = 2
"""Of each request."""

CREDENTIALS = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_ENDPOINT_URL if it is not Amazon's",
    "gs": "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS",
}
WITHOUT_CREDENTIALS = {
    "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError", "RefreshError",
    "TokenRetrievalError", "SSOTokenLoadError", "UnauthorizedSSOTokenError",
}  # fmt: skip
"""Names of the libraries' exceptions for credentials that are missing or have run out."""

WITHOUT_BUCKET = ("NoSuchBucket", "bucket does not exist", "InvalidBucketName")


class ObjectStorage(Storage):
    """A folder in a bucket.

    Args:
        url: ``s3://bucket/folder`` or ``gs://bucket/folder``.

    Raises:
        ConfigError: No bucket is named, or the library is missing.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.scheme, _, self.root = url.partition("://")
        if not self.root:
            raise ConfigError(f"{url} names no bucket; write {self.scheme}://BUCKET/FOLDER")
        self.remedy = CREDENTIALS[self.scheme]
        self._system: Any = None
        self._library()

    def read(self, name: str) -> bytes | None:
        """The content of an object; ``None`` where there is none."""
        with self._asked():
            try:
                return self._fs.cat_file(self._at(name))
            except FileNotFoundError as error:
                self._require_bucket(error)
                return None

    def write(self, name: str, data: bytes | Path) -> None:
        """Puts an object there, in place of an earlier one."""
        with self._asked():
            self._put(name, data, "overwrite")

    def create(self, name: str, data: bytes | Path) -> bool:
        """Puts an object there unless there is one."""
        with self._asked():
            try:
                self._put(name, data, "create")
            except FileExistsError:
                # A request whose answer was lost is sent again, and finds what it has made itself.
                return isinstance(data, bytes) and self.read(name) == data
            return True

    def download(self, name: str, path: Path) -> bool:
        """Copies an object to this machine; false where there is none."""
        try:
            with self._asked(writes=True):
                self._fs.get_file(self._at(name), str(path))
        except FileNotFoundError:
            return False
        return True

    def listed(self, folder: str) -> dict[str, Stored]:
        """All objects below a folder."""
        with self._asked():
            try:
                found: Mapping[str, Mapping[str, Any]] = self._fs.find(self._at(folder), detail=True)
            except FileNotFoundError as error:
                self._require_bucket(error)
                return {}
        start = len(self.root) + 1
        return {path[start:]: _facts(facts) for path, facts in found.items() if facts.get("type") == "file"}

    def facts(self, name: str) -> Stored | None:
        """Of one object; ``None`` where there is none."""
        with self._asked():
            try:
                return _facts(self._fs.info(self._at(name)))
            except FileNotFoundError as error:
                self._require_bucket(error)
                return None

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects."""
        with self._asked():
            for name in names:
                try:
                    self._fs.rm_file(self._at(name))
                except FileNotFoundError as error:
                    self._require_bucket(error)

    @property
    def _fs(self) -> Any:
        """The file system of the library, made when it is first asked, in this process."""
        if self._system is None:
            import fsspec

            # No cache of listings: what others have written since must be seen.
            options = {"skip_instance_cache": True, "use_listings_cache": False, **OPTIONS[self.scheme]}
            with self._asked():
                self._system = fsspec.filesystem(self.scheme, **options)
            self._system.retries = TRIES  # s3fs's own; a server that does not answer must not hold a sweep up
        return self._system

    def _library(self) -> None:
        library, extra = LIBRARIES[self.scheme]
        try:
            importlib.import_module(library)
        except ImportError as error:
            text = f"{self.url} needs {library}, which is not installed; run: pip install 'medgraft[{extra}]'"
            raise ConfigError(text) from error

    def _put(self, name: str, data: bytes | Path, mode: str) -> None:
        if isinstance(data, bytes):
            self._fs.pipe_file(self._at(name), data, mode=mode)
        else:
            self._fs.put_file(str(data), self._at(name), mode=mode)

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def _require_bucket(self, error: FileNotFoundError) -> None:
        if any(word in text for text in _texts(error) for word in WITHOUT_BUCKET):
            raise error

    @contextmanager
    def _asked(self, *, writes: bool = False) -> Iterator[None]:
        """Turns what the libraries raise into one sentence.

        Args:
            writes: A file of this machine is written, whose errors are not the storage's.
        """
        try:
            yield
        except SharedStorageError:
            raise
        except FileNotFoundError as error:
            if writes and not any(word in text for text in _texts(error) for word in WITHOUT_BUCKET):
                raise
            bucket = self.root.partition("/")[0]
            text = f"{self.url}: there is no bucket {bucket}; create it, or name one that exists"
            raise SharedStorageError(text, "missing") from error
        except PermissionError as error:
            if writes and error.filename:
                raise
            reason = one_line(str(error), 160)
            text = f"{self.url} refuses ({reason}); get the right to read and write there, or {self.remedy}"
            raise SharedStorageError(text, "read-only") from error
        except OSError as error:
            if writes and error.filename:
                raise
            raise self._unreachable(error) from error
        except Exception as error:  # the libraries raise classes of their own
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> SharedStorageError:
        if WITHOUT_CREDENTIALS & {type(each).__name__ for each in _chain(error)}:
            reason = "no credentials were found, or they have run out"
            return SharedStorageError(f"{self.url}: {reason}; {self.remedy}", "unreachable")
        reason = one_line(str(error) or type(error).__name__, 160)
        return SharedStorageError(f"{self.url} cannot be reached ({reason}); {self.remedy}", "unreachable")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _texts(error: BaseException) -> list[str]:
    return [f"{type(each).__name__}: {each}" for each in _chain(error)]


def _facts(facts: Mapping[str, Any]) -> Stored:
    modified = facts.get("LastModified") or facts["mtime"]  # s3fs, gcsfs
    seconds = modified.timestamp() if isinstance(modified, datetime.datetime) else float(modified)
    return Stored(int(facts["size"]), seconds, str(facts.get("ETag") or facts.get("etag")))
