"""What the data sets of MedMNIST are: task, labels, channels, sizes, licence.

Yang et al., "MedMNIST v2: a large-scale lightweight benchmark for 2D and 3D biomedical image classification",
Scientific Data 10:41 (2023); sizes beyond 28 are MedMNIST+. Where the package ``medmnist`` is installed, its own table
is read.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from medgraft.task import SPLITS

MULTI_CLASS, BINARY, ORDINAL = "multi-class", "binary-class", "ordinal-regression"
MULTI_LABEL = "multi-label, binary-class"
"""Kinds of task, in MedMNIST's words. Grades are judged as classes."""

SIZES_2D, SIZES_3D = (28, 64, 128, 224), (28, 64)
"""Sides of images and of volumes, in pixels and voxels."""


class DataSet(NamedTuple):
    """One data set.

    Attributes:
        task: One of the kinds above.
        labels: Names of the classes, by their number, or of the labels.
        samples: In training, validation and test.
        channels: 1 for grey values, 3 for red, green and blue.
        volumes: Samples are volumes, not images.
        licence: Of the data.
        downloads: Side -> address and MD5 of the file; empty where the package is not installed.
    """

    task: str
    labels: tuple[str, ...]
    samples: tuple[int, int, int]
    channels: int = 1
    volumes: bool = False
    licence: str = "CC BY 4.0"
    downloads: Mapping[int, tuple[str, str]] = {}

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides in which there is a file."""
        return SIZES_3D if self.volumes else SIZES_2D


_ORGANS = (
    "bladder",
    "femur-left",
    "femur-right",
    "heart",
    "kidney-left",
    "kidney-right",
    "liver",
    "lung-left",
    "lung-right",
    "pancreas",
    "spleen",
)

DATA_SETS: dict[str, DataSet] = {
    "pathmnist": DataSet(
        MULTI_CLASS,
        (
            "adipose",
            "background",
            "debris",
            "lymphocytes",
            "mucus",
            "smooth muscle",
            "normal colon mucosa",
            "cancer-associated stroma",
            "colorectal adenocarcinoma epithelium",
        ),
        (89_996, 10_004, 7180),
        channels=3,
    ),
    "chestmnist": DataSet(
        MULTI_LABEL,
        (
            "atelectasis",
            "cardiomegaly",
            "effusion",
            "infiltration",
            "mass",
            "nodule",
            "pneumonia",
            "pneumothorax",
            "consolidation",
            "edema",
            "emphysema",
            "fibrosis",
            "pleural",
            "hernia",
        ),
        (78_468, 11_219, 22_433),
    ),
    "dermamnist": DataSet(
        MULTI_CLASS,
        (
            "actinic keratoses and intraepithelial carcinoma",
            "basal cell carcinoma",
            "benign keratosis-like lesions",
            "dermatofibroma",
            "melanoma",
            "melanocytic nevi",
            "vascular lesions",
        ),
        (7007, 1003, 2005),
        channels=3,
        licence="CC BY-NC 4.0",
    ),
    "octmnist": DataSet(
        MULTI_CLASS,
        ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
        (97_477, 10_832, 1000),
    ),
    "pneumoniamnist": DataSet(BINARY, ("normal", "pneumonia"), (4708, 524, 624)),
    "retinamnist": DataSet(ORDINAL, ("0", "1", "2", "3", "4"), (1080, 120, 400), channels=3),
    "breastmnist": DataSet(BINARY, ("malignant", "normal, benign"), (546, 78, 156)),
    "bloodmnist": DataSet(
        MULTI_CLASS,
        (
            "basophil",
            "eosinophil",
            "erythroblast",
            "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
            "lymphocyte",
            "monocyte",
            "neutrophil",
            "platelet",
        ),
        (11_959, 1712, 3421),
        channels=3,
    ),
    "tissuemnist": DataSet(
        MULTI_CLASS,
        (
            "Collecting Duct, Connecting Tubule",
            "Distal Convoluted Tubule",
            "Glomerular endothelial cells",
            "Interstitial endothelial cells",
            "Leukocytes",
            "Podocytes",
            "Proximal Tubule Segments",
            "Thick Ascending Limb",
        ),
        (165_466, 23_640, 47_280),
    ),
    "organamnist": DataSet(MULTI_CLASS, _ORGANS, (34_561, 6491, 17_778)),
    "organcmnist": DataSet(MULTI_CLASS, _ORGANS, (12_975, 2392, 8216)),
    "organsmnist": DataSet(MULTI_CLASS, _ORGANS, (13_932, 2452, 8827)),
    "organmnist3d": DataSet(
        MULTI_CLASS,
        (
            "liver",
            "kidney-right",
            "kidney-left",
            "femur-right",
            "femur-left",
            "bladder",
            "heart",
            "lung-right",
            "lung-left",
            "spleen",
            "pancreas",
        ),
        (971, 161, 610),
        volumes=True,
    ),
    "nodulemnist3d": DataSet(BINARY, ("benign", "malignant"), (1158, 165, 310), volumes=True),
    "adrenalmnist3d": DataSet(BINARY, ("normal", "hyperplasia"), (1188, 98, 298), volumes=True),
    "fracturemnist3d": DataSet(
        MULTI_CLASS,
        ("buckle rib fracture", "nondisplaced rib fracture", "displaced rib fracture"),
        (1027, 103, 240),
        volumes=True,
    ),
    "vesselmnist3d": DataSet(BINARY, ("vessel", "aneurysm"), (1335, 191, 382), volumes=True),
    "synapsemnist3d": DataSet(BINARY, ("inhibitory synapse", "excitatory synapse"), (1230, 177, 352), volumes=True),
}
"""Name -> facts."""


def facts_of(name: str) -> DataSet:
    """The facts of a data set, from the package ``medmnist`` where it is installed.

    Args:
        name: A key of :data:`DATA_SETS`.
    """
    told = _told_by_the_package().get(name)
    return DATA_SETS[name] if told is None else told


@functools.cache
def _told_by_the_package() -> Mapping[str, DataSet]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where it cannot make a folder in the user's home
            table: Mapping[str, Mapping[str, Any]] = importlib.import_module("medmnist.info").INFO
    except ImportError:
        return {}
    return {name: _read(name, table[name]) for name in DATA_SETS if name in table}


def _read(name: str, info: Mapping[str, Any]) -> DataSet:
    labels = tuple(str(info["label"][number]) for number in sorted(info["label"], key=int))
    files = {side: "" if side == 28 else f"_{side}" for side in DATA_SETS[name].sizes}
    return DataSet(
        task=str(info["task"]),
        labels=labels,
        samples=(info["n_samples"][SPLITS[0]], info["n_samples"][SPLITS[1]], info["n_samples"][SPLITS[2]]),
        channels=int(info["n_channels"]),
        volumes=DATA_SETS[name].volumes,
        licence=str(info["license"]),
        downloads={
            side: (str(info[f"url{end}"]), str(info[f"MD5{end}"])) for side, end in files.items() if f"url{end}" in info
        },
    )
