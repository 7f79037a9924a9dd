"""captum, where it is installed."""

from __future__ import annotations

import warnings
from typing import Any

from medgraft.errors import ConfigError


def captum_attr() -> Any:
    """The module ``captum.attr``.

    Raises:
        ConfigError: captum is missing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import captum.attr
    except ImportError as error:
        raise ConfigError(
            "gradcam and occlusion need captum; install it with: pip install 'medgraft[explain]'"
        ) from error
    return captum.attr
