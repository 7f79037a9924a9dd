"""Pages of the API: which public names stand on which page; their text is the code's docstrings, by mkdocstrings."""

from __future__ import annotations

from collections.abc import Iterator

import medgraft

PAGES: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "grafts": (
        "Grafts",
        {
            "medgraft.grafting": ("graft", "Grafted", "encoder_of", "ungraft_all"),
            "medgraft.checkpoints.opening": ("load_graft",),
            "medgraft.benchmarks.predict.predictor": ("load", "Predictor"),
            "medgraft.benchmarks.predict.classifier": ("GraftClassifier",),
        },
    ),
    "adapters": (
        "Adapters",
        {
            "medgraft.adapter": ("Adapter", "AdapterConfig", "Support"),
            "medgraft.adapter.site_adapter": ("SiteAdapter",),
            "medgraft.adapter.class_prompts": ("ClassAdapter",),
            "medgraft.adapter.support_adapter": ("SupportAdapter",),
            "medgraft.attachment.attachment": ("Attachment",),
            "medgraft.encoder.sites": ("Site", "match_sites"),
            "medgraft.schedule": ("Phase",),
            "medgraft.registry": ("build_adapter", "TrainDefaults"),
        },
    ),
    "encoders": (
        "Encoders",
        {
            "medgraft.registry": ("build_encoder",),
            "medgraft.encoder": ("Encoder", "TextEncoder", "DualEncoder", "EncoderSpec"),
            "medgraft.features": ("Features",),
            "medgraft.sources": ("Source",),
            "medgraft.modality": ("Modality",),
        },
    ),
    "tasks": (
        "Tasks, objectives, metrics",
        {
            "medgraft.task": ("Task", "TaskConfig", "TaskData", "RawInputs", "Variant", "subject_split"),
            "medgraft.cohort": ("Cohort", "CohortConfig"),
            "medgraft.objective": ("Objective", "Batch", "Outputs"),
            "medgraft.metric": ("Metric", "Predictions"),
            "medgraft.launcher": ("Launcher", "LauncherConfig", "Handle", "Job", "Exit", "Resources"),
        },
    ),
    "errors": ("Errors", {"medgraft.errors": ()}),
}
"""Name of a page -> its title, and the names of each module that stand on it; none for a module as a whole."""


def index() -> str:
    """Markdown of the page that the reference begins with."""
    lines = [
        "# Reference",
        "What is public: the names that `import medgraft` offers, the contracts of plugins, and the commands. "
        "Everything else may change between versions.",
        "| page | names |\n|---|---|",
    ]
    for page, (title, modules) in PAGES.items():
        listed = [f"`{name}`" for names in modules.values() for name in names] or [f"`{next(iter(modules))}`"]
        lines[-1] += f"\n| [{title}](api/{page}.md) | {', '.join(listed)} |"
    lines.append(
        f"Version {medgraft.__version__}. [Commands](commands.md), the [kinds of sites](../plugins.md"
        "#where-an-adapter-attaches) and the [rules of the conformance kit](../plugins.md#what-the-kit-demands) have "
        "pages of their own."
    )
    return "\n\n".join(lines) + "\n"


def pages() -> Iterator[tuple[str, str]]:
    """Name and Markdown of each page."""
    for page, (title, modules) in PAGES.items():
        parts = [f"# {title}"]
        for module, names in modules.items():
            parts += [f"::: {module}.{name}" for name in names] or [f"::: {module}"]
        yield page, "\n\n".join(parts) + "\n"
