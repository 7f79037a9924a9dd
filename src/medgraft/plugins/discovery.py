"""Plugin discovery through entry points: listing imports nothing, loading imports one plugin.

Each kind of plugin has a group of its own (:data:`CONTRACTS`), with one object per entry point. Built-in plugins are
declared the same way as foreign ones. Setting ``MEDGRAFT_DISABLE_PLUGINS`` to ``all`` or to a comma-separated list of
names leaves foreign plugins out. :mod:`medgraft.plugins.trials` tries plugins out in processes of their own.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import logging
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from medgraft.errors import ConfigError, PluginError, UnknownNameError
from medgraft.plugins.declared import canonical, declared

logger = logging.getLogger(__name__)

Kind = Literal["adapter", "encoder", "task", "objective", "metric", "modality", "launcher", "cohort"]


@dataclass(frozen=True)
class Contract:
    """What a kind of plugin promises.

    Attributes:
        group: Entry-point group.
        base: ``module:class`` that its classes derive from. A source of encoders is any object; its encoders do.
        implements: Method that a class must have of its own.
        says: Attributes that it must set.
    """

    group: str
    base: str
    implements: str = ""
    says: tuple[str, ...] = ()

    @property
    def public_name(self) -> str:
        """Dotted name by which plugins import the class."""
        return self.base.replace(":", ".")

    def base_class(self) -> type:
        """The class, imported."""
        module, _, name = self.base.partition(":")
        return getattr(importlib.import_module(module), name)


CONTRACTS: dict[Kind, Contract] = {
    "adapter": Contract("medgraft.adapters", "medgraft:Adapter", "attach"),
    "encoder": Contract("medgraft.encoders", "medgraft.encoder:Encoder"),
    "task": Contract("medgraft.tasks", "medgraft.task:Task", "load", ("inputs", "objective", "cohort")),
    "objective": Contract("medgraft.objectives", "medgraft.objective:Objective", "loss"),
    "metric": Contract("medgraft.metrics", "medgraft.metric:Metric", "statistics"),
    "modality": Contract("medgraft.modalities", "medgraft.modality:Modality", "example", ("name", "raw")),
    "launcher": Contract("medgraft.launchers", "medgraft.launcher:Launcher", "submit"),
    "cohort": Contract("medgraft.cohorts", "medgraft.cohort:Cohort", "write_phantom"),
}
GROUPS: dict[Kind, str] = {kind: contract.group for kind, contract in CONTRACTS.items()}
DISABLE_VARIABLE = "MEDGRAFT_DISABLE_PLUGINS"
BUILTIN_DISTRIBUTION = "medgraft"
SUPPORTED_API = 1
OLDEST_API = 1
NAME = re.compile(r"\w[\w.-]*")
"""What a plugin may be called: the rest (``+ : @ ,``, blanks) means something where names are given."""


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


@dataclass(frozen=True)
class Refusal:
    """A plugin that is installed but cannot be asked for under its name.

    Attributes:
        plugin: The plugin.
        reason: Why, in words that follow "it".
        remedy: What to do about it.
    """

    plugin: Plugin
    reason: str
    remedy: str


@dataclass
class Survey:
    """Everything that is declared for one kind; nothing of it imported.

    Attributes:
        usable: Plugins by the name that they are asked for by.
        refused: Plugins that no name leads to.
        shared: Bare name -> the full names that stand for it, where two foreign distributions claim it.
        off: Plugins that ``MEDGRAFT_DISABLE_PLUGINS`` leaves out.
    """

    usable: dict[str, Plugin] = field(default_factory=dict[str, Plugin])
    refused: list[Refusal] = field(default_factory=list[Refusal])
    shared: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    off: list[Plugin] = field(default_factory=list[Plugin])


_loaded: dict[Plugin, Any] = {}
_warned: set[Refusal] = set()


def _entry_points(kind: Kind) -> tuple[list[Plugin], list[Refusal]]:
    entries, unreadable = declared(GROUPS[kind])
    plugins = [Plugin(kind, each.name, each.target, each.distribution, each.version) for each in entries]
    refused = [
        Refusal(
            Plugin(kind, "?", "", each.distribution, each.version),
            f"declares entry points that cannot be read ({each.reason})",
            f"install {each.distribution} again, or uninstall it",
        )
        for each in unreadable
    ]
    return plugins, refused


def _disabled() -> set[str]:
    return {name.strip() for name in os.environ.get(DISABLE_VARIABLE, "").split(",") if name.strip()}


def check_disabled() -> None:
    """Refuses names in ``MEDGRAFT_DISABLE_PLUGINS`` that switch nothing off; every command of medgraft begins with it.

    Raises:
        UnknownNameError: No installed plugin of any kind has the name.
        ConfigError: It is a built-in one, which cannot be switched off.
    """
    disabled = sorted(_disabled() - {"all"})
    if not disabled:
        return
    declared = [plugin for kind in GROUPS for plugin in _entry_points(kind)[0]]
    foreign = [plugin for plugin in declared if not plugin.builtin]
    names = {name for plugin in foreign for name in (plugin.name, f"{plugin.distribution}:{plugin.name}")}
    for name in disabled:
        if name in names:
            continue
        if any(plugin.builtin and name in (plugin.name, f"{plugin.distribution}:{plugin.name}") for plugin in declared):
            raise ConfigError(f"{DISABLE_VARIABLE}: {name!r} is built in, and only plugins of others can be left out")
        raise UnknownNameError(f"plugin in {DISABLE_VARIABLE}", name, {*names, "all"})


def survey(kind: Kind) -> Survey:
    """Sorts what is declared for one kind into what can be used and what cannot, without importing any of it.

    A built-in name wins over a foreign one. Two foreign distributions with one name are both usable as
    ``distribution:name``, and the bare name is not.
    """
    everything, refused = _entry_points(kind)
    result, off = Survey(refused=refused), _disabled()
    builtin = {plugin.name: plugin for plugin in everything if plugin.builtin}
    foreign: dict[str, dict[str, Plugin]] = {}
    for plugin in everything:
        if plugin.builtin:
            continue
        if off & {"all", plugin.name, f"{plugin.distribution}:{plugin.name}"}:
            result.off.append(plugin)
        elif refusal := _refusal(plugin, builtin, foreign):
            result.refused.append(refusal)
        else:
            foreign.setdefault(plugin.name, {})[canonical(plugin.distribution)] = plugin
    usable = dict(builtin)
    for name, contenders in foreign.items():
        if len(contenders) == 1:
            (usable[name],) = contenders.values()
            continue
        full = {f"{plugin.distribution}:{name}": plugin for plugin in contenders.values()}
        result.shared[name] = sorted(full)
        usable |= {label: replace(plugin, name=label) for label, plugin in full.items()}
    result.usable = dict(sorted(usable.items()))
    return result


def _refusal(plugin: Plugin, builtin: Iterable[str], foreign: dict[str, dict[str, Plugin]]) -> Refusal | None:
    rename = f"ask the authors of {plugin.distribution} to rename it"
    if plugin.name in builtin:
        return Refusal(plugin, "is ignored: medgraft has a built-in of that name", rename)
    if not NAME.fullmatch(plugin.name):
        return Refusal(plugin, "is ignored: a name is made of letters, digits, '_', '-' and '.'", rename)
    if (twin := foreign.get(plugin.name, {}).get(canonical(plugin.distribution))) is not None:
        return Refusal(plugin, f"is ignored: its distribution declares the name twice, first as {twin.target}", rename)
    return None


def discover(kind: Kind) -> dict[str, Plugin]:
    """The usable plugins of one kind by name, without importing any; see :func:`survey`.

    A plugin that no name leads to is warned of, once per process.
    """
    result = survey(kind)
    for refusal in result.refused:
        if refusal not in _warned:
            _warned.add(refusal)
            plugin = refusal.plugin
            logger.warning("%s %r of %s %s %s", kind, plugin.name, plugin.distribution, plugin.version, refusal.reason)
    return result.usable


def find(kind: Kind, name: str) -> Plugin:
    """Finds a plugin by name.

    Raises:
        UnknownNameError: No plugin has the name; near names are suggested.
    """
    registered = discover(kind)
    if name in registered:
        return registered[name]
    distribution, _, bare = name.partition(":")
    for full, plugin in registered.items():
        if full.rpartition(":")[2] == bare and canonical(plugin.distribution) == canonical(distribution):
            return plugin
    contenders = [full for full in registered if full.endswith(f":{name}")]
    if contenders:
        raise UnknownNameError(kind, name, registered, f"several distributions offer it: {', '.join(contenders)}")
    remedy = "" if not _disabled() else f"{DISABLE_VARIABLE} is set and leaves plugins out."
    raise UnknownNameError(kind, name, registered, remedy)


def summary(plugin: Plugin) -> str:
    """First paragraph of a class's docstring, read without importing its module; empty where none can be read.

    Example:
        >>> summary(find("objective", "multiclass"))
        'A linear head with cross-entropy over classes.'
    """
    from medgraft.options import in_words  # here: it brings pydantic, which nobody else here needs

    module, _, name = plugin.target.partition(":")
    spec = importlib.util.find_spec(module)  # imports the packages around it, which for ours costs nothing
    if spec is None or spec.origin is None:
        return ""
    try:
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):  # whoever loads it says what is wrong
        return ""
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    text = " ".join((ast.get_docstring(each) or "").partition("\n\n")[0] for each in classes)
    return in_words(text)


def refused_version(version: Any, distribution: str = "the plugin") -> str:
    """Why a plugin's ``api_version`` is refused, as the rest of a sentence; empty if it is not.

    A subclass inherits the number of the medgraft that it runs with, which says nothing about what it was written
    for. So only a number that the plugin sets itself is ever refused: a newer one, or one older than
    :data:`OLDEST_API`.

    Args:
        version: What the plugin's object has.
        distribution: Whose release the remedy names.
    """
    spoken = str(SUPPORTED_API) if OLDEST_API == SUPPORTED_API else f"{OLDEST_API} to {SUPPORTED_API}"
    said = f"declares api_version {version!r}; this medgraft speaks version {spoken}."
    if not isinstance(version, int) or isinstance(version, bool):
        return f"{said} Set api_version = {SUPPORTED_API} in the plugin's class"
    if version > SUPPORTED_API:
        return f"{said} Install a newer medgraft, or an older release of {distribution}"
    if version < OLDEST_API:
        return f"{said} Install a newer release of {distribution}"
    return ""


def load(plugin: Plugin) -> Any:
    """Imports the plugin's object and checks that it is what its kind promises; only successes are remembered.

    After a failure the modules that were imported for it are forgotten, so that the next attempt, in the same process
    too, starts afresh.

    Raises:
        PluginError: Importing it failed, it is not of its kind, or it was written for another version of the contract.
    """
    if plugin in _loaded:
        return _loaded[plugin]
    where = f"{plugin.kind} {plugin.name!r} ({plugin.target}, from {plugin.distribution} {plugin.version})"
    base = CONTRACTS[
        plugin.kind
    ].base_class()  # what every plugin imports is in place before its own modules are told apart
    before = set(sys.modules)
    try:
        obj = _imported(plugin)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may even call sys.exit() while it is imported
        _forget(plugin, before, whole=not plugin.builtin)
        raise PluginError(f"{where} failed to import: {type(error).__name__}: {error}") from error
    if plugin.kind == "encoder":
        from medgraft.sources import usable

        try:
            obj = usable(obj)
        except PluginError as error:
            _forget(plugin, before, whole=False)
            raise PluginError(f"{where} {error}") from error
    if problem := _unfit(plugin, obj, base):
        _forget(plugin, before, whole=False)
        raise PluginError(f"{where} {problem}")
    _loaded[plugin] = obj
    return obj


def _imported(plugin: Plugin) -> Any:
    module, colon, name = plugin.target.partition(":")
    if not (module.strip() and colon and name.strip()):
        raise ImportError(f"the entry point {plugin.target!r} is not of the form module:object")
    obj: Any = importlib.import_module(module.strip())
    for part in name.strip().split("."):
        obj = getattr(obj, part)
    return obj


def _forget(plugin: Plugin, before: set[str], *, whole: bool) -> None:
    """Drops modules that the attempt imported, so that they are read again after they were mended.

    Args:
        plugin: Whose.
        before: Names of the modules that had been imported before.
        whole: The other modules of its package too: one may have noted what failed.
    """
    module = plugin.target.partition(":")[0].strip()
    top = module.partition(".")[0]
    for name in set(sys.modules) - before:
        if name != module and not (whole and name.partition(".")[0] == top):
            continue  # what others share cannot always be imported twice
        parent, _, child = name.rpartition(".")
        sys.modules.pop(name, None)
        if parent in sys.modules:
            vars(sys.modules[parent]).pop(child, None)
    importlib.invalidate_caches()


def _unfit(plugin: Plugin, obj: Any, base: type) -> str:
    """Why an imported object is not what its entry point promises, as the rest of a sentence; empty if it is."""
    if plugin.kind != "encoder" and not (inspect.isclass(obj) and issubclass(obj, base)):
        return f"is {obj!r}, not a subclass of {CONTRACTS[plugin.kind].public_name}"
    if plugin.kind != "encoder" and (problem := _unfinished(plugin.kind, obj, base)):
        return problem
    return refused_version(getattr(obj, "api_version", None), plugin.distribution)


def _unfinished(kind: Kind, cls: Any, base: Any) -> str:
    """What a class of its kind lacks or has of another sort, as the rest of a sentence; empty if it is whole."""
    contract = CONTRACTS[kind]
    if getattr(cls, contract.implements) is getattr(base, contract.implements):
        return f"is {cls.__name__}, which has no {contract.implements}() of its own"
    if missing := [name for name in contract.says if not hasattr(cls, name)]:
        return f"is {cls.__name__}, which does not say its {' and its '.join(missing)}"
    if not hasattr(base, "Config"):
        return ""
    if not (inspect.isclass(cls.Config) and issubclass(cls.Config, base.Config)):
        module, _, _ = contract.public_name.rpartition(".")
        return f"is {cls.__name__}, whose Config is no subclass of {module}.{base.Config.__name__}"
    return ""
