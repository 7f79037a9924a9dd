"""What each of braindecode's networks of EEG takes, from its paper and the library's own page, and how it is built."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.encoders.parts.eeg.recordings import SCALINGS, Preparation
from medgraft.encoders.parts.eeg.reve import Places, ReveTower, supplied, template_places
from medgraft.encoders.parts.eeg.towers import (
    BendrTower,
    BiotTower,
    CBraModTower,
    EegEncoder,
    EegptTower,
    LabramTower,
    LunaTower,
    WholeNetwork,
)
from medgraft.errors import ConfigError
from medgraft.modalities.eeg import TEN_TWENTY, electrode, positions

BIPOLAR = (
    *("Fp1-F7", "F7-T7", "T7-P7", "P7-O1", "Fp2-F8", "F8-T8", "T8-P8", "P8-O2"),
    *("Fp1-F3", "F3-C3", "C3-P3", "P3-O1", "Fp2-F4", "F4-C4", "C4-P4", "P4-O2"),
)
"""The 16 differences of the temporal central parasagittal montage, in BIOT's order."""

INSTALL = "braindecode is not installed; pip install 'medgraft[eeg]' brings it"


@dataclass(frozen=True)
class Network:
    """A network and what it was trained on.

    Attributes:
        cls: Name of the library's class.
        line: What it is, in a line.
        rate: Samples per second.
        seconds: Length of a window.
        scaling: A key of :data:`~medgraft.encoders.parts.eeg.recordings.SCALINGS`.
        channels: Electrodes or differences that it takes unless the user names others.
        fixed: It takes those and no others.
        patch: Samples that a window must be a multiple of.
        tower: How it is run.
        hub: Repository of published weights.
        file: Their name there, where it is not the library's usual one.
        licence: Of published weights, as far as the library says.
        cohorts: Seen in pre-training.
        options: Of the class, fixed here.
        located: It is told the places of its electrodes.
    """

    cls: str
    line: str
    rate: float
    seconds: float
    scaling: str
    channels: tuple[str, ...] = TEN_TWENTY
    fixed: bool = False
    patch: int = 1
    tower: type[EegEncoder] = WholeNetwork
    hub: str = ""
    file: str = ""
    licence: str = "unknown"
    cohorts: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    located: bool = False


def _specialist(cls: str, line: str, rate: float = 128.0, seconds: float = 4.0) -> Network:
    return Network(cls, f"{line}; trained from scratch, no weights are published", rate, seconds, "z_scores")


