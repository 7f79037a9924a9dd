"""Prepares every volume of a cohort: parallel, resumable, each file whole or absent, with a report of what failed.

The copy has the folders, names and tables of the original, so the readers of the original read it. ``prepared.json``
holds the steps and becomes part of the copy's revision; ``prepared_report.csv`` says of every volume what became of it.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from medgraft.benchmarks.cohorts.tables.reading import PHANTOM_MARKER, is_phantom
from medgraft.benchmarks.prepare.volume import PREPARE_VERSION, PrepareConfig, prepare_volume, simple_itk
from medgraft.errors import ConfigError, DataError
from medgraft.files.one_file import one_file

MARKER, REPORT = "prepared.json", "prepared_report.csv"
_VOLUME = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_DICOM = re.compile(r"_I(\d+)\.dcm$", re.IGNORECASE)
_TABLES = (".csv", ".csv.gz", ".tsv", ".json", ".xml")


@dataclass(frozen=True)
class Source:
    """One raw volume.

    Attributes:
        path: NIfTI file, or folder of a DICOM series.
        target: Where the prepared one goes, relative to the copy.
    """

    path: Path
    target: Path


@dataclass
class PrepareReport:
    """What became of the volumes.

    Attributes:
        made: Volumes prepared now.
        kept: Volumes that an earlier run had prepared.
        failed: Target of a volume, relative to the copy -> why it could not be prepared.
        similarity: Target -> correlation with the template, of those made now.
    """

    made: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    similarity: dict[str, float] = field(default_factory=dict)

    def reasons(self) -> Counter[str]:
        """How often each reason, numbers and names taken out."""
        return Counter(_general(reason) for reason in self.failed.values())


def find_sources(root: Path) -> list[Source]:
    """The raw volumes of a cohort, of any folder of NIfTI files, or a single file.

    In a BIDS tree only T1w images are taken. A folder of DICOM slices named ``*_I<image id>.dcm`` is one volume.

    Raises:
        DataError: There is none.
    """
    if root.is_file():
        return [Source(root, Path(_VOLUME.sub(".nii.gz", root.name)))]
    if not root.is_dir():
        raise DataError(f"{root} is neither a folder nor a file; name the cohort's folder with --in")
    bids = any(root.glob("sub-*/"))
    sources: dict[Path, Source] = {}
    for folder, folders, files in os.walk(root):
        folders.sort()
        here = Path(folder).relative_to(root)
        for name in sorted(files):
            if _VOLUME.search(name) and (not bids or re.search(r"_T1w\.nii", name)):
                target = here / _VOLUME.sub(".nii.gz", name)
                sources.setdefault(target, Source(Path(folder, name), target))
            elif match := _DICOM.search(name):
                target = here / f"{here.parts[1] if len(here.parts) > 1 else 'series'}_I{match.group(1)}.nii.gz"
                sources.setdefault(target, Source(Path(folder), target))
    if not sources:
        raise DataError(f"{root} holds no .nii or .nii.gz file and no DICOM series named *_I<image id>.dcm")
    return list(sources.values())


def prepare_cohort(
    root: Path,
    out: Path,
    config: PrepareConfig,
    *,
    jobs: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PrepareReport:
    """Prepares all volumes of a cohort that are not prepared yet.

    A volume that failed is tried again by the next run. One whose raw file has become newer is made again.

    Args:
        root: The raw cohort, or a single volume.
        out: Folder of the copy; may hold an earlier run with the same configuration.
        config: Steps and output grid.
        jobs: Worker processes; the bytes do not depend on it.
        progress: Called with how many are done, and of how many.

    Raises:
        ConfigError: SimpleITK is missing, or ``out`` lies inside ``root`` or the other way round.
        DataError: There is no volume, or ``out`` was made with another configuration.
    """
    simple_itk()
    root, out = Path(root).expanduser().resolve(), Path(out).expanduser().resolve()
    if out == root or out.is_relative_to(root) or root.is_relative_to(out):
        raise ConfigError(f"--out {out} and --in {root} lie in one another; a copy needs a folder of its own")
    sources = find_sources(root)
    _claim(out, config)
    if root.is_dir():
        _copy_tables(root, out, config)
    report = PrepareReport()
    todo = [source for source in sources if not _is_done(source, out)]
    report.kept = len(sources) - len(todo)
    try:
        for n, (source, result) in enumerate(_results(todo, out, config, jobs), start=1):
            name = source.target.as_posix()
            if isinstance(result, str):
                report.failed[name] = result
            else:
                report.made += 1
                report.similarity[name] = result
            progress(report.kept + n, len(sources))
    except MemoryError as error:
        raise DataError("no memory is left to prepare a volume; run the same command with fewer --jobs") from error
    finally:  # also of a run that is interrupted
        _write_report(out, sources, report)
    return report


def _results(todo: list[Source], out: Path, config: PrepareConfig, jobs: int) -> Iterator[tuple[Source, float | str]]:
    """Similarity or reason of each source, as they are finished; a few at a time wait in the pool."""
    if jobs == 1 or len(todo) < 2:
        yield from ((source, _prepare_one(source, out, config)) for source in todo)
        return
    left = iter(todo)
    running: dict[Future[float | str], Source] = {}
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            while True:
                for source in (next(left, None) for _ in range(2 * jobs - len(running))):
                    if source is not None:
                        running[pool.submit(_prepare_one, source, out, config)] = source
                if not running:
                    return
                done: set[Future[float | str]] = wait(running, return_when=FIRST_COMPLETED).done
                for future in done:
                    yield running.pop(future), future.result()
        except BrokenExecutor as error:
            raise DataError(
                "a worker process died, mostly for lack of memory; run the same command with fewer --jobs, "
                "which goes on from what is finished"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare_one(source: Source, out: Path, config: PrepareConfig) -> float | str:
    """Prepares and writes one volume; its similarity, or the reason why there is none."""
    try:
        with one_file(source.path, "a volume to prepare", "not readable", "look at the file"):
            prepared = prepare_volume(source.path, config)
    except DataError as error:
        return str(error)
    try:
        _write_volume(out / source.target, prepared.volume, prepared.affine)
    except OSError as error:  # no fault of the volume: the next one could not be written either
        raise DataError(f"{out / source.target} cannot be written: {error}; make room or name another --out") from error
    return round(prepared.similarity, 4)


def _write_volume(path: Path, volume: object, affine: object) -> None:
    """Writes beside the target and renames; 16-bit numbers with a scale, as scanners' own files have."""
    import nibabel as nib
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.asarray(volume, dtype=np.float32), np.asarray(affine))
    image.set_data_dtype(np.int16)
    image.set_sform(image.affine, code="mni")
    image.set_qform(image.affine, code="mni")
    image.header.set_xyzt_units("mm")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".nii.gz")
    os.close(handle)
    try:
        nib.save(image, temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _is_done(source: Source, out: Path) -> bool:
    """True where the prepared volume is there and no older than the raw one."""
    raw = source.path.stat().st_mtime
    target = out / source.target
    return target.is_file() and target.stat().st_mtime >= raw


def _claim(out: Path, config: PrepareConfig) -> None:
    """Makes the folder and says how its volumes are made, or checks that they are made that way already."""
    record = {"version": PREPARE_VERSION, **config.model_dump(mode="json")}
    marker = out / MARKER
    if marker.is_file():
        try:
            claim = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            claim = None
        if claim != record:
            raise DataError(f"{out} was prepared as {claim}, not as {record}; name another --out, or delete it")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is in use and was not made by medgraft prepare; name a new folder")
    else:
        out.mkdir(parents=True, exist_ok=True)
        _replace_text(marker, json.dumps(record, indent=1) + "\n")


def _copy_tables(root: Path, out: Path, config: PrepareConfig) -> None:
    """Copies tables and sidecars, and the mark of a phantom with the steps added, which gives the copy its revision."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        here = out / Path(folder).relative_to(root)
        for name in files:
            if name.lower().endswith(_TABLES) and name not in (MARKER, REPORT):
                here.mkdir(parents=True, exist_ok=True)
                shutil.copy2(Path(folder, name), here / name)
    if root.name.upper() == "ADNI":  # a download has its tables beside the tree of images
        for path in root.parent.glob("*"):
            if path.name.lower().endswith((".csv", ".csv.gz")) and path.is_file():
                shutil.copy2(path, out / path.name)
    if is_phantom(root):
        marker = next(path for each in (root, *root.parents) if (path := each / PHANTOM_MARKER).is_file())
        try:
            record = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            record = {}
        steps = {"version": PREPARE_VERSION, **config.model_dump(mode="json")}
        _replace_text(out / PHANTOM_MARKER, json.dumps({**record, "prepared": steps}, indent=1) + "\n")


def _replace_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _write_report(out: Path, sources: list[Source], report: PrepareReport) -> None:
    """One line per volume. The names in it may identify people, as those of the cohort's own files do."""
    earlier = _earlier_similarities(out)
    temporary = out / f".{REPORT}.new"
    with temporary.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(("volume", "status", "similarity", "reason"))
        for source in sources:
            name = source.target.as_posix()
            if name in report.failed:
                writer.writerow((name, "failed", "", report.failed[name]))
            elif not (out / source.target).is_file():
                writer.writerow((name, "not yet", "", ""))
            else:
                writer.writerow((name, "prepared", report.similarity.get(name, earlier.get(name, "")), ""))
    os.replace(temporary, out / REPORT)


def _earlier_similarities(out: Path) -> dict[str, str]:
    """What the report of an earlier run says of volumes that were prepared then."""
    path = out / REPORT
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as handle:
        return {row["volume"]: row["similarity"] for row in csv.DictReader(handle) if row.get("status") == "prepared"}


def _general(reason: str) -> str:
    """A reason without the names of files and without numbers, to be counted and shown.

    Example:
        >>> _general("/data/123_S_4567/a_I1.nii is zero in every voxel")
        '<file> is zero in every voxel'
    """
    without_files = re.sub(r"(?:/[^\s/]+)+/?", "<file>", reason)
    return re.sub(r"-?\d+(?:\.\d+)?", "#", without_files)
