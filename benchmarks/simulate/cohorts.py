"""How long a plan takes over cohorts of full size: ``python -m benchmarks.simulate.cohorts``.

Two trees are made up in the layouts of the real ones, CheXpert's of 223,414 films and 20,000 scans of ADNI as the image
archive hands them out. Their tables are whole and their image files empty, which no plan opens but to know them again.
``medgraft run --dry-run`` is run twice over each, since digests of files are kept; told are the seconds from start to
end, interpreter and imports included, and the peak memory.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.chest.chexpert_labels import CHEXPERT_14
from medgraft.benchmarks.phantoms.brain.layouts import ADNIMERGE_COLUMNS, SEARCH_COLUMNS
from medgraft.benchmarks.phantoms.brain.scans_loni import image_path, ptid
from medgraft.errors import ConfigError

FILMS, SCANS = 223_414, 20_000
VISITS = {"bl": 0, "m06": 6, "m12": 12, "m24": 24, "m36": 36}
"""Code of each visit of a person -> months since the first."""

MOST_SCANS = 9_000 * len(VISITS)
DESCRIPTION = "MPR; GradWarp; B1 Correction; N3; Scaled"
DIAGNOSES = ("CN", "MCI", "AD")
TESTED = 200
"""Films of the table that is tested on."""


def write_films(root: Path, films: int, seed: int = 0) -> None:
    """A CheXpert tree of empty images: ``train.csv``, ``valid.csv`` and a folder for each study.

    Args:
        root: Folder to make.
        films: Rows of ``train.csv``; about three studies a patient, and a lateral film in every fifth.
        seed: Of labels, sex and age.
    """
    for split, n in (("train", films), ("valid", min(TESTED, films))):
        random = np.random.default_rng([seed, n])
        paths = list(_films(split, n, 0 if split == "train" else films))
        for path in paths:
            place = root / path
            if not place.parent.is_dir():
                place.parent.mkdir(parents=True)
            place.touch()
        lateral = ["Lateral" if "lateral" in path else "Frontal" for path in paths]
        facts = {
            "Path": [f"{root.name}/{path}" for path in paths],
            "Sex": random.choice(["Female", "Male"], n),
            "Age": random.integers(18, 91, n),
            "Frontal/Lateral": lateral,
            "AP/PA": ["" if each == "Lateral" else "AP" for each in lateral],
        }
        labels = random.choice([1.0, 0.0, -1.0, np.nan], (n, len(CHEXPERT_14)), p=[0.2, 0.2, 0.1, 0.5])
        frame = pd.DataFrame(facts | {name: labels[:, i] for i, name in enumerate(CHEXPERT_14)})
        frame.to_csv(root / f"{split}.csv", index=False)


def _films(split: str, n: int, patients_before: int) -> Iterator[str]:
    """Places of ``n`` films, in studies of one to two, three studies a patient."""
    study = made = 0
    while made < n:
        folder = f"{split}/patient{patients_before + 1 + study // 3:05d}/study{1 + study % 3}"
        views = ("frontal", "lateral") if study % 5 == 4 else ("frontal",)
        for number, view in enumerate(views[: n - made], start=1):
            yield f"{folder}/view{number}_{view}.jpg"
        made += len(views)
        study += 1


def write_scans(root: Path, scans: int, seed: int = 0) -> None:
    """A download of T1 images from ADNI's archive, all of them empty files, with search table and ADNIMERGE.

    Args:
        root: Folder to make.
        scans: Images, five visits a person; at most 45,000.
        seed: Of age, sex and diagnosis.

    Raises:
        ConfigError: There are more than people's names allow.
    """
    if scans > MOST_SCANS:
        raise ConfigError(f"{scans} scans are more than {MOST_SCANS}; give fewer")
    random = np.random.default_rng(seed)
    search, merge = [], []
    for number in range(scans):
        person, visit = divmod(number, len(VISITS))
        (code, months), subject, uid = list(VISITS.items())[visit], ptid(person), 100_000 + number
        day = dt.date(2006, 1, 10) + dt.timedelta(days=person % 700 + round(30.4 * months))
        if visit == 0:
            sex, age, dx = random.choice(["F", "M"]), int(random.integers(55, 90)), str(random.choice(DIAGNOSES))
        place = root / image_path(subject, "MRI", DESCRIPTION, day, uid)
        place.parent.mkdir(parents=True)
        place.touch()
        search.append((
            f"I{uid}", subject, dx, sex, age, code, "MRI", DESCRIPTION, "Processed", f"{day:%-m/%d/%Y}", "NiFTI", "",
        ))  # fmt: skip
        merge.append({
            "RID": int(subject[-4:]), "PTID": subject, "VISCODE": code, "SITE": person % 60, "EXAMDATE": f"{day}",
            "AGE": age, "PTGENDER": {"F": "Female", "M": "Male"}[sex], "DX": {"AD": "Dementia"}.get(dx, dx),
            "ICV": 1_500_000, "M": months, "IMAGEUID": uid, "FLDSTRENG": "1.5 Tesla MRI",
        })  # fmt: skip
    pd.DataFrame(search, columns=pd.Index(SEARCH_COLUMNS)).to_csv(root / "search.csv", index=False)
    pd.DataFrame(merge, columns=pd.Index(ADNIMERGE_COLUMNS)).to_csv(root / "ADNIMERGE.csv", index=False)


class Tree(NamedTuple):
    """A cohort to plan over.

    Attributes:
        folder: Its name.
        write: Makes it.
        arguments: Of ``medgraft run``, with ``ROOT`` for its place.
    """

    folder: str
    write: Callable[[Path, int], None]
    arguments: str


TREES = {
    "films": Tree("CheXpert-v1.0-small", write_films, "--tasks chexpert --encoders pixels:2d --data chexpert=ROOT"),
    "scans": Tree("ADNI", write_scans, "--tasks adni_image --encoders pixels:3d --data adni=ROOT"),
}


def planned(tree: Tree, root: Path, cache: Path) -> tuple[float, int]:
    """Runs ``medgraft run --dry-run`` over a tree.

    Returns:
        Seconds, and bytes of the process at most.

    Raises:
        ConfigError: The command failed.
    """
    words = [word.replace("ROOT", str(root)) for word in tree.arguments.split()]
    command = [sys.executable, "-m", "medgraft.benchmarks.run", "--adapters", "linear_probe", *words, "--dry-run"]
    start = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        where = {"MEDGRAFT_CACHE": str(cache)}
        process = subprocess.Popen(command, stdout=said, stderr=said, cwd=root.parent, env=os.environ | where)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise ConfigError(f"the plan failed: {said.read().decode(errors='replace')[-2000:]}")
    return time.perf_counter() - start, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(arguments: list[str] | None = None) -> int:
    """Makes each tree, plans over it twice, and writes a line of a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate.cohorts", description=__doc__)
    parser.add_argument("--films", type=int, default=FILMS, help="films of CheXpert; 0 for none")
    parser.add_argument("--scans", type=int, default=SCANS, help="scans of ADNI; 0 for none")
    options = parser.parse_args(arguments)
    sys.stdout.write("| tree | files | first plan | second plan | memory |\n|---|---|---|---|---|\n")
    for name, tree in TREES.items():
        if (n := getattr(options, name)) < 1:
            continue
        with tempfile.TemporaryDirectory(prefix="medgraft-simulate-") as folder:
            root = Path(folder) / tree.folder
            tree.write(root, n)
            first, second = (planned(tree, root, Path(folder) / "cache") for _ in range(2))
        seconds = " | ".join(f"{each[0]:.1f} s" for each in (first, second))
        sys.stdout.write(f"| {name} | {n:,} | {seconds} | {max(first[1], second[1]) / 1e6:.0f} MB |\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
