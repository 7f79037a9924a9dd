"""Plugin discovery through entry points: listing imports nothing, loading imports one plugin.

Three groups exist, ``medgraft.adapters``, ``medgraft.encoders`` and ``medgraft.tasks``, with one object per entry
point. Built-in plugins are declared the same way as foreign ones. Setting ``MEDGRAFT_DISABLE_PLUGINS`` to ``all`` or
to a comma-separated list of names leaves foreign plugins out.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

from medgraft.errors import PluginError, UnknownNameError

logger = logging.getLogger(__name__)

Kind = Literal["adapter", "encoder", "task"]
GROUPS: dict[Kind, str] = {"adapter": "medgraft.adapters", "encoder": "medgraft.encoders", "task": "medgraft.tasks"}
DISABLE_VARIABLE = "MEDGRAFT_DISABLE_PLUGINS"
BUILTIN_DISTRIBUTION = "medgraft"
SUPPORTED_API = 1


@dataclass(frozen=True)
class Plugin:
    """An entry point, not imported.

    Attributes:
        kind: Group it was found in.
        name: Name it is asked for by; ``distribution:name`` where two foreign distributions claim one name.
        target: ``module:object``.
        distribution: Distribution that declares it.
        version: Version of the distribution.
    """

    kind: Kind
    name: str
    target: str
    distribution: str
    version: str

    @property
    def builtin(self) -> bool:
        """Declared by medgraft itself."""
        return self.distribution == BUILTIN_DISTRIBUTION

    def provenance(self) -> dict[str, str]:
        """What a result records about the code that made it."""
        return {"name": self.name, "target": self.target, "distribution": self.distribution, "version": self.version}


_loaded: dict[Plugin, Any] = {}


def _entry_points(kind: Kind) -> list[Plugin]:
    found = []
    for entry in metadata.entry_points(group=GROUPS[kind]):
        # A damaged installation may lack its metadata or parts of it.
        facts = dict(entry.dist.metadata.items()) if entry.dist is not None else {}  # pyright: ignore
        distribution, version = facts.get("Name") or "unknown", facts.get("Version") or "unknown"
        found.append(Plugin(kind, entry.name, entry.value, distribution, version))
    return list(dict.fromkeys(found))


def _disabled() -> set[str]:
    return {name.strip() for name in os.environ.get(DISABLE_VARIABLE, "").split(",") if name.strip()}


def discover(kind: Kind) -> dict[str, Plugin]:
    """Lists the plugins of one kind by name, without importing any.

    A built-in name wins over a foreign one, with a warning. Two foreign distributions with one name are both listed
    as ``distribution:name``, and the bare name is not available.
    """
    everything, off = _entry_points(kind), _disabled()
    builtin = {plugin.name: plugin for plugin in everything if plugin.builtin}
    foreign: dict[str, list[Plugin]] = {}
    for plugin in everything:
        if plugin.builtin or off & {"all", plugin.name, f"{plugin.distribution}:{plugin.name}"}:
            continue
        if plugin.name in builtin:
            logger.warning(
                "%s %r of %s %s is ignored: medgraft has a built-in of that name",
                kind,
                plugin.name,
                plugin.distribution,
                plugin.version,
            )
            continue
        foreign.setdefault(plugin.name, []).append(plugin)
    named = dict(builtin)
    for name, plugins in foreign.items():
        if len(plugins) == 1:
            named[name] = plugins[0]
            continue
        for plugin in plugins:
            full = f"{plugin.distribution}:{name}"
            named[full] = Plugin(kind, full, plugin.target, plugin.distribution, plugin.version)
    return dict(sorted(named.items()))


def find(kind: Kind, name: str) -> Plugin:
    """Finds a plugin by name.

    Raises:
        UnknownNameError: No plugin has the name; near names are suggested.
    """
    known = discover(kind)
    if name in known:
        return known[name]
    distribution, _, bare = name.partition(":")
    if bare in known and known[bare].distribution == distribution:
        return known[bare]
    contenders = [full for full in known if full.endswith(f":{name}")]
    if contenders:
        raise UnknownNameError(kind, name, known, f"several distributions offer it: {', '.join(contenders)}")
    remedy = "" if not _disabled() else f"{DISABLE_VARIABLE} is set and leaves plugins out."
    raise UnknownNameError(kind, name, known, remedy)


def load(plugin: Plugin) -> Any:
    """Imports the plugin's object and checks its ``api_version``; only successes are remembered.

    Raises:
        PluginError: Importing it failed, or it was written for another version of the contract.
    """
    if plugin in _loaded:
        return _loaded[plugin]
    where = f"{plugin.kind} {plugin.name!r} ({plugin.target}, from {plugin.distribution} {plugin.version})"
    entry = metadata.EntryPoint(plugin.name, plugin.target, GROUPS[plugin.kind])
    new = entry.module not in sys.modules
    try:
        found = entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may even call sys.exit() while it is imported
        if new:
            sys.modules.pop(entry.module, None)  # imported, but without the object: read again after it was mended
        raise PluginError(f"{where} failed to import: {type(error).__name__}: {error}") from error
    version = getattr(found, "api_version", None)
    if version != SUPPORTED_API:
        raise PluginError(
            f"{where} declares api_version {version!r}; this medgraft speaks version {SUPPORTED_API}. "
            f"Install a matching release of {plugin.distribution}"
        )
    _loaded[plugin] = found
    return found


def broken(kind: Kind) -> dict[str, str]:
    """Imports every plugin of a kind and returns name -> error for those that fail."""
    errors = {}
    for name, plugin in discover(kind).items():
        try:
            load(plugin)
        except PluginError as error:
            errors[name] = str(error)
    return errors
