"""Sound encoders of recordings, runs, rows and graphs, and for each some that break one rule as such encoders do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from models import MODELS

from medgraft.encoder import Encoder
from medgraft.encoders.parts.connectome.network import Edges

SOUND: dict[str, Callable[[], Encoder]] = {
    "table": MODELS["omics-genes"],
    "signal": MODELS["diver-tiny"],
    "volume_sequence": MODELS["swift-tiny"],
    "graph": MODELS["connectome-tiny"],
}


def of_class(modality: str, **members) -> Callable[[], Encoder]:
    """A builder of the sound encoder with members of its class replaced, which copies keep."""

    def build() -> Encoder:
        encoder = SOUND[modality]()
        encoder.__class__ = type("Broken", (type(encoder),), members)
        return encoder

    return build


def base(self):
    return super(type(self), self)


def one_dead_sample(self, raw):
    """As where a resampled signal is divided by a deviation of 0 somewhere."""
    x = base(self).prepare(raw)
    x[0, 3] = torch.nan
    return x


def no_channel(self, raw):
    return torch.full_like(base(self).prepare(raw), torch.nan)


def first_graph_only(self, x, edges, first, stop):
    """As where the regions of the second graph are not counted on from those of the first."""
    regions = x.shape[1]
    return base(self).run_along(x, Edges(edges.index % regions, edges.weights), first, stop)


def edges_of_no_stage(self, x, *, start=0):
    """As where a hidden state is continued without the edges that it was made with."""
    if start == 0:
        return base(self).encode(x)
    x = x.clone()
    x[..., self.spec.dim :] = 0
    return base(self).encode(x, start=start)


def over_windows_of_all(self, flat, real):
    """As where windows are averaged over the batch, and not over a subject."""
    features = base(self)._gathered(flat, real)
    return features.replace(pooled=features.pooled.mean(dim=0, keepdim=True).expand_as(features.pooled))


def flat_grid(self, flat, real):
    features = base(self)._gathered(flat, real)
    return features.replace(grid=features.grid[:-1])


def one_width(self, index, count=None):
    """As where the width of the features is taken for that of every stage."""
    lie = base(self).block_tokens(index, count)
    return dataclasses.replace(lie, dim=self.spec.dim)


def an_axis_short(self, index, count=None):
    lie = base(self).block_tokens(index, count)
    return dataclasses.replace(lie, axes=lie.axes[:-1])


def standardised_in_the_batch(self, x):
    return base(self).embed(x - x.mean(dim=0))


def as_recorded(self, raw):
    return base(self).prepare(raw)[:, :-1]


def louder_every_time(self, raw):
    x = base(self).prepare(raw)
    self.seen = getattr(self, "seen", 0) + 1
    return x * self.seen


def missing_stay(self, raw):
    x = base(self).prepare(raw)
    x[0] = torch.nan
    return x


# What is broken -> the rule that says so, and a builder.
BROKEN: dict[str, tuple[str, Callable[[], Encoder]]] = {
    "table: missing numbers stay": ("prepare_gives_the_input", of_class("table", prepare=missing_stay)),
    "table: genes scaled within the batch": (
        "samples_do_not_see_each_other",
        of_class("table", embed=standardised_in_the_batch),
    ),
    "signal: a value that is no number": ("prepare_gives_the_input", of_class("signal", prepare=one_dead_sample)),
    "signal: no channel left": ("prepare_gives_the_input", of_class("signal", prepare=no_channel)),
    "signal: of another length": ("prepare_gives_the_input", of_class("signal", prepare=as_recorded)),
    "signal: axes that are not the grid's": (
        "features_fit_the_spec",
        of_class("signal", block_tokens=an_axis_short),
    ),
    "volume_sequence: windows of all subjects": (
        "samples_do_not_see_each_other",
        of_class("volume_sequence", _gathered=over_windows_of_all),
    ),
    "volume_sequence: a grid without time": ("features_fit_the_spec", of_class("volume_sequence", _gathered=flat_grid)),
    "volume_sequence: one width for all stages": (
        "features_fit_the_spec",
        of_class("volume_sequence", block_tokens=one_width),
    ),
    "graph: edges of the first graph": ("samples_do_not_see_each_other", of_class("graph", run_along=first_graph_only)),
    "graph: stages without edges": ("stages_join", of_class("graph", encode=edges_of_no_stage)),
    "graph: another input every time": ("prepare_gives_the_input", of_class("graph", prepare=louder_every_time)),
}
