"""A foreign distribution in miniature: a task, an encoder and adapters that behave, dawdle or come to grief.

The harness's tests install it as pip would (a module beside a ``.dist-info`` folder), so that what they see is what the
author of a plugin sees. Subjects have names that must turn up in no result, table or log.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment
from medgraft.encoder import Encoder, EncoderSpec
from medgraft.errors import ConfigError, DataError, UnknownNameError
from medgraft.features import Features
from medgraft.task import RawInputs, Task, TaskConfig, TaskData, subject_split

SECRET = "SECRET"
COLUMNS = ("subject", "label", "film")
CLASSES = ("dull", "bright")


def write_toy_cohort(root: Path, subjects: int = 30, films: int = 2, *, phantom: bool = True) -> Path:
    """A table and one tiny image file per row; half of the subjects have bright films."""
    root.mkdir(parents=True)
    rng = np.random.default_rng(5)
    rows = []
    for subject in range(subjects):
        label = subject % 2
        for film in range(films):
            name = f"{SECRET}-{subject:03d}-{film}.npy"
            values = rng.integers(0, 150, (8, 8)) + 40 * label
            np.save(root / name, values.astype(np.uint8))
            rows.append((f"{SECRET}-{subject:03d}", CLASSES[label], name))
    pd.DataFrame(rows, columns=pd.Index(COLUMNS)).to_csv(root / "toy.csv", index=False)
    if phantom:
        (root / "PHANTOM").write_text('{"generator": "toy-1"}\n')
    return root


class ToyTask(Task):
    """Dull or bright."""

    inputs = ("image",)
    objective = "multiclass"
    cohort = "toy"

    class Config(TaskConfig):
        """Options."""

        split_seed: int = 0

    config: Config

    def load(self, root: Path) -> TaskData:
        path = root / "toy.csv"
        if not path.is_file():
            raise DataError(f"{path} does not exist; the toy cohort needs this table")
        table = pd.read_csv(path)
        if missing := [name for name in COLUMNS if name not in table]:
            raise DataError(f"{path} has no column {missing[0]}")
        if on_rank("TOY_FEWER_ON", unsaid=False):
            table = table[:-4]
        films = [root / name for name in table["film"]]
        subjects = table["subject"].to_numpy(str)
        targets = np.array([CLASSES.index(label) for label in table["label"]], dtype=np.int64)
        fractions = {"train": 0.5, "val": 0.2, "test": 0.3}

        def read(i: int) -> np.ndarray:
            try:
                return np.load(films[i])
            except ValueError as error:
                raise DataError(f"{films[i]} is damaged") from error

        fingerprint = "|".join(f"{film.stat().st_size} {film.stat().st_mtime_ns}" for film in films)
        return TaskData(
            inputs={"image": RawInputs(read, len(films), fingerprint)},
            targets=targets,
            subjects=subjects,
            splits=subject_split(subjects, targets, fractions, self.config.split_seed),
            classes=CLASSES,
            phantom=(root / "PHANTOM").is_file(),
            provenance={"generator": "toy-1"},
        )


class ToyEncoder(Encoder):
    """Two frozen linear stages on the four quarters of an 8 x 8 image."""

    has_cls = False
    n_stages = 2

    def __init__(self) -> None:
        super().__init__(
            EncoderSpec(name="toy:tiny", modality="image", input_size=(8, 8), dim=8, pooling="mean", weights="random")
        )
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.embed, self.mix = nn.Linear(16, 8), nn.Linear(8, 8)
        self.register_buffer("scale", torch.ones(()))

    def prepare(self, raw: Any) -> Tensor:
        image = torch.as_tensor(np.asarray(raw), dtype=torch.float32)
        return nn.functional.interpolate(image[None, None], size=(8, 8))[0] / 255

    def prefix(self, x: Tensor, stop: int) -> Tensor:
        quarters = x.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4).flatten(1, 3)
        return x if stop == 0 else self.embed(quarters)

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        tokens = self.mix(torch.relu(self.prefix(x, 1) if start == 0 else x))
        return Features(tokens, tokens.mean(dim=1), 0, (2, 2))


class ToySource:
    """Encoders of this distribution."""

    api_version = 1

    @staticmethod
    def models() -> dict[str, str]:
        return {"tiny": "two linear layers"}

    @classmethod
    def build(cls, model: str, weights: str = "default", sha256: str | None = None) -> Encoder:
        if model not in cls.models():
            raise UnknownNameError("toy encoder", model, cls.models())
        if weights not in ("default", "random"):
            raise ConfigError(f"toy:{model} has no weights to load")
        return ToyEncoder()


class ToyGain(Adapter):
    """A gain per feature and some noise in training, so that the seed shows; gets stuck if the test says so."""

    class Config(AdapterConfig):
        """Options."""

        noise: float = 0.05

    config: Config

    def attach(self, encoder: Encoder, sites: Any) -> Attachment:
        report_process()
        if os.environ.get("TOY_STUCK") == str(torch.initial_seed()):
            time.sleep(600)
        while (held := os.environ.get("TOY_HELD")) and Path(held).exists():
            time.sleep(0.05)
        self.gain = nn.Parameter(torch.ones(encoder.spec.dim))
        attachment = Attachment(encoder)
        attachment.record({"features": [sites["features"]]})
        attachment.map_features(encoder, self._scale)
        return attachment

    calls = 0

    def _scale(self, features: Features) -> Features:
        gain = self.gain
        if self.training:
            self.calls += 1
            if os.environ.get("TOY_STUCK_AT") == str(self.calls):
                time.sleep(600)
            gain = gain + self.config.noise * torch.randn_like(gain)
        return features.replace(pooled=features.pooled * gain)


class ToyReporting(ToyGain):
    """A gain with diagnostics, by the two methods alone: the base class has neither."""

    resets = 0

    def reset_diagnostics(self) -> None:
        self.resets += 1

    def diagnostics(self) -> dict[str, Any]:
        return {"load": np.float64(0.5), "resets": self.resets}


class ToyTrouble(Adapter):
    """Comes to grief while it attaches, in one of several ways."""

    variant_field = "how"

    class Config(AdapterConfig):
        """Options."""

        how: Literal[
            "raise", "exit", "leave", "kill", "sleep", "memory", "path", "nan", "thread", "children", "output",
            "closed", "place", "noise", "buffer", "thaw", "awake", "swap", "settings", "reseed", "hidden", "data",
            "rows", "blind", "twice", "crash", "report", "stuck",
        ] = "raise"  # fmt: skip

    config: Config

    def attach(self, encoder: Encoder, sites: Any) -> Attachment:
        report_process()
        match self.config.how if on_rank("TOY_TROUBLE_ON", unsaid=True) else "":
            case "raise":
                raise RuntimeError("this adapter always fails")
            case "exit":
                os._exit(7)
            case "leave":
                sys.exit(3)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "sleep":
                time.sleep(600)
            case "memory":
                raise MemoryError("no more of it")
            case "path":
                raise RuntimeError(f"cannot read {os.environ['TOY_COHORT']}/{SECRET}-000-0.npy")
        self.factor = nn.Parameter(torch.full((), float("nan") if self.config.how == "nan" else 1.0))
        self.outside, self.steps = [encoder], 0
        self.kept = [nn.Parameter(torch.ones(()))]
        attachment = Attachment(encoder)
        attachment.record({"features": [sites["features"]]})
        attachment.map_features(encoder, self._change)
        if self.config.how == "thaw":
            encoder.requires_grad_(True)
        return attachment

    def _change(self, f: Features) -> Features:
        how = self.config.how
        if self.training:
            return f.replace(pooled=f.pooled * self.factor * (self.kept[0] if how == "hidden" else 1))
        f = f.replace(pooled=f.pooled * torch.nan_to_num(self.factor, nan=1.0))
        if how == "rows" and len(f.pooled) > 1:
            return f.replace(pooled=f.pooled[:-1], tokens=f.tokens[:-1])
        return f.replace(pooled=f.pooled * float("nan")) if how == "blind" and self.steps else f

    def report(self) -> dict[str, Any]:
        return {"x": object()} if self.config.how == "report" else {"x": float("inf"), "y": "=1 \x1b[31m"}

    def after_step(self) -> None:
        self.steps += 1
        if self.steps == 1:
            getattr(self, f"_{self.config.how}", lambda: None)()

    def _noise(self) -> None:
        for parameter in self.outside[0].parameters():
            parameter.data.add_(torch.randn_like(parameter))

    def _buffer(self) -> None:
        self.outside[0].get_buffer("scale").mul_(2)

    def _awake(self) -> None:
        self.outside[0].get_submodule("mix").training = True

    def _swap(self) -> None:
        self.outside[0].mix = nn.Linear(8, 8)

    def _settings(self) -> None:
        torch.set_num_threads(2)

    def _reseed(self) -> None:
        torch.manual_seed(77)

    def _data(self) -> None:
        import gc

        for each in gc.get_objects():
            if type(each).__name__ == "TaskData":
                object.__setattr__(each, "targets", 1 - each.targets)

    def _thread(self) -> None:
        threading.Thread(target=time.sleep, args=(600,)).start()

    def _children(self) -> None:
        for own_session in (False, True):
            subprocess.Popen([sys.executable, "-c", CHILD, os.environ["TOY_PROCESSES"]], start_new_session=own_session)
        time.sleep(2)

    def _output(self) -> None:
        os.write(1, b"\x1b[2J\xff loud\n" * 100_000)
        subprocess.run(["echo", "from a child"], check=True)
        sys.stderr.write("\u202e quiet\n")

    def _closed(self) -> None:
        os.closerange(0, 4096)

    def _place(self) -> None:
        os.chdir("/")
        os.environ.clear()
        os.umask(0o777)

    def _twice(self) -> None:
        os.fork()

    def _crash(self) -> None:
        ctypes.string_at(0)

    def _stuck(self) -> None:
        ctypes.PyDLL(None).sleep(600)  # and lets no other thread run


CHILD = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
(pathlib.Path(sys.argv[1]) / str(os.getpid())).touch()
time.sleep(600)
"""


def on_rank(variable: str, unsaid: bool) -> bool:
    """Whether this is the rank of a cell on several devices that a variable names; ``unsaid`` where none is named."""
    named = os.environ.get(variable)
    return unsaid if named is None else named == os.environ.get("RANK")


def report_process() -> None:
    """Leaves the worker's number where a test can find it."""
    if folder := os.environ.get("TOY_PROCESSES"):
        (Path(folder) / str(os.getpid())).touch()
