"""Profiles of launchers: options by name in a file of the user's, for ``--profile``.

``launchers.yaml`` lies in ``$XDG_CONFIG_HOME/medgraft``, else ``~/.config/medgraft``. Each entry names a launcher and
options of it: ``gpu: {launcher: slurm, partition: gpu, gpus: 1}``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medgraft.errors import ConfigError, UnknownNameError
from medgraft.files.documents import read_yaml
from medgraft.launcher import launcher_class
from medgraft.options import checked

FILE = "launchers.yaml"
LAUNCHER = "launcher"


def profiles_file() -> Path:
    """Where the profiles stand."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "medgraft" / FILE


def read_profile(name: str) -> tuple[str, dict[str, Any]]:
    """The launcher of a profile, and its options.

    Raises:
        ConfigError: There is no file or no such profile, or it has an option that the launcher has not, or a value out
            of range.
    """
    path = profiles_file()
    if not path.is_file():
        raise ConfigError(f"--profile {name}: {path} does not exist; an entry of it names a launcher and its options")
    profiles = read_yaml(path)
    if not isinstance(profiles, dict):
        raise ConfigError(f"{path} must hold a mapping of profiles, each with a launcher and its options")
    if name not in profiles:
        raise UnknownNameError(f"profile in {path}:", name, map(str, profiles))
    entry = profiles[name]
    if not isinstance(entry, dict) or not isinstance(entry.get(LAUNCHER), str):
        raise ConfigError(f"profile {name!r} of {path} must name a launcher, such as {LAUNCHER}: slurm")
    launcher = entry[LAUNCHER]
    options = {str(key): value for key, value in entry.items() if key != LAUNCHER}
    checked(launcher_class(launcher).Config, options, f"profile {name!r} of {path}")
    return launcher, options


def with_profile(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The values of a request with those of a profile, over which its own win.

    Raises:
        ConfigError: As :func:`read_profile` says, or the request is for another launcher.
    """
    launcher, options = read_profile(name)
    if values.get(LAUNCHER, launcher) != launcher:
        raise ConfigError(f"--profile {name} is of launcher {launcher!r}; leave out --launcher {values[LAUNCHER]}")
    given = dict(values.get("options") or {})
    given[launcher] = options | dict(given.get(launcher) or {})
    return {**values, LAUNCHER: launcher, "options": given}
