"""``signal``: channels over time, such as an EEG or an ECG, with their names and the rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medgraft.modality import Modality, draws

if TYPE_CHECKING:
    from torch import Tensor

GAIN = 0.1
SHIFT = 0.05


@dataclass(frozen=True)
class Recording:
    """A raw signal.

    Attributes:
        values: ``float32 [C, T]``, a row for each channel.
        channels: Names of the ``C`` channels, such as ``Fz`` or ``II``.
        rate: Samples per second.
    """

    values: np.ndarray
    channels: tuple[str, ...]
    rate: float


class Signal(Modality):
    """A :class:`Recording`; prepared, ``float32 [channels, T]``, ``input_size`` being ``(T,)``."""

    name = "signal"
    raw = "a Recording of values float32 [C, T], C names of channels and a rate in Hz"
    dtype = "float32"
    rank = 2

    def example(self, random: np.random.Generator) -> Recording:
        """A second of noise at 100 Hz from three electrodes."""
        return Recording(random.standard_normal((3, 100)).astype(np.float32), ("Fz", "Cz", "Pz"), 100.0)

    def blank(self) -> Recording:
        """A second of silence at 100 Hz from three electrodes."""
        return Recording(np.zeros((3, 100), np.float32), ("Fz", "Cz", "Pz"), 100.0)

    def check(self, raw: Any) -> None:
        """Refuses what is no recording, or one whose channels are not named one by one, or that has no rate."""
        if not isinstance(raw, Recording):
            self.refuse(f"is a {type(raw).__name__}")
        self.check_array(raw.values, self.dtype, self.rank)
        if len(raw.channels) != len(raw.values) or len(set(raw.channels)) != len(raw.channels):
            self.refuse(f"has {len(raw.values)} channels called {', '.join(raw.channels) or 'nothing'}")
        if not (np.isfinite(raw.rate) and raw.rate > 0):
            self.refuse(f"has a rate of {raw.rate} Hz")

    def is_sound(self, x: Tensor) -> bool:
        """Whether each channel of ``[channels, T]`` is finite, or ``nan`` throughout since it is left out; not all."""
        absent = x.isnan().all(dim=-1)
        return bool(x[~absent].isfinite().all()) and not bool(absent.all())

    def augmentation(self) -> dict[str, float]:
        """The largest deviations of gain (relative) and of time (as a share of the length)."""
        return {"gain": GAIN, "shift": SHIFT}

    def view(self, x: Tensor, index: np.ndarray, view: int) -> Tensor:
        """Signals ``[B, C, T]``, a little louder or softer, and earlier or later; the ends keep their values."""
        import torch  # here, since planning does without

        drawn = torch.from_numpy(draws(index, view, 2)).to(x.dtype)  # pyright: ignore[reportUnknownMemberType]
        length = x.shape[-1]
        steps = (SHIFT * length * drawn[:, 1]).round().long()
        places = (torch.arange(length) + steps[:, None]).clamp(0, length - 1)
        ones = (-1, *(1 for _ in x.shape[1:]))
        later = x.gather(-1, places.view(len(x), *(1 for _ in x.shape[1:-1]), length).expand_as(x))
        return later * (1 + GAIN * drawn[:, 0].view(ones))