NETWORKS: dict[str, Network] = {
    # Jiang et al., ICLR 2024: 200 Hz, patches of 1 s, at most 16 s, microvolts / 100, 128 names of electrodes.
    "labram": Network(
        "Labram", "LaBraM, a transformer over patches of 1 s and 128 electrodes", 200, 10, "hundredth",
        patch=200, tower=LabramTower, hub="braindecode/labram-pretrained", licence="MIT",
        cohorts=("TUEG", "SEED"),
    ),
    # Wang et al., ICLR 2025: 200 Hz, patches of 1 s, microvolts / 100, any channels, whose order is a position.
    "cbramod": Network(
        "CBraMod", "CBraMod, criss-cross attention over channels and patches of 1 s", 200, 10, "hundredth",
        patch=200, tower=CBraModTower, hub="braindecode/cbramod-pretrained", licence="MIT", cohorts=("TUEG",),
    ),
    # Wang et al., NeurIPS 2024: 256 Hz, windows of 4 s, millivolts, average reference, 62 names of electrodes.
    "eegpt": Network(
        "EEGPT", "EEGPT, summaries of the channels in patches of 250 ms", 256, 4, "millivolts",
        patch=32, tower=EegptTower, hub="braindecode/eegpt-pretrained", licence="Apache-2.0",
        cohorts=("PhysioNet-MI", "HGD", "TSU", "SEED", "M3CV"), options={"chan_proj_type": "none"},
    ),
    # Yang et al., NeurIPS 2023: 200 Hz, 16 differences, each divided by the 95th percentile of its absolute values.
    "biot": Network(
        "BIOT", "BIOT, a linear transformer over spectra of 16 differences", 200, 10, "quantile",
        channels=BIPOLAR, tower=BiotTower, hub="braindecode/biot-pretrained-prest-16chs", licence="MIT",
        cohorts=("PREST",), options={"sfreq": 200},
    ),
    # Kostas et al., 2021, and DN3's MappingDeep1010: 256 Hz, the 19 electrodes together in -1..1, and a scale.
    "bendr": Network(
        "BENDR", "BENDR, convolutions and a transformer over 19 electrodes and a scale", 256, 60, "deep1010",
        fixed=True, tower=BendrTower, hub="braindecode/braindecode-bendr", licence="unknown", cohorts=("TUEG",),
    ),
    # Doener et al., NeurIPS 2025: 256 Hz, windows of 5 s, z-scores, places of electrodes in space.
    "luna": Network(
        "LUNA", "LUNA base, queries that gather any channels by their place", 256, 5, "z_scores",
        patch=40, tower=LunaTower, hub="PulpBio/LUNA", file="LUNA_base.safetensors", licence="Apache-2.0",
        cohorts=("TUEG", "Siena"), located=True,
    ),
    # Guetschel et al., 2024: 128 Hz, microvolts, 0.5 to 40 Hz; places of electrodes.
    "signal_jepa": Network(
        "SignalJEPA", "Signal-JEPA, convolutions and a transformer that knows the places of electrodes", 128, 16,
        "microvolts", hub="braindecode/signal-jepa_without-chans", cohorts=("Lee2019",), located=True,
    ),
    # El Ouahidi et al., NeurIPS 2025: 200 Hz, patches of 1 s that overlap by 0.1 s (11 of them fill 10 s), z-scores
    # clipped at 15; places of electrodes. 92 datasets, TUH's among them; weights behind terms to agree to.
    "reve": Network(
        "REVE", "REVE base, a transformer over patches of 1 s of any electrodes with a place", 200, 10, "clipped",
        patch=200, tower=ReveTower, hub="brain-bzh/reve-base", cohorts=("TUEG",), located=True,
    ),
    # Ma et al., 2025: 200 Hz, patches of 1 s, microvolts / 100 as LaBraM and CBraMod.
    "codebrain": Network(
        "CodeBrain", "CodeBrain, state spaces and windowed attention", 200, 30, "hundredth",
        patch=200, hub="braindecode/codebrain-pretrained", cohorts=("TUEG",),
    ),
    # Wang et al., MICCAI 2025: 200 Hz, patches of 1 s, microvolts / 100, 19 channels.
    "eegdino": Network(
        "EEGDINO", "EEG-DINO small, self-distilled, 19 channels", 200, 10, "hundredth",
        patch=200, hub="braindecode/eegdino-small-pretrained", cohorts=("TUEG",),
    ),
    "eegnet": _specialist("EEGNet", "EEGNet, depthwise and separable convolutions"),
    "eegnex": _specialist("EEGNeX", "EEGNeX, a deeper EEGNet"),
    "shallow": _specialist("ShallowFBCSPNet", "ShallowFBCSPNet, band power by convolution", 250.0),
    "deep4": _specialist("Deep4Net", "Deep4Net, four blocks of convolution", 250.0),
    "conformer": _specialist("EEGConformer", "EEG Conformer, convolutions and a transformer", 250.0),
}  # fmt: skip


def library() -> Any:
    """The module ``braindecode.models``.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its dependencies, about themselves
            import braindecode.models as models
    except ImportError as error:
        raise ConfigError(f"{INSTALL} ({error})") from error
    return models


@contextmanager
def unwarned() -> Any:
    """Keeps quiet what the library says of channels that are checked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def network(kind: Network, preparation: Preparation, options: Mapping[str, Any], places: Places | None = None) -> Any:
    """The library's network with random weights and without a classifier, for ``[B, channels, length]``.

    Args:
        kind: Which.
        preparation: What it is given.
        options: Of its class.
        places: Of its electrodes, for a network whose weights were trained with a list of its own; MNE's template
            unless given.
    """
    cls = getattr(library(), kind.cls)
    facts: dict[str, Any] = {"n_outputs": 2, "n_times": preparation.length, "sfreq": preparation.rate}
    names = [*preparation.channels, *SCALINGS[preparation.scaling].extra]
    facts["n_chans"] = len(names)
    if kind.located or kind.cls == "EEGPT":
        facts["chs_info"] = [{"ch_name": n, "kind": "eeg", "loc": _place(n)} for n in names]
    bank = supplied(places or template_places(names)) if kind.cls == "REVE" else nullcontext()
    with unwarned(), bank:
        model = cls(**{**facts, **kind.options, **options})
    if isinstance(getattr(model, "final_layer", None), nn.Module):
        model.final_layer = Through()
    return model


