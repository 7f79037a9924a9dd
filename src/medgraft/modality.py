"""The contract of a modality plugin: what one sample is, raw and prepared, and how it may be varied.

A modality is found by its name in the entry-point group ``medgraft.modalities``. Tasks name those of their inputs,
towers of encoders the one that they read; whoever needs to know what a sample looks like asks the modality, so that a
new one is one file and one entry point. A plugin gives a name, the form of a raw sample, and an example of one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from medgraft import plugins
from medgraft.errors import ConfigError, DataError, PluginError
from medgraft.typed.values import is_a

if TYPE_CHECKING:  # planning checks names of modalities before torch is imported
    from torch import Generator, Tensor

    from medgraft.encoder import Encoder, EncoderSpec

TEXT = "text"
"""Name of the built-in modality of texts, which class prompts are of."""


class Modality:
    """Base class of modality plugins; an object of one has no state.

    A raw sample is a NumPy array of :attr:`dtype` and :attr:`rank`, unless the class overrides :meth:`check`. A
    prepared batch is ``float32 [B, channels, *input_size]`` with the numbers of the tower's spec, unless it overrides
    :meth:`input_shape`.

    Attributes:
        api_version: Version of this contract that the plugin was written for.
        name: The name of its entry point.
        raw: Form of a raw sample, in the words of an error: ``float32 [C, T]``.
        dtype: NumPy type of a raw sample.
        rank: Axes of a raw sample.
        text: A sample is a text, which its tower makes tokens of, ``int64 [L]``.
        axes: Axes of the image or volume that the tokens of a tower lie in, 2 or 3, for adapters that convolve over
            them; 0 for other samples.
        measure_batch: Samples at once where speed and memory are measured.
    """

    api_version: ClassVar[int] = 1
    name: ClassVar[str]
    raw: ClassVar[str]
    dtype: ClassVar[str] = "float32"
    rank: ClassVar[int] = 1
    text: ClassVar[bool] = False
    axes: ClassVar[int] = 0
    measure_batch: ClassVar[int] = 16

    # -- raw samples --------------------------------------------------------------------------------------------------

    def example(self, random: np.random.Generator) -> Any:
        """A raw sample with some content, for checks of encoders.

        Args:
            random: Draws it.
        """
        raise TypeError(f"{type(self).__name__} must implement example()")

    def blank(self) -> Any:
        """A raw sample without content: an example of zeros, unless overridden."""
        return np.zeros_like(self.example(np.random.default_rng(0)))

    def check(self, raw: Any) -> None:
        """Refuses what is no raw sample.

        Raises:
            DataError: It is something else, of another type or rank, or holds values that are not finite.
        """
        self.check_array(raw, self.dtype, self.rank)

    def check_array(self, raw: Any, dtype: str, rank: int) -> None:
        """Refuses what is no finite NumPy array of a type and a rank; see :meth:`check`.

        Raises:
            DataError: It is not.
        """
        if not is_a(raw, np.ndarray):
            self.refuse(f"is a {type(raw).__name__}")
        if raw.dtype != np.dtype(dtype) or raw.ndim != rank:
            self.refuse(f"is {raw.dtype} of shape {list(raw.shape)}")
        if not np.isfinite(raw).all():
            self.refuse("holds values that are not finite")

    def refuse(self, problem: str, reason: str = "") -> None:
        """Raises the error for something that is no raw sample.

        Args:
            problem: What it is, as the rest of a sentence.
            reason: The flaw in a few words, to count it by; by default that it is no raw sample.

        Raises:
            DataError: Always.
        """
        raise DataError(
            f"a sample {problem}; a raw sample of modality {self.name!r} is {self.raw}", reason or f"not {self.raw}"
        )

    def probes(self) -> Sequence[Any]:
        """Raw samples by which a cache tells apart what encoders make of them; they never change.

        Empty where it takes some of the cohort's own, as for texts, which hold its vocabulary.
        """
        return [self.example(np.random.default_rng(0))]

    def colour_probes(self) -> Sequence[Any]:
        """Further probes where the samples are coloured, see :attr:`medgraft.task.RawInputs.colour`; mostly none."""
        return []

    def fitted(self, raw: Any, spec: EncoderSpec) -> Any:
        """A raw sample of several forms in the one that a tower can read; the sample itself, unless overridden."""
        return raw

    # -- prepared samples ---------------------------------------------------------------------------------------------

    def input_shape(self, spec: EncoderSpec) -> tuple[int, ...]:
        """Shape of one prepared sample."""
        return (spec.channels, *spec.input_size)

    def axes_of(self, spec: EncoderSpec) -> int:
        """Axes of the image or volume that the tokens of a tower lie in: :attr:`axes`, unless its input has others."""
        return self.axes

    def is_sound(self, x: Tensor) -> bool:
        """Whether one prepared sample, ``[*input_shape]``, is finite, or says in an agreed way what it lacks.

        Nothing may be lacking unless a modality overrides this.
        """
        return bool(x.isfinite().all())

    def blank_batch(self, tower: Encoder) -> Tensor:
        """One prepared sample without content, ``[1, *input_shape]``, on the tower's device and in its precision."""
        import torch  # here, since planning does without

        shape = (1, *self.input_shape(tower.spec))
        dtype = next((p.dtype for p in tower.parameters() if p.is_floating_point()), torch.float32)
        return torch.zeros(shape, dtype=dtype, device=tower.device)

    def example_batch(self, tower: Encoder, size: int, generator: Generator) -> Tensor:
        """Made-up prepared samples ``[size, *input_shape]``, on the CPU and in single precision.

        Args:
            tower: Whose inputs.
            size: Samples ``B``.
            generator: Draws them.
        """
        import torch  # here, since planning does without

        return torch.randn(size, *self.input_shape(tower.spec), generator=generator)

    # -- augmentation -------------------------------------------------------------------------------------------------

    def augmentation(self) -> Mapping[str, float] | None:
        """What defines its augmented views, for the cache that keeps them; ``None`` where a sample has none."""
        return None

    def view(self, x: Tensor, index: np.ndarray, view: int) -> Tensor:
        """One augmented view of each sample, which depends on the view and the sample's number alone.

        Args:
            x: Prepared samples ``[B, *input_shape]``.
            index: Numbers of the samples, ``int64 [B]``.
            view: Which view, from 0.

        Returns:
            A tensor like ``x``; ``x`` itself where a sample has no views.
        """
        return x


