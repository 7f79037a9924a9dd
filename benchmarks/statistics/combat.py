"""ComBat: features of several sites brought to one mean and spread (Johnson et al., Biostatistics 8, 2007).

By ``combatlearn``, which learns each site's shift and scale from training samples and applies them to others of the
same site. Nothing of the label enters: with labels as covariates, those of test samples would be needed.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medgraft.errors import DataError

Array = NDArray[Any]

INSTALL = "pip install 'medgraft[sites]'"
LEAST_VARIANCE = 1e-10
"""Features that vary less in training, beside their mean square, are left as they are: ComBat divides by it."""


class NotInstalledError(DataError):
    """The library is not there."""


def combat(features: Array, sites: Array, train: Array) -> tuple[Array, str]:
    """Features of all samples, harmonised by what was learnt on the training samples.

    Args:
        features: ``float64 [n, D]``.
        sites: Site of each sample as a word, ``[n]``; all are among those of the training samples, which have at least
            two of each.
        train: Training samples, ``int64 [m]``.

    Returns:
        ``float64 [n, D]``, and the library with its version.

    Raises:
        NotInstalledError: The library is not there.
        DataError: It refuses the features.
    """
    try:
        library: Any = importlib.import_module("combatlearn")
    except ImportError as error:
        raise NotInstalledError(f"not harmonised: {INSTALL}") from error
    if not np.isfinite(features).all():
        raise DataError("not harmonised: the features hold numbers that are not finite")
    seen = features[train]
    varies = seen.var(axis=0) > LEAST_VARIANCE * np.maximum(np.square(seen).mean(axis=0), 1e-300)
    table = pd.DataFrame(features[:, varies])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of sites with few samples, which the result counts
            model = library.ComBat(pd.Series(sites), method="johnson").fit(table.iloc[train])
            found = np.asarray(model.transform(table), float)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise DataError(f"not harmonised: {' '.join(str(error).split())[:200]}") from error
    if not np.isfinite(found).all():
        raise DataError("not harmonised: ComBat gave numbers that are not finite")
    out = features.copy()
    out[:, varies] = found
    return out, f"combatlearn {library.__version__}, ComBat"
