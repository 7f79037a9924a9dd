"""Encoders of EEG from braindecode: foundation models (LaBraM, CBraMod, EEGPT, BIOT, BENDR, REVE ...) and specialists.

``braindecode:labram``. A raw sample is a :class:`~medgraft.modalities.signal.Recording`; what each network was trained
on (rate, window, unit, channels) is brought about from it and said in the spec's ``intensity``. Options may stand in
the name, ``braindecode:labram,unit=V,missing=drop``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoders.parts.eeg.networks import NETWORKS, Network, adopt, check_channels, library, network, width_of
from medgraft.encoders.parts.eeg.recordings import SCALINGS, Preparation, Recorded, preparation_of
from medgraft.encoders.parts.eeg.reve import Places, places_of
from medgraft.encoders.parts.eeg.towers import check_droppable
from medgraft.encoders.parts.hub import demand
from medgraft.encoders.parts.loading import file_in, finish, hub_file, options_of, origin, seeded
from medgraft.encoders.parts.matching import load_file
from medgraft.encoders.parts.name_options import ListedModels
from medgraft.errors import CheckpointError

FILES = ("model.safetensors", "pytorch_model.bin")
NOT_ENCODER = (
    r"^final_layer\.",
    r"^(head|classifier|lm_head|decoder_head|channel_emb)\b",
    r"^(logits|projection_head|logit_scale|codebook|mask_token|cls_query_token)",
    r"^(predictor|reconstructor|encoder\.chan_conv|chan_proj|chan_conv)\.",
)


class BraindecodeSource(ListedModels):
    """Entry point ``braindecode``."""

    name = "braindecode"
    Config = Recorded
    listed = NETWORKS

    @classmethod
    def models(cls) -> dict[str, str]:
        """Names that ``build`` takes, with a line each."""
        return {name: kind.line for name, kind in NETWORKS.items()}

    @classmethod
    def make(
        cls,
        model: str,
        weights: str,
        sha256: str | None,
        channels: Sequence[str] | None = None,
        **options: Any,
    ) -> Encoder:
        """Builds an encoder of recordings, prepared as ``[channels, T]``.

        Args:
            model: A key of :meth:`models`, options behind it.
            weights: ``"default"`` (published on the hub), ``"random"``, or a local file or a folder with one.
            sha256: Expected digest of the local file.
            channels: Electrodes that the network is given, in this order, where it takes any; unless given, those that
                it was trained on or the 19 of the 10-20 system.
            **options: As :class:`Recorded` says, in place of what the name says; others are passed to braindecode's
                class, for example ``num_layers``.

        Raises:
            ConfigError: An option does not fit the model, or braindecode is not installed.
            CheckpointError: The weights cannot be fetched, read or fitted.
        """
        own = {option: options.pop(option) for option in Recorded.model_fields if option in options}
        base, recorded = cls.parsed(model, own)
        name, source, kind = f"braindecode:{cls.with_options(model, own)}", origin(weights, sha256), NETWORKS[base]
        preparation = _preparation(name, kind, channels, recorded)
        if source == "default":
            if not kind.hub:
                raise CheckpointError(f"encoder {name}: no weights of it are published; use @random or @/path/to/file")
            demand(name, kind.hub)
        library()
        check_channels(name, kind, preparation.channels)
        places = places_of(name, preparation.channels, source) if kind.cls == "REVE" else None
        with seeded(), options_of(name):
            built = network(kind, preparation, options, places)
        if source != "random":
            path = hub_file(name, kind.hub, *([kind.file] if kind.file else FILES)) if source == "default" else source
            path = file_in(Path(path), FILES)
            load_file(built, path, sha256, drop=NOT_ENCODER, refit=lambda state: adopt(built, state))
        spec = _facts(name, kind, preparation, source, built, places)
        with seeded():  # a tower may rearrange layers into new ones
            encoder = kind.tower(spec, built, preparation)
        if spec.dim == 0:
            encoder.train(False)
            encoder.spec = spec.model_copy(update={"dim": width_of(encoder)})
        return finish(encoder, source, spec.intensity)


def _preparation(name: str, kind: Network, channels: Sequence[str] | None, recorded: Recorded) -> Preparation:
    preparation = preparation_of(
        name,
        kind.channels if channels is None else channels,
        kind.rate,
        kind.seconds if recorded.seconds is None else recorded.seconds,
        kind.patch,
        kind.scaling,
        recorded.unit,
        recorded.missing,
    )
    check_droppable(name, kind.tower, preparation)
    return preparation


def _facts(
    name: str, kind: Network, preparation: Preparation, source: str | Path, built: Any, places: Places | None
) -> EncoderSpec:
    widths = {
        "Labram": lambda: (built.embed_dim, len(built.blocks) and built.blocks[0].attn.num_heads, "CLS token"),
        "CBraMod": lambda: (built.proj_out[0].out_features, 2 * built.encoder.layers[0].self_attn_s.num_heads, "mean"),
        "EEGPT": lambda: (built.embed_dim, built.num_heads, "mean"),
        "BIOT": lambda: (built.embed_dim, built.num_heads, "mean"),
        "BENDR": lambda: (
            built.contextualizer.transformer_dim,
            built.contextualizer.transformer_layers[0].self_attn.num_heads,
            "start token, through the output layer",
        ),
        "REVE": lambda: (
            built.embed_dim,
            built.heads,
            "attention of a learned query" if built.use_attention_pooling else "mean",
        ),
        "LUNA": lambda: (built.embed_dim * built.num_queries, built.num_heads * built.num_queries, "mean"),
    }
    dim, heads, pooling = widths.get(kind.cls, lambda: (0, 0, "mean"))()
    return EncoderSpec(
        name=name,
        modality="signal",
        input_size=(preparation.length,),
        channels=len(preparation.channels) + len(SCALINGS[kind.scaling].extra),
        intensity=f"{preparation.words}; {places.words}" if places else preparation.words,
        dim=dim,
        heads=heads,
        pooling=pooling,
        licence={"random": "BSD-3-Clause", "default": kind.licence}.get(str(source), "unknown"),
        cohorts=kind.cohorts if source == "default" else (),
        weights="random",
    )
