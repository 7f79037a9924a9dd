"""The language model that comes with the package: a small LLaMA and its tokenizer, pre-trained on generated texts.

``python -m medgraft.benchmarks.pretrain.language`` trained it; its log and held-out perplexities lie beside the
weights. It knows the language of reports and questions, and no medicine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medgraft.checkpoints.weights import file_digest, read_weights
from medgraft.encoders.parts.hf.causal import CausalLm
from medgraft.encoders.parts.hf.text import spec_of_text
from medgraft.encoders.parts.loading import finish, origin, seeded
from medgraft.encoders.parts.shipped import read_card, weights_folder
from medgraft.errors import CheckpointError

NAME = "embedded"
TOKENIZER = "language_tokenizer"
"""Folder beside the weights."""
_TIED = ("lm_head.weight", "model.embed_tokens.weight")


def build_embedded(weights: str, sha256: str | None) -> CausalLm:
    """Builds ``causal_lm:embedded``.

    Args:
        weights: ``"default"`` for the shipped ones, ``"random"``, or a file that the training script wrote.
        sha256: Expected digest of the file; by default the shipped one has to be that of its card.

    Raises:
        CheckpointError: A file is missing, damaged or not the one that it should be.
    """
    card, folder = read_card("language"), weights_folder() / TOKENIZER
    words = folder / "tokenizer.json"
    if not words.is_file() or file_digest(words) != card["tokenizer_sha256"]:
        raise CheckpointError(f"{words} is not the tokenizer of {NAME}'s weights; install medgraft again")
    shipped = folder.parent / "language.safetensors"
    source = origin(str(shipped) if weights in ("default", "pretrained") else weights, sha256)
    network = fresh_network(card["config"])
    if isinstance(source, Path):
        load_network(network, source, sha256 or (card["sha256"] if source == shipped else None))
    spec = spec_of_text(f"causal_lm:{NAME}", source, network.config, "last")
    spec = spec.model_copy(update={"licence": "Apache-2.0", "cohorts": tuple(card["cohorts"])})
    return finish(CausalLm(spec, network, str(folder)), source, card["tokenizer_sha256"])


def fresh_network(config: Mapping[str, Any]) -> Any:
    """A LLaMA with weights that are the same each time.

    Args:
        config: Options of ``LlamaConfig``.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    with seeded():
        return LlamaForCausalLM(LlamaConfig(**config)).eval()


def load_network(network: Any, path: Path, sha256: str | None = None) -> None:
    """Loads weights, which are stored in half precision, without the last map, which is that of the embeddings.

    Raises:
        CheckpointError: They do not fit.
    """
    state = {name: tensor.float() for name, tensor in read_weights(path, sha256).items()}
    if _TIED[1] in state:
        state.setdefault(_TIED[0], state[_TIED[1]])
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit causal_lm:{NAME}: {error}") from error
