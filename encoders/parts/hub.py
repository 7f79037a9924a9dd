"""Fetching weights: a host is asked once whether it answers, before a library asks it six times.

Where it does not, what the local caches hold still loads, and everything else ends in one sentence. ``HF_HUB_OFFLINE``
is respected: then no host is asked at all.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medgraft.encoders.parts.quiet import quiet
from medgraft.errors import CheckpointError, ConfigError, MedgraftError

REMEDY = "pass a local file or folder with @/path, or random weights with @random"
LIMIT = 2.0
"""Seconds that a host has to answer."""
REMEMBERED = {True: 60.0, False: 15.0}
"""Seconds for which an answer, or none, is believed."""

_asked: dict[str, tuple[float, str]] = {}


def endpoint() -> str:
    """The hub of Hugging Face, or what ``HF_ENDPOINT`` puts in its place."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def offline() -> bool:
    """Whether the hub's client was told not to ask, by ``HF_HUB_OFFLINE`` or in this process."""
    import huggingface_hub.constants as constants

    return bool(constants.HF_HUB_OFFLINE)


def unreachable(url: str) -> str:
    """Why a host does not answer, empty where it does; asked at most every few seconds, through the proxies set.

    Any answer counts but those of a broken server. A certificate that is not trusted here is left to the library,
    which may know others.
    """
    parts = urlsplit(url)
    host = f"{parts.scheme}://{parts.netloc}"
    when, reason = _asked.get(host, (float("-inf"), ""))
    if time.monotonic() - when < REMEMBERED[not reason]:
        return reason
    hosts: list[str] = []
    asking = threading.Thread(target=lambda: hosts.append(_ask(host)), daemon=True)  # names resolve without a limit
    asking.start()
    asking.join(LIMIT + 0.3)
    reason = hosts[0] if hosts else f"no answer within {LIMIT:.0f} s"
    _asked[host] = (time.monotonic(), reason)
    return reason


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Another address is an answer."""


def _ask(host: str) -> str:
    try:
        request = urllib.request.Request(f"{host}/", method="HEAD", headers={"User-Agent": "medgraft"})
        with urllib.request.build_opener(_Stay).open(request, timeout=LIMIT):
            return ""
    except urllib.error.HTTPError as error:
        return f"it answers {error.code}" if error.code in (500, 502, 503, 504) else ""
    except Exception as error:  # no route, no name, a refusal, a line that breaks, an address that is none
        cause = getattr(error, "reason", error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ""
        return f"no answer within {LIMIT:.0f} s" if isinstance(cause, TimeoutError) else str(cause) or repr(cause)


@contextmanager
def disconnected() -> Iterator[None]:
    """Inside, the hub's client knows that it is offline, and no library of this thread connects anywhere."""
    import huggingface_hub.constants as constants

    thread, connect, before = threading.get_ident(), socket.create_connection, constants.HF_HUB_OFFLINE

    def refuse(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == thread:
            raise ConnectionError("the host did not answer a moment ago")
        return connect(*args, **kwargs)

    socket.create_connection, constants.HF_HUB_OFFLINE = refuse, True
    try:
        yield
    finally:
        socket.create_connection, constants.HF_HUB_OFFLINE = connect, before


def demand(name: str, place: str) -> None:
    """Raises at once, before a library is imported, where weights are neither in the local cache nor to be had.

    Args:
        name: Of the encoder.
        place: A repository of the hub, ``owner/name``, or the address of a file.

    Raises:
        CheckpointError: The cache has no copy, and the host does not answer or is not to be asked.
    """
    held, url = (cached_file(place), place) if "://" in place else (_repository(place), endpoint())
    if not held.exists() and (why := _why(url)):
        said = f"its pre-trained weights could not be loaded: {why}, and the local cache has no copy of {place}"
        raise CheckpointError(f"encoder {name}: {said}; {REMEDY}")


def cached_file(url: str) -> Path:
    """Where torch's cache of checkpoints keeps the file behind an address."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _repository(name: str) -> Path:
    import huggingface_hub.constants as constants

    return Path(constants.HF_HUB_CACHE) / f"models--{name.partition('@')[0].replace('/', '--')}"


def _why(url: str) -> str:
    if url == endpoint() and offline():
        return "HF_HUB_OFFLINE is set, so the hub is not asked"
    reason = unreachable(url)
    return f"{urlsplit(url).netloc or url} cannot be reached ({reason})" if reason else ""


@contextmanager
def fetching(
    name: str, remedy: str = REMEDY, *, url: str | None = None, what: str = "pre-trained weights", local: bool = False
) -> Iterator[None]:
    """Turns whatever a library raises where it cannot fetch or read weights into one sentence, and keeps it quiet.

    Args:
        name: Of the encoder.
        remedy: What to do about it.
        url: Where the weights lie; on the hub unless given.
        what: What is fetched.
        local: They lie on this disk, so that no host is asked.

    Raises:
        CheckpointError: With the encoder's name, the reason and the remedy.
        ConfigError: The library refuses an option.
    """
    why = "" if local else _why(url or endpoint())
    try:
        with quiet():
            if why or local:
                with disconnected():
                    yield
            else:
                yield
    except MedgraftError:
        raise
    except TypeError as error:  # an unknown option; nothing that a download raises
        raise ConfigError(f"encoder {name} cannot be built with these options: {reason(error)}") from error
    except Exception as error:  # each library, and each hub client below it, raises its own kinds
        if why and _wants_a_host(error):
            said = f": {why}, and the local cache has no copy"
        else:
            said = f" ({reason(error)})"
        raise CheckpointError(f"encoder {name}: its {what} could not be loaded{said}; {remedy}") from error


def reason(error: BaseException) -> str:
    """The kind and the first sentence of an error, on one line."""
    text = " ".join(str(error).split()).split(". ")[0].rstrip(".")
    return f"{type(error).__name__}: {text[:197]}..." if len(text) > 200 else f"{type(error).__name__}: {text}"


def _wants_a_host(error: BaseException | None) -> bool:
    """Whether an error, or one that it comes from, is that of a host that was needed and not reached."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    kinds = (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError, urllib.error.URLError)
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, kinds) or any(sign in str(error) for sign in ("offline mode", "couldn't connect")):
            return True
        error = error.__cause__ or error.__context__
    return False
