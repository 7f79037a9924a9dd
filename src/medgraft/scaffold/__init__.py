"""A new plugin package from templates: ``medgraft new adapter|encoder|task NAME``.

The modules ``adapter``, ``encoder`` and ``task`` beside this one are the templates' source files. They are real code,
typed and linted like all else; writing a package replaces the names in them.
"""

from __future__ import annotations

import importlib.util
import re
import tempfile
from importlib import resources
from pathlib import Path

from medgraft import __version__, plugins
from medgraft.errors import ConfigError
from medgraft.plugins import Kind

NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")
LONGEST = 30
"""Characters of a name; longer ones would not fit the lines of the templates."""
PREFIX = "medgraft"
FILES = {
    "pyproject.toml": "pyproject.toml.txt",
    "README.md": "readme.md.txt",
    ".gitignore": "gitignore.txt",
    ".github/workflows/test.yml": "workflow.yml.txt",
    "tests/test_{snake}.py": "conformance.txt",
}
KINDS: tuple[Kind, ...] = ("adapter", "encoder", "task")
"""Kinds that there is a template of."""
SOURCE = "{kind}.py"
CHECKED = {
    "adapter": '"{name}"',
    "encoder": '"{name}:tiny"',
    "task": '"{name}", data=EXAMPLE',
}
RUN = {
    "adapter": "medgraft run --adapters {name},lora",
    "encoder": "medgraft run --adapters linear_probe,lora --encoders {name}:tiny --tasks chexpert",
    "task": "medgraft run --adapters linear_probe,lora --tasks {name} --data {name}=example",
}
RUN_NOTES = {
    "adapter": "It runs on every default task whose encoder it supports; pairs that do not fit are listed, with why.",
    "encoder": "`tiny` is a model of the source, as `models()` lists them.",
    "task": "`example/` is a generated cohort in the layout that the task reads; name a real one in its place.",
}


def check_name(kind: Kind, name: str) -> None:
    """Refuses names that medgraft, Python or pip could not tell apart from something else.

    Args:
        kind: What the plugin will be.
        name: Name by which it will be asked for: lower-case ASCII words joined by ``_`` or ``-``, at most 30
            characters. Its module is ``medgraft_NAME``, so that no keyword and no package is in its way.

    Raises:
        ConfigError: The name cannot be used.
    """
    if len(name) > LONGEST or not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be the name of a plugin: use lower-case ASCII letters and digits, a letter first, "
            f"words joined by _ or -, at most {LONGEST} characters, for example my_{kind}"
        )
    if name.startswith((f"{PREFIX}-", f"{PREFIX}_")) or name == PREFIX:
        raise ConfigError(f"{name!r}: the package is called {PREFIX}-NAME anyway; leave {PREFIX!r} out of the name")
    for other in plugins.GROUPS:
        taken = plugins.discover(other).get(name)
        if taken is not None and (taken.builtin or other == kind):
            owner = "medgraft itself" if taken.builtin else f"{taken.distribution} {taken.version}"
            raise ConfigError(f"{name!r} is taken: {owner} offers {other} {name!r}; choose another name")
    if kind == "encoder":
        from medgraft.registry import catalogue

        if name in catalogue().encoders.aliases:
            raise ConfigError(f"{name!r} is taken: it is a short name in the catalogue; choose another name")
    if importlib.util.find_spec(_module(name)) is not None:
        raise ConfigError(
            f"{name!r} is taken: a module {_module(name)!r} is installed; choose another name, or uninstall it"
        )


def write_package(kind: Kind, name: str, parent: Path) -> Path:
    """Writes a complete package that works as it is.

    Args:
        kind: What the plugin is.
        name: Its name, see :func:`check_name`.
        parent: Folder in which the package's folder, called ``name``, is made.

    Returns:
        The package's folder.

    Raises:
        ConfigError: The name cannot be used, or the folder exists and is not empty, or cannot be written.
    """
    check_name(kind, name)
    folder = parent / name
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not an empty folder; choose another --out, or move it away")
    files = {target.format(snake=_snake(name)): _template(f"templates/{source}") for target, source in FILES.items()}
    files[f"src/{_module(name)}.py"] = _template(SOURCE.format(kind=kind))
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{name}-") as temporary:
            unfinished = Path(temporary) / name  # appears under its name when it is whole
            for target, text in files.items():
                (unfinished / target).parent.mkdir(parents=True, exist_ok=True)
                (unfinished / target).write_text(_filled(text, kind, name))
            if kind == "task":
                from medgraft.scaffold.example import write_example

                write_example(unfinished / "example")
            unfinished.replace(folder)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error}; choose another --out") from error
    return folder


def run_command(kind: Kind, name: str) -> str:
    """The command that sweeps a new plugin beside built-in ones."""
    return RUN[kind].format(name=name)


def _snake(name: str) -> str:
    return name.replace("-", "_")


def _module(name: str) -> str:
    return f"{PREFIX}_{_snake(name)}"


def class_name(kind: Kind, name: str) -> str:
    """Name of the plugin's class, which ends with its kind.

    Example:
        >>> class_name("adapter", "my-gain"), class_name("task", "bone_age_task"), class_name("encoder", "encoder")
        ('MyGainAdapter', 'BoneAgeTask', 'MyEncoder')
    """
    words = re.split("[_-]", name)
    if words[-1] == kind:
        words = words[:-1] or ["my"]
    return "".join(word.capitalize() for word in [*words, kind])


def _template(path: str) -> str:
    return resources.files(__name__).joinpath(path).read_text(encoding="utf-8")


def _filled(text: str, kind: Kind, name: str) -> str:
    """Replaces the names that stand for the plugin's own, all at once."""
    summary = _template(SOURCE.format(kind=kind)).partition(": ")[2].partition('."""')[0]
    names = {
        "plugin_summary": summary[0].upper() + summary[1:],
        f"Plugin{kind.capitalize()}": class_name(kind, name),
        "PluginClass": class_name(kind, name),
        "plugin_kind": kind,
        "plugin_module": _module(name),
        "plugin_snake": _snake(name),
        "plugin_distribution": f"{PREFIX}-{name.replace('_', '-')}",
        "plugin_name": name,
        "checked_plugin": CHECKED[kind].format(name=name),
        "# example: import\n": "from pathlib import Path\n\n" if kind == "task" else "",
        "# example: folder\n": '\nEXAMPLE = Path(__file__).parents[1] / "example"\n' if kind == "task" else "",
        "run_command": run_command(kind, name),
        "run_notes": RUN_NOTES[kind],
        "medgraft_version": __version__,
    }
    text = re.sub(r"  # pyright: ignore\[\w+\]", "", text)  # the core is checked strictly, which an author need not do
    return re.sub("|".join(names), lambda match: names[match[0]], text)
