"""What the sources share: weights from files and hubs, raw samples, and running a library's blocks one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from medgraft.checkpoints.weights import state_digest
from medgraft.encoder import Encoder, EncoderSpec, TextEncoder
from medgraft.encoders.parts.hub import cached_file, demand, fetching, reason
from medgraft.encoders.parts.matching import matches_in
from medgraft.errors import CheckpointError, ConfigError, DataError, MedgraftError
from medgraft.features import Features
from medgraft.files.archives import check_weights_folder

AnyEncoder = TypeVar("AnyEncoder", bound=Encoder)


# -- weights ----------------------------------------------------------------------------------------------------------


def origin(weights: str, sha256: str | None = None) -> str | Path:
    """What ``weights`` asks for: ``"default"``, ``"random"`` or the path of a file or folder.

    Raises:
        CheckpointError: It is neither a keyword nor something on this disk, or a folder with damaged weights or more
            than a limit of :mod:`medgraft.files.limits` allows.
        ConfigError: ``sha256`` was given for what is not one file.
    """
    if weights in ("default", "pretrained", "random"):
        place: str | Path = "random" if weights == "random" else "default"
    else:
        place = Path(weights).expanduser()
        if not place.exists():
            raise CheckpointError(
                f"weights {weights!r} do not exist; give 'default', 'random', or the path of a local file or folder"
            )
    if sha256 is not None and not (isinstance(place, Path) and place.is_file()):
        raise ConfigError(f"sha256 can be checked for one local file only, and the weights are {weights!r}")
    if isinstance(place, Path) and place.is_dir():
        try:  # a library will load from it; single files are looked through when they are read
            check_weights_folder(place)
        except CheckpointError as error:
            raise CheckpointError(f"weights {weights} could not be loaded: {error}") from error
    return place


def hub_file(name: str, repository: str, *files: str) -> Path:
    """A file of a repository of Hugging Face: the first of ``files`` that is there, from the hub or its local cache.

    Raises:
        CheckpointError: None of them can be fetched.
    """
    demand(name, repository)
    with fetching(name):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        for file in files[:-1]:
            try:
                return Path(hf_hub_download(repository, file))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                continue
        return Path(hf_hub_download(repository, files[-1]))


def url_file(name: str, url: str) -> Path:
    """A file behind an address, kept in torch's cache of checkpoints.

    Raises:
        CheckpointError: It cannot be fetched.
    """
    path = cached_file(url)
    if not path.is_file():
        with fetching(name, url=url):
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), progress=False)
    return path


def file_in(path: Path, names: Sequence[str]) -> Path:
    """A file as it is, or the first of some names in a folder.

    Raises:
        CheckpointError: The folder holds none of them.
    """
    if not path.is_dir():
        return path
    for name in names:
        if (path / name).is_file():
            return path / name
    raise CheckpointError(f"{path} holds none of {', '.join(names)}; name the file itself")


@contextmanager
def seeded() -> Iterator[None]:
    """Fresh weights inside are always the same, and the caller's random state is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


@contextmanager
def options_of(name: str) -> Iterator[None]:
    """Turns a library's complaint about an option into a :class:`ConfigError`."""
    try:
        yield
    except MedgraftError:
        raise
    except Exception as error:  # each library validates its options in its own way
        raise ConfigError(f"encoder {name} cannot be built with these options: {reason(error)}") from error


def finish(encoder: AnyEncoder, source: str | Path, also: str = "") -> AnyEncoder:
    """Freezes a newly built encoder and writes down where its weights come from, in it and in its towers.

    Args:
        encoder: The encoder.
        source: What :func:`origin` found.
        also: What its files say besides their tensors that changes its features, so that results tell it apart.
    """
    encoder.freeze()
    encoder.loaded = matches_in(encoder)
    digest = state_digest(encoder)
    digest = hashlib.sha256(f"{digest}|{also}".encode()).hexdigest() if also else digest
    weights = "random" if source == "random" else f"pretrained:{digest}"
    for each in {id(e): e for e in (encoder, *encoder.towers().values())}.values():
        each.spec = each.spec.model_copy(update={"weights": weights})
    return encoder


