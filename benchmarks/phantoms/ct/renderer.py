"""A person of the chest-CT phantom, and the volume that a scanner makes of them.

Any person is reproducible alone from ``[seed, stream, index]``; the resolution changes what is drawn, never who.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medgraft.benchmarks.phantoms.ct.anatomy import Body, find_lungs, paint_body, sample_body
from medgraft.benchmarks.phantoms.ct.canvas import AIR, Canvas, Volume
from medgraft.benchmarks.phantoms.ct.findings import Finding, sample_findings
from medgraft.benchmarks.phantoms.ct.painting import Scene, airway_wall, heart_scale, paint_findings

GENERATOR_VERSION = "ct-1"
STREAMS = {name: number for number, name in enumerate(("train", "valid", "m3d", "pretrain"))}
"""Purpose -> random stream: equal indices of two streams are different people, whatever the seed."""


@dataclass(frozen=True)
class Person:
    """One person with findings.

    Attributes:
        body: Latents that are no finding.
        findings: What can be found, each kind at most once.
    """

    body: Body
    findings: tuple[Finding, ...]

    @property
    def kinds(self) -> set[str]:
        """Names of the findings."""
        return {finding.kind for finding in self.findings}


def sample_person(seed: int, stream: str, index: int, *, enhanced: float = 0.0) -> Person:
    """Draws a person.

    Args:
        seed: Of the cohort, not negative.
        stream: Name in :data:`STREAMS`.
        index: Number of the person, not negative.
        enhanced: Share of people with contrast medium.
    """
    rng = np.random.default_rng([seed, STREAMS[stream], index])
    body = sample_body(rng, enhanced=enhanced)
    return Person(body, sample_findings(rng, body))


def render(person: Person, shape: tuple[int, int, int] = (64, 64, 32), *, exposure: int = 0) -> Volume:
    """The volume in Hounsfield units, ``float32 [x, y, z]`` with axes to the right, front and top.

    Args:
        person: Who is seen.
        shape: Voxels along each axis; they cover the same field at any number.
        exposure: Of the same person, another one has other noise.
    """
    canvas = Canvas(shape)
    scale = heart_scale(person.findings)
    lungs = find_lungs(canvas, person.body, scale)
    paint_body(canvas, person.body, lungs, scale, airway_wall(person.findings))
    paint_findings(Scene(canvas, person.body, lungs, scale), person.findings)
    _table(canvas, person.body)
    rng = np.random.default_rng([person.body.seed, exposure, 1])
    canvas.hu += person.body.noise * rng.standard_normal(shape, dtype=np.float32)
    return np.clip(canvas.hu, AIR - 24, 3071)


def _table(canvas: Canvas, body: Body) -> None:
    """The top of the scanner's table below the back."""
    x, y, _ = canvas.grid()
    lowest = -92 * body.size * body.depth - 34 - 0.8 * body.fat
    arc = np.abs(y - lowest - 0.0011 * x**2) - 2.5
    canvas.paint(-320.0, canvas.cover(np.maximum(arc, np.abs(x) - 168)) * (canvas.hu < -500))
