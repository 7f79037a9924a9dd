"""IU X-ray (OpenI): one report for each patient, in three forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from pydantic import Field

from medgraft.benchmarks.cohorts.plugins.chest import ChestCohort, ChestConfig
from medgraft.benchmarks.cohorts.texts.iu_xray import ANNOTATION, PROJECTIONS, REPORTS, SIGNS, XML
from medgraft.benchmarks.cohorts.texts.records import files_revision


class IuXray(ChestCohort):
    """Films and reports of Indiana University."""

    layout = "iu_xray"
    title = "IU X-ray (OpenI): films and reports; R2Gen's, OpenI's or Kaggle's form"
    small: ClassVar[Mapping[str, Any]] = MappingProxyType({"images": 16, "seed": 3, "size": 64})

    class Config(ChestConfig):
        """Options of the phantom.

        Attributes:
            images: Films, each of a person of its own.
            form: How it is handed on: with R2Gen's split, as OpenI's XML, or as Kaggle's tables.
        """

        images: int = Field(400, ge=10, alias="n_images")
        form: Literal["r2gen", "openi", "kaggle"] = "r2gen"

    def revision(self, root: Path) -> str:
        """The files that hold reports and name images."""
        return files_revision(root, (*SIGNS, ANNOTATION, f"{XML}/*.xml", REPORTS, PROJECTIONS), "IU X-ray")

    def writer(self) -> Callable[..., Any]:
        """See :class:`medgraft.benchmarks.cohorts.plugins.chest.ChestCohort`."""
        from medgraft.benchmarks.phantoms.chest.texts.openi import write_iu_xray

        return write_iu_xray