class Through(nn.Module):
    """In the place of a classifier: gives back what it is given, and leaves what else the network tells it."""

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        """``[B, ...]``, unchanged."""
        return x


def _place(name: str) -> Any:
    import numpy as np

    place = positions().get(electrode(name))
    return np.zeros(12) if place is None else np.concatenate([place, np.zeros(9)])


def check_channels(name: str, kind: Network, channels: Sequence[str]) -> None:
    """Refuses channels that a network does not take.

    Raises:
        ConfigError: With what it takes.
    """
    if kind.fixed and tuple(channels) != kind.channels:
        raise ConfigError(f"encoder {name} takes the channels {', '.join(kind.channels)} and no others")
    if kind.located and (unknown := [each for each in channels if electrode(each) not in positions()]):
        raise ConfigError(
            f"encoder {name} is told the place of each electrode, and the 10-05 system has none for "
            f"{', '.join(unknown)}; name single electrodes of it as channels="
        )
    if kind.cls in ("Labram", "EEGPT"):
        library()
        if kind.cls == "Labram":
            from braindecode.models.labram import LABRAM_CHANNEL_ORDER as order
        else:
            from braindecode.models.eegpt import EEGPT_CHANNELS as order
        known = {each.upper() for each in order}
        if unknown := [each for each in channels if each.upper() not in known]:
            raise ConfigError(
                f"encoder {name} was not trained on {', '.join(unknown)}; it knows {', '.join(sorted(known))}"
            )


def adopt(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors under the library's names and at the sizes of this window and these channels.

    LaBraM's published files have names of their own and a table of 16 seconds, of which the first ones are taken;
    buffers that say which channels a model was saved with are this model's own.

    Args:
        model: The network that they are for.
        state: Tensors of any shape by name.
    """
    mine = model.state_dict()
    state = {key if key in mine else _library_name(key): value for key, value in state.items()}
    table = "temporal_embedding"
    if table in state and table in mine and state[table].ndim == 3 and state[table].shape[1] > mine[table].shape[1]:
        state[table] = state[table][:, : mine[table].shape[1]]
    return {**state, **{key: mine[key] for key in ("chans_id",) if key in mine}}


def _library_name(key: str) -> str:
    tables = {"pos_embed": "position_embedding", "time_embed": "temporal_embedding"}
    if key in tables:
        return tables[key]
    if key.startswith("patch_embed.") and key.split(".")[1][:4] in ("conv", "norm"):
        return key.replace("patch_embed.", "patch_embed.temporal_conv.", 1)
    return key.replace(".mlp.fc1.", ".mlp.0.").replace(".mlp.fc2.", ".mlp.2.")


def width_of(encoder: EegEncoder) -> int:
    """Width of the tokens of a network that does not say it, from one run on silence.

    Raises:
        ConfigError: It does not run on its own window.
    """
    spec = encoder.spec
    with torch.no_grad():
        try:
            x = encoder.model(torch.zeros(1, spec.channels, *spec.input_size))
        except (RuntimeError, ValueError, IndexError) as error:
            raise ConfigError(
                f"encoder {spec.name} does not run on a window of {spec.input_size[0]} samples"
            ) from error
    if x.ndim == 2:
        return x.shape[1]
    return x.shape[-1] if encoder.model.__class__.__name__ in TOKENS_LAST else x.shape[1]


TOKENS_LAST = ("SignalJEPA", "CodeBrain", "EEGDINO")
"""Networks whose last axis is the width; convolutional ones have it second."""
