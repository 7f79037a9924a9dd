"""Writes installed distributions: a ``.dist-info`` folder and modules, as ``pip install --target`` leaves them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

SAMPLE = Path(__file__).parents[1] / "plugins" / "acme_graft"

GOOD = '''
from medgraft import Adapter, Attachment

class {name}(Adapter):
    """A plugin."""

    def attach(self, encoder, sites):
        attachment = Attachment(encoder)
        attachment.record({{"features": [s for s in sites.values() if s.kind == "features"]}})
        return attachment
'''


def install(
    folder: Path,
    name: str,
    adapters: Mapping[str, str],
    modules: Mapping[str, str],
    version: str = "0.1",
    group: str = "medgraft.adapters",
) -> None:
    """Installs a distribution into ``folder``.

    Args:
        folder: A folder on ``sys.path``.
        name: Name of the distribution.
        adapters: Entry points of the group, name -> ``module:object``.
        modules: Source by module name.
        version: Version of the distribution.
        group: Entry-point group.
    """
    lines = [f"[{group}]", *(f"{key} = {value}" for key, value in adapters.items())]
    install_groups(folder, name, "\n".join(lines) + "\n", modules, version)


def install_groups(
    folder: Path, name: str, entry_points: str, modules: Mapping[str, str], version: str = "1.0"
) -> None:
    """Installs a distribution with plugins of several kinds into ``folder``.

    Args:
        folder: A folder on ``sys.path``, made where it is missing.
        name: Name of the distribution.
        entry_points: Text of ``entry_points.txt``.
        modules: Source by module name.
        version: Version of the distribution.
    """
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(entry_points)
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)