# -- raw samples ------------------------------------------------------------------------------------------------------


def rgb_image(raw: Any) -> Any:
    """An image ``uint8 [H, W]`` or ``[H, W, 3]`` as a PIL image in RGB; grey values are repeated."""
    from PIL import Image

    values = np.ascontiguousarray(raw)
    if values.dtype != np.uint8 or not (values.ndim == 2 or values.shape[2:] == (3,)):
        raise DataError(f"an image must be uint8 [H, W] or [H, W, 3], got {values.dtype} {list(values.shape)}")
    return Image.fromarray(values).convert("RGB")


def raw_image(raw: Any, channels: int) -> Any:
    """An image as a PIL image of one grey channel, or in RGB.

    Args:
        raw: ``uint8 [H, W]`` or ``[H, W, 3]``.
        channels: 1 or 3.
    """
    image = rgb_image(raw)
    return image.convert("L") if channels == 1 else image


def check_channels(name: str, channels: int) -> None:
    """A model of images takes grey values or colours.

    Raises:
        ConfigError: It takes another number of channels.
    """
    if channels not in (1, 3):
        raise ConfigError(f"encoder {name} takes {channels} channels, and an image is prepared as 1 or 3")


def intensity(mean: Sequence[float], std: Sequence[float]) -> str:
    """What the values of an image mean that was scaled per channel, in words."""

    def brief(values: Sequence[float]) -> str:
        rounded = [f"{value:.3g}" for value in values]
        return rounded[0] if len(set(rounded)) == 1 else f"({', '.join(rounded)})"

    return f"(grey / 255 - {brief(mean)}) / {brief(std)}"


class LazyTokenizer:
    """A tokenizer that is loaded on first use, so that an encoder can be built where none is at hand.

    Args:
        name: Encoder it belongs to, for the error.
        load: Returns a function from one text to token ids ``int64 [L]``.
        remote: It may have to be fetched.
    """

    def __init__(self, name: str, load: Callable[[], Callable[[str], Tensor]], *, remote: bool = False) -> None:
        self.name = name
        self.load = load
        self.remote = remote
        self.ready: Callable[[str], Tensor] | None = None

    def __call__(self, text: str) -> Tensor:
        """Token ids ``int64 [L]``."""
        if self.ready is None:
            remedy = "put tokenizer.json or vocab.txt beside the weights (@/folder), or name a folder as tokenizer="
            with fetching(self.name, remedy, what="tokenizer", local=not self.remote):
                self.ready = self.load()
        return self.ready(text)


class LibraryText(TextEncoder):
    """Common part of the text towers: tokens in, whole run, no stages.

    Args:
        spec: Facts; ``input_size`` is ``(L,)``.
        tokenizer: Maps one text to ``int64 [L]``.
        pad_id: Token that fills up short texts.
    """

    _paths: tuple[str, ...] = ()

    def __init__(self, spec: EncoderSpec, tokenizer: LazyTokenizer, pad_id: int) -> None:
        super().__init__(spec)
        self.tokenizer = tokenizer
        self.pad_id = pad_id

    def set_blocks(self, stack: str) -> None:
        """Declares the children of the module at path ``stack`` as the blocks."""
        self._paths = tuple(f"{stack}.{name}" for name, _ in self.get_submodule(stack).named_children())

    def block_paths(self) -> Sequence[str]:
        """Module path of each block; empty where the library's blocks are of an unknown kind."""
        return self._paths

    def prepare(self, raw: Any) -> Tensor:
        """A text -> ``int64 [L]`` by the library's tokenizer, padded or cut to the model's length."""
        return self.tokenizer(str(raw))

    def checked(self, ids: Tensor) -> Tensor:
        """Token ids, ``int64 [B, L]``, once their shape is known to be right; few columns only where it takes them."""
        length = self.spec.input_size[0]
        fits = ids.ndim == 2 and (1 if self.any_length else length) <= ids.shape[1] <= length
        if not fits or ids.is_floating_point():
            columns = f"1 to {length}" if self.any_length else length
            raise ConfigError(
                f"encoder {self.spec.name} takes token ids int64 [B, {columns}], got "
                f"{str(ids.dtype).removeprefix('torch.')} {list(ids.shape)}; use its tokenize()"
            )
        return ids