def draws(index: np.ndarray, view: int, count: int) -> np.ndarray:
    """Numbers that make a view, uniform in -1 to 1, the same for a sample whatever batch it is in.

    Args:
        index: Numbers of the samples, ``int64 [B]``.
        view: Which view.
        count: Numbers for each sample.

    Returns:
        ``float64 [B, count]``.
    """
    return np.stack([np.random.default_rng([29, view, int(i)]).uniform(-1, 1, count) for i in index])


def prepared(tower: Encoder, raw: Any) -> Tensor:
    """What a tower makes of one raw sample, ``[*input_shape]``, in the form that it reads; see :meth:`Modality.fitted`.

    Args:
        tower: Whose ``prepare`` is applied.
        raw: As the tower's modality says.

    Raises:
        DataError: The sample is none that it can read.
    """
    return tower.prepare(find_modality(tower.spec.modality).fitted(raw, tower.spec))


@functools.cache
def find_modality(name: str) -> Modality:
    """A modality by its name.

    Raises:
        UnknownNameError: No installed plugin has the name, or several have; near ones are suggested.
        PluginError: It cannot be imported, or is no modality of that name.
    """
    plugin = plugins.find("modality", name)
    cls: type[Modality] = plugins.load(plugin)
    if cls.name != plugin.name.rpartition(":")[2]:
        raise PluginError(
            f"modality {plugin.name!r} ({plugin.target}, from {plugin.distribution} {plugin.version}) has "
            f"name = {cls.name!r}; give the class the name of its entry point"
        )
    return cls()


@functools.cache
def check_modality(name: str) -> None:
    """Refuses a name that is no modality's, without importing the modality.

    Raises:
        UnknownNameError: No installed plugin has the name, or several have.
    """
    plugins.find("modality", name)


def check_modalities(names: Iterable[str], what: str) -> None:
    """Refuses names of which one is no modality's, or stands twice; imports none of them.

    Args:
        names: Names of modalities.
        what: Whose they are, for the error.

    Raises:
        UnknownNameError: No installed plugin has one of the names, or several have.
        ConfigError: One stands twice.
    """
    names = list(names)
    for name in names:
        check_modality(name)
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ConfigError(f"{what} names the modality {' and '.join(twice)} twice; name each once")


def is_text(name: str) -> bool:
    """Whether samples of a modality are texts."""
    return find_modality(name).text
