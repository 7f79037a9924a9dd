"""RadGraph's models, run by the package ``radgraph`` from a local folder.

The folder holds that of a model as the package unpacks it, ``radgraph``, ``radgraph-xl``, ``modern-radgraph-xl`` or
``echograph`` (``config.json``, ``vocabulary``, ``weights.th``), and beside it ``encoder``: configuration and tokenizer
of the BERT that ``config.json`` names, whose weights are in ``weights.th``. The published weights were not at hand.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from medgraft.errors import ConfigError, DataError
from medgraft.metric import Array

ENCODER = "encoder"
MODELS = ("modern-radgraph-xl", "radgraph-xl", "radgraph", "echograph")
"""Names that the package knows; of several in a folder the first is taken."""
FILES = ("config.json", "vocabulary", "weights.th")


def radgraph_f1(folder: Path, texts: Sequence[str], references: Sequence[str]) -> Array:
    """The three F1 of each text, ``float64 [n, 3]``, see :data:`~.radgraph_f1.COLUMN`; 0 where one text is empty.

    Args:
        folder: Of a model and its encoder.
        texts: Generated ones.
        references: The right ones, as many.

    Raises:
        ConfigError: The package is not installed.
        DataError: A file is missing, or the package cannot read it.
    """
    read = annotated(folder, [*texts, *references])
    pairs = zip(read[: len(texts)], read[len(texts) :], strict=True)
    return np.array([agreement(said, meant) for said, meant in pairs], np.float64).reshape(-1, 3)


def agreement(said: Mapping[str, Any], meant: Mapping[str, Any]) -> tuple[float, float, float]:
    """F1 of entities, of entities with whether they are in a relation, and of relations, by the package's own code.

    Args:
        said: Annotations of the generated text in RadGraph's form, ``{"entities": {"1": {"tokens": "effusion", "label":
            "Observation::definitely present", "start_ix": 2, "end_ix": 2, "relations": [["located_at", "2"]]}}}``.
        meant: Those of the reference.

    Raises:
        ConfigError: The package is not installed.
    """
    _demand()
    with _quiet():
        from radgraph.rewards import compute_reward

    return cast(tuple[float, float, float], compute_reward(said, meant, "all"))


def annotated(folder: Path, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Annotations of each text in RadGraph's form; none of an empty one, which the package does not annotate either.

    Raises:
        ConfigError: The package is not installed.
        DataError: A file is missing, or the package cannot read it.
    """
    import torch

    _demand()
    different = list(dict.fromkeys(text for text in texts if text.strip()))
    name = model_in(folder)
    try:
        with _quiet(), torch.no_grad():
            model = _opened(folder, name)
            found = model(different) if different else {}
    except Exception as error:  # whatever a library raises that was written for other versions of its libraries
        raise DataError(f"radgraph cannot run {name}: {type(error).__name__}: {error}") from error
    if len(found) != len(different):
        raise DataError(f"{name} annotates {len(found)} of {len(different)} texts, so none is scored")
    read = {text: found[str(i)] for i, text in enumerate(different)}
    return [read.get(text, {"entities": {}}) for text in texts]


def _demand() -> None:
    if importlib.util.find_spec("radgraph") is None:
        raise ConfigError("RadGraph-F1 is made with the package radgraph: pip install medgraft[judges]")


def model_in(folder: Path) -> str:
    """Name of the model that a folder holds.

    Raises:
        DataError: There is none, or a file is missing.
    """
    named = next((name for name in MODELS if (folder / name).is_dir()), None)
    if named is None:
        raise DataError(f"the folder of RadGraph has none of the folders {', '.join(MODELS)}")
    places = [f"{named}/{file}" for file in FILES] + [f"{ENCODER}/config.json"]
    if missing := [place for place in places if not (folder / place).exists()]:
        raise DataError(f"the folder of RadGraph has no {' and no '.join(missing)}; put it there as it is published")
    return named


def _opened(folder: Path, name: str) -> Any:
    """The package's model, whose encoder and tokenizer are the folder's, by whatever name its configuration has."""
    import radgraph
    from radgraph.allennlp.common import cached_transformers
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    encoder = folder / ENCODER

    def network(*_: Any, **__: Any) -> Any:
        return AutoModel.from_config(AutoConfig.from_pretrained(encoder, local_files_only=True))

    def tokenizer(*_: Any, **__: Any) -> Any:
        words: Any = AutoTokenizer.from_pretrained(encoder, local_files_only=True)
        # Two methods that the package calls and that transformers 5 no longer has.
        words.encode_plus = words.__call__
        words.build_inputs_with_special_tokens = lambda ids: [words.cls_token_id, *ids, words.sep_token_id]
        return words

    # The package asks the hub for both by the name in its configuration, and has no argument for another place.
    library: Any = cached_transformers
    before = library.get, library.get_tokenizer
    library.get, library.get_tokenizer = network, tokenizer
    try:
        return radgraph.RadGraph(model_type=name, model_cache_dir=str(folder), cuda=-1)
    finally:
        library.get, library.get_tokenizer = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the package prints and warns of, and without the filter of warnings that its import sets."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
