"""Image processors of transformers as functions from a PIL image to a prepared tensor, all of one size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medgraft.encoders.parts.hf.families import Family
from medgraft.encoders.parts.hf.towers import PilProcessor, pair
from medgraft.encoders.parts.hub import fetching
from medgraft.encoders.parts.quiet import quiet

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
FILES = ("preprocessor_config.json", "processor_config.json")
USUAL_SIZE = (224, 224)
NAFLEX = "siglip2"


def image_processor(family: Family, name: str, place: str | None, config: Any) -> PilProcessor:
    """The model's own image processor, or its family's usual one where the weights come without.

    Args:
        family: Of the model.
        name: Of the encoder, for errors.
        place: Hub id or folder of the processor; ``None`` where there is none.
        config: The model's configuration.
    """
    import transformers

    vision = getattr(config, "vision_config", config)
    channels, naflex = int(getattr(vision, "num_channels", 3)), vision.model_type.startswith(NAFLEX)
    with quiet():
        if place is not None:
            with fetching(name, what="image processor", local=Path(place).exists()):
                processor = transformers.AutoImageProcessor.from_pretrained(place)
            if naflex:
                means = {"image_mean": processor.image_mean, "image_std": processor.image_std}
                processor = transformers.ViTImageProcessor(size=_size(vision), **means)
            return _of_one_size(PilProcessor(processor, channels), vision)
        if family.general:
            return _usual(family, vision, channels, naflex)
        height, width = pair(vision.image_size)
        settings: dict[str, Any] = {"size": {"height": height, "width": width}}
        if family.crops:
            settings = {"size": {"shortest_edge": max(height, width)}, "crop_size": settings["size"]}
        if family.any_size:
            settings |= {**IMAGENET, "resample": 3}
        return PilProcessor(getattr(transformers, family.processor)(**settings), channels)


def _size(vision: Any) -> dict[str, int]:
    """Height and width that a configuration names: its image size, or the square of its positions."""
    if vision.model_type.startswith(NAFLEX):
        side = int(vision.num_patches**0.5) * vision.patch_size
        return {"height": side, "width": side}
    height, width = pair(getattr(vision, "image_size", None) or USUAL_SIZE)
    return {"height": height, "width": width}


def _usual(family: Family, vision: Any, channels: int, naflex: bool) -> PilProcessor:
    """A family's processor with its own mean and deviation, and the configuration's size without a crop."""
    import transformers

    processor = getattr(transformers, family.processor)()
    means: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    if not naflex and getattr(processor, "image_mean", None):
        means = {"image_mean": processor.image_mean, "image_std": processor.image_std}
    resample = getattr(processor, "resample", None)
    plain = transformers.ViTImageProcessor(size=_size(vision), resample=resample or 3, **means)
    return PilProcessor(plain, channels)


def _of_one_size(transform: PilProcessor, vision: Any) -> PilProcessor:
    """The processor as it is where images of all shapes come out alike, else one that ignores their aspect."""
    import transformers
    from PIL import Image

    shapes: set[tuple[int, ...]] = set()
    for size in ((60, 80), (120, 50)):
        try:
            shapes.add(tuple(transform(Image.new("L" if transform.channels == 1 else "RGB", size)).shape[1:]))
        except (ValueError, RuntimeError, TypeError, IndexError):  # a processor that gives no single image
            shapes |= {(0,), (1,)}
    if len(shapes) == 1:
        transform.output_shape = shapes.pop()  # pyright: ignore[reportAttributeAccessIssue]
        return transform
    processor: Any = transform.processor
    means = {"image_mean": processor.image_mean, "image_std": processor.image_std}
    return PilProcessor(transformers.ViTImageProcessor(size=_size(vision), resample=3, **means), transform.channels)


def processor_place(model: str, source: str | Path, folder: Path | None) -> str | None:
    """Where a model's image processor lies: beside its weights, on the hub with them, or nowhere."""
    if folder is not None and any((folder / file).is_file() for file in FILES):
        return str(folder)
    return model if source == "default" else None