def real_until(ids: Tensor, end_id: int) -> Tensor:
    """``[B, L]``, true up to and including the first end token; everywhere in a row without one.

    For tokenizers whose padding cannot be told from a real token by its id.
    """
    ends = ids == end_id
    return ends.cumsum(dim=-1) - ends.long() == 0


# -- stages -----------------------------------------------------------------------------------------------------------


class StagedEncoder(Encoder):
    """An encoder whose library runs as ``embed``, then a list of modules, then ``pool``.

    Subclasses call :meth:`set_blocks` and implement :meth:`embed` and :meth:`pool`. Running from a stage and running
    whole take the same path, so they agree to the bit.

    Attributes:
        any_size: Inputs of another spatial size than the spec's are taken too (CNNs).
    """

    any_size: bool = False
    _paths: tuple[str, ...] = ()

    def set_blocks(self, paths: Sequence[str]) -> None:
        """Declares the modules that run one after another, by path; stage ``1 + i`` precedes module ``i``."""
        self._paths = tuple(paths)
        self.block_stages = range(1, len(self._paths) + 1)
        self.n_stages = len(self._paths) + 1

    def embed(self, x: Tensor) -> Tensor:
        """Prepared batch ``[B, channels, *size]`` -> input of the first block, tokens ``[B, N, C]`` or a map."""
        raise TypeError(f"{type(self).__name__} must implement embed()")

    def pool(self, x: Tensor) -> Features:
        """Output of the last block, tokens ``[B, N, C]`` or a map -> features."""
        raise TypeError(f"{type(self).__name__} must implement pool()")

    def run(self, x: Tensor, first: int, stop: int) -> Tensor:
        """Runs blocks ``first`` to ``stop - 1``, ``[B, N, C] -> [B, N, C]`` for tokens."""
        for path in self._paths[first:stop]:
            x = self.get_submodule(path)(x)
        return x

    def block_paths(self) -> Sequence[str]:
        """Module path of each block."""
        return self._paths

    def prefix(self, x: Tensor, stop: int) -> Tensor:
        """Stage 0 is the prepared batch, ``[B, channels, *size]``; stage ``1 + i`` precedes block ``i``."""
        self._check_stage(stop)
        return x if stop == 0 else self.run(self.embed(self.checked(x)), 0, stop - 1)

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Features of a prepared batch, ``[B, channels, *size]``, or of a hidden state and its stage."""
        self._check_stage(start)
        if start == 0:
            x, start = self.embed(self.checked(x)), 1
        return self.pool(self.run(x, start - 1, len(self._paths)))

    def _check_stage(self, stage: int) -> None:
        if not 0 <= stage < self.n_stages:
            raise ConfigError(f"encoder {self.spec.name} has stages 0 to {self.n_stages - 1}, not {stage}")

    def checked(self, x: Tensor) -> Tensor:
        """A prepared batch, once its shape is known to be right: ``[B, channels, *input_size]``, or ``any_size``."""
        size, channels = self.spec.input_size, self.spec.channels
        fits = x.ndim == len(size) + 2 and x.shape[1] == channels and (self.any_size or tuple(x.shape[2:]) == size)
        if not fits:
            shape = ", ".join(str(n) for n in ("B", channels, *size))
            raise ConfigError(f"encoder {self.spec.name} takes [{shape}], got {list(x.shape)}; use its prepare()")
        return x
