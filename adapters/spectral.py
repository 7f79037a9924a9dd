"""Spectral adapter for signals: a bottleneck with a learned filter along time, in front of each block.

Ours, after the learned filters of Rao et al., "Global Filter Networks for Image Classification", NeurIPS 2021 (arXiv
2107.00645), there over the axes of an image and at full width, in the bottleneck of Houlsby et al., ICML 2019 (arXiv
1902.00751). Of each channel of the signal, ``X <- X + f(irfft(G * rfft(X W_down))) W_up`` along its tokens in time.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter.knobs import SizeKnob
from medgraft.adapters.parts.signal_grid import SignalGridAdapter, SignalGridConfig
from medgraft.encoder.sites import Site
from medgraft.errors import IncompatibleError

Gains = Literal["complex", "bands"]


class SpectralBottleneck(nn.Module):
    """``f(irfft(G * rfft(X W_down))) W_up`` over tokens on a grid of channels and time.

    Args:
        dim: Width of the tokens, ``C``.
        width: Numbers inside, ``r``.
        steps: Tokens in time, ``T``.
        gains: ``complex``, one for each of the ``T // 2 + 1`` frequencies and each number inside; or ``bands``, a real
            one for each of some bands of frequencies.
        bands: Number of bands, of about as many frequencies each.
        like: A weight of the encoder, for type and device.
    """

    def __init__(self, dim: int, width: int, steps: int, gains: Gains, bands: int, like: Tensor) -> None:
        super().__init__()
        place = {"dtype": like.dtype, "device": like.device}
        frequencies = steps // 2 + 1
        self.down, self.up = nn.Linear(dim, width, **place), nn.Linear(width, dim, **place)
        self.steps, self.gains = steps, gains
        shape = (width, frequencies, 2) if gains == "complex" else (width, min(bands, frequencies))
        self.gain = nn.Parameter(torch.ones(shape, **place))
        band = torch.arange(frequencies) * shape[1] // frequencies
        self.register_buffer("band", band.to(like.device), persistent=False)
        with torch.no_grad():
            if gains == "complex":
                self.gain[..., 1] = 0
            for zero in (self.down.bias, self.up.weight, self.up.bias):
                zero.zero_()

    def forward(self, places: Tensor) -> Tensor:
        """Map ``[B, C, channels, time]`` -> what is added to it, same shape."""
        inside = self.down(places.movedim(1, -1)).movedim(-1, 1)
        wide = inside.to(torch.promote_types(inside.dtype, torch.float32))  # no half precision in Fourier transforms
        spectrum = torch.fft.rfft(wide, dim=-1)
        gain = self.gain.to(wide.dtype)
        if self.gains == "complex":
            spectrum = spectrum * torch.complex(gain[..., 0], gain[..., 1])[:, None]
        else:
            assert isinstance(self.band, Tensor)
            spectrum = spectrum * gain[:, self.band][:, None]
        filtered = torch.fft.irfft(spectrum, n=self.steps, dim=-1).to(inside.dtype)
        return self.up(F.gelu(filtered).movedim(1, -1)).movedim(-1, 1)


class Spectral(SignalGridAdapter):
    """One filter along time per block, the same for all channels of the signal, in a bottleneck of the tokens.

    Filters begin as all-pass ones and ``W_up`` at zero, so a fresh graft changes nothing. A gain is of a frequency of
    the sequence of tokens, so with tokens of one second the fastest is half a cycle per second: it filters how the
    rhythms in the tokens come and go, not the rhythms. The transform takes the window for a period. The imaginary part
    of the gain of the slowest frequency, and of the fastest where the tokens are even in number, says nothing.
    """

    paper = (
        "medgraft's own, after Rao et al., Global Filter Networks for Image Classification, NeurIPS 2021 (arXiv "
        "2107.00645), and Houlsby et al., ICML 2019 (arXiv 1902.00751)"
    )
    licence = "Apache-2.0"
    formula = (
        r"X_e \leftarrow X_e + f\left(\mathcal{F}^{-1}\left(G \odot \mathcal{F}(X_e W_{down})\right)\right) W_{up}"
    )
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 6})
    size_knob = SizeKnob("width")
    search = MappingProxyType({"width": (4, 8, 16, 32, 64)})

    class Config(SignalGridConfig):
        """Options.

        Attributes:
            width: Numbers inside the bottleneck.
            gains: ``complex``, a gain with a phase for each frequency, or ``bands``, a real one for each band.
            bands: Bands of ``gains="bands"``.
            depth: Group of blocks.
        """

        width: int = Field(16, ge=1)
        gains: Gains = "complex"
        bands: int = Field(4, ge=1)

    config: Config
    modules_name = "filter"
    what = "spectral"

    def on_grid(self, site: Site, dim: int, channels: int, steps: int, like: Tensor) -> SpectralBottleneck:
        """The filter in front of one block, over a map ``[B, dim, channels, steps]``.

        Raises:
            IncompatibleError: The encoder has one token in time, which has no frequencies.
        """
        if steps < 2:
            raise IncompatibleError(f"spectral filters along time, and {site.name} has one step; take a longer window")
        options = self.config
        return SpectralBottleneck(dim, options.width, steps, options.gains, options.bands, like)
