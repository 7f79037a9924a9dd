"""Grafting: a frozen encoder, one or more adapters, optionally a head; reversible."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from medgraft.adapter import Adapter, Attachment, all_or_nothing, train_in_float32
from medgraft.adapter.protocols import precomputation_of, reset_diagnostics
from medgraft.attachment.coverage import Coverage
from medgraft.attachment.merging import merge_checked, untrained
from medgraft.attachment.reach import check_reach
from medgraft.attachment.replicas import claim_hooks
from medgraft.checkpoints.folder import load, save
from medgraft.checkpoints.weights import state_digest
from medgraft.encoder import DualEncoder, Encoder
from medgraft.errors import ConfigError, IncompatibleError, UnknownNameError
from medgraft.fast.switch import is_plain
from medgraft.features import Condenser, Features
from medgraft.typed.pytorch import own_modules


class _ByName(nn.ModuleDict):
    """Modules by any name: a plugin may well be called ``keys`` or ``pop``, which ``ModuleDict`` refuses."""

    def add_module(self, name: str, module: nn.Module | None) -> None:
        self._modules[name] = module  # pyright: ignore[reportArgumentType]


class Grafted(nn.Module):
    """An encoder with adapters attached.

    Attributes:
        encoder: The frozen encoder; its module tree is the one it had before.
        adapters: The adapters by name, in the order in which they act.
        head: What reads the features, trained and saved with the adapters; may be ``None``.
        base_digest: Which weights the encoder had when the adapters were attached.

    A copy (``copy.deepcopy``, ``pickle``, ``torch.save``, an average of weights, a replica of ``nn.DataParallel``) is a
    graft of its own: its adapters act in it and get its gradients. Adapters, and a head that is set later, take the
    graft's mode.
    """

    def __init__(self, encoder: Encoder, adapters: Mapping[str, Adapter], head: nn.Module | None = None) -> None:
        super().__init__()
        refuse_carried(encoder)
        self.encoder = encoder.freeze()
        self.adapters = _ByName()
        self.head = head
        self._attachments: dict[str, Attachment] = {}
        weights = encoder.spec.weights
        self.base_digest = weights if weights.startswith("pretrained:") else f"state:{state_digest(encoder)}"
        self._active: list[str] = []
        self._merged = self._taken_off = False
        self._sites = encoder.sites()  # before an adapter adds modules of its own
        with all_or_nothing():
            for name, adapter in adapters.items():
                self._attach(name, adapter)
            self._check_reach()

    def _attach(self, name: str, adapter: Adapter) -> None:
        name = name.replace(".", "/")  # a module's name has no dot, a distribution's may
        support = adapter.supports(self.encoder)
        if not support:
            raise IncompatibleError(
                f"adapter {name!r} does not fit encoder {self.encoder.spec.name!r}: {support.reason}"
            )
        attachment = self._attachments[name] = adapter.attach(self.encoder, self.encoder.sites())
        self.adapters[name] = adapter.to(self.encoder.device)
        train_in_float32(adapter.parameters())
        attachment.keep_called(self._sites)
        attachment.name, attachment.adapter = name, adapter
        self.encoder.carry(attachment)
        self._active.append(name)
        adapter.train(self.training)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "head" and isinstance(value, nn.Module):
            value.train(self.training)

    def _check_reach(self) -> None:
        """Refuses what would fail at the first run, or train nothing; see ``check_reach``."""
        with self._trying() as adapters:
            check_reach(self.encoder, adapters, self._acting(), self._sites, self.encode)

    @contextmanager
    def _trying(self) -> Generator[dict[str, Adapter]]:
        """The active adapters in evaluation mode, for runs of which nothing is kept."""
        adapters = dict(self.named_adapters())
        modes = [(module, module.training) for adapter in adapters.values() for module in adapter.modules()]
        on = {name: adapter.training for name, adapter in adapters.items()}
        for adapter in adapters.values():
            adapter.train(False)
        try:
            yield adapters
        finally:
            for name, adapter in adapters.items():
                adapter.train(on[name])
                reset_diagnostics(adapter)
            for module, mode in modes:
                module.training = mode
            self._begin()

    def _require_attached(self) -> None:
        if self._taken_off or any(attachment.gone for attachment in self._attachments.values()):
            raise ConfigError(
                "this graft was taken off its encoder, so its adapters act no more; graft() again, or "
                "run the encoder itself"
            )

    # -- several adapters, one encoder --------------------------------------------------------------------------------

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the adapters that act, in the order in which they do."""
        return tuple(self._active)

    def add(self, name: str, adapter: Adapter) -> None:
        """Attaches another adapter and makes it the only active one; the others keep what they learnt.

        Raises:
            ConfigError: The name is taken, or the graft was taken off.
            IncompatibleError: The adapter does not fit the encoder; nothing has changed then.
        """
        self._require_attached()
        if name.replace(".", "/") in self.adapters:
            raise ConfigError(f"this graft already has an adapter {name!r}; choose another name")
        before = self._active
        self.activate()
        try:
            with all_or_nothing():
                self._attach(name, adapter)
                self._check_reach()
        except BaseException:
            self._forget(name.replace(".", "/"))
            self.activate(*before)
            raise

    def _forget(self, name: str) -> None:
        """Lets go of an adapter that could not be added."""
        self._attachments.pop(name, None)
        own_modules(self.adapters).pop(name, None)
        self._active = [each for each in self._active if each != name]

    def activate(self, *names: str) -> None:
        """Makes exactly these adapters act, in the order in which they were added; no name leaves the bare encoder.

        Nothing is reloaded: the others are taken off the encoder and keep their parameters.

        Raises:
            UnknownNameError: No adapter of this graft has the name.
            ConfigError: Two of them cannot act at once, and nothing has changed then; or the graft was taken off.
        """
        self._require_attached()
        for name in names:
            if name not in self._attachments:
                raise UnknownNameError("adapter of this graft", name, self._attachments)
        before = self._active
        self._switch([name for name in self.adapters if name in names])
        try:
            for name in self._active:
                self._attachments[name].resume()
            self.train(self.training)
        except BaseException:
            self._switch(before)
            for name in before:
                self._attachments[name].resume()
            raise

    def _acting(self) -> dict[str, Attachment]:
        """Attachments of the active adapters; none after :meth:`ungraft`."""
        attachments = {name: self._attachments[name] for name in self._active if name in self._attachments}
        return {name: attachment for name, attachment in attachments.items() if not attachment.gone}

    def _switch(self, names: list[str]) -> None:
        """Takes every adapter off the encoder, which ends a merge, and notes which are to be put on again."""
        for name in reversed(self._active):
            self._attachments[name].pause()
        self._active, self._merged = names, False

    # -- running ------------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor | Features, *, start: int = 0, scores: bool = False) -> Features:
        """Features of the (first) tower; see :meth:`medgraft.encoder.Encoder.forward`."""
        self._begin()
        features = next(iter(self.towers().values()))(x, start=start, scores=scores)
        return untrained(features, self.training) if self._merged else features

    def _begin(self) -> None:
        self._require_attached()
        self._claim()
        for attachment in self._acting().values():
            for forget in attachment.on_call:
                forget()

    def _replicate_for_data_parallel(self) -> Grafted:
        replica = super()._replicate_for_data_parallel()  # pyright: ignore[reportAttributeAccessIssue]
        replica.__dict__["_replica_of"] = (self,)
        return replica

    def _claim(self) -> None:
        """A replica of ``nn.DataParallel`` shares its modules' hooks with the original until it is first used."""
        if (original := self.__dict__.pop("_replica_of", None)) is not None:
            claim_hooks(original[0], self)

    def towers(self) -> dict[str, Encoder]:
        """The encoder's towers by modality, adapters attached."""
        self._claim()
        return self.encoder.towers()

    def encode(
        self, inputs: Mapping[str, Tensor | Features], start: Mapping[str, int] | None = None
    ) -> dict[str, Features]:
        """Runs the towers that ``inputs`` names.

        Args:
            inputs: Modality -> prepared batch ``[B, ...]`` (or a hidden state of stage ``start[modality]``, or
                features).
            start: Modality -> stage of its input; 0 where absent.
        """
        self._begin()
        towers, start = self.towers(), start or {}
        first = {name for attachment in self._acting().values() for name in attachment.first}
        order = sorted(inputs, key=lambda name: name not in first)
        outputs = {name: towers[name](inputs[name], start=start.get(name, 0)) for name in order}
        if self._merged:
            outputs = {name: untrained(features, self.training) for name, features in outputs.items()}
        return {name: outputs[name] for name in inputs}

    def extra_loss(self, outputs: Mapping[str, Features]) -> Tensor | None:
        """Sum of the loss terms that the adapters themselves ask for, a scalar; ``None`` where none asks."""
        terms = [term for _, adapter in self.named_adapters() if (term := adapter.extra_loss(outputs)) is not None]
        return sum(terms[1:], terms[0]) if terms else None

    def logit_scale(self) -> Tensor | float:
        """Multiplier of the similarity between modalities, a scalar: an adapter's trained one, else the encoder's."""
        for _, adapter in self.named_adapters():
            if (scale := adapter.logit_scale()) is not None:
                return scale
        if isinstance(self.encoder, DualEncoder) and self.encoder.logit_scale is not None:
            return self.encoder.logit_scale
        raise IncompatibleError(f"encoder {self.encoder.spec.name!r} has no space that two modalities share")

    # -- accounting ---------------------------------------------------------------------------------------------------

    def named_adapters(self) -> Iterator[tuple[str, Adapter]]:
        """The active adapters with their names, in the order in which they act."""
        for name in self._active:
            adapter = self.adapters[name]
            assert isinstance(adapter, Adapter)
            yield name, adapter

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Parameters of any shape, those of the active adapters and of the head; never one of the encoder."""
        unique = {id(p): p for module in self.trained_modules() for p in module.parameters() if p.requires_grad}
        return list(unique.values())

    def trained_modules(self) -> list[nn.Module]:
        """The active adapters, and the head."""
        return [adapter for _, adapter in self.named_adapters()] + ([self.head] if self.head is not None else [])

    def _parts(self) -> dict[str, list[nn.Parameter]]:
        """What is trained, by part: each active adapter by name, then ``head``."""
        parts: dict[str, nn.Module] = dict(self.named_adapters()) | (
            {"head": self.head} if self.head is not None else {}
        )
        return {name: [p for p in part.parameters() if p.requires_grad] for name, part in parts.items()}

    def trainable_count(self) -> dict[str, int]:
        """Trainable numbers by part: each active adapter by name, then ``head``."""
        return {name: sum(p.numel() for p in part) for name, part in self._parts().items()}

    def trainable_dtypes(self) -> dict[str, str]:
        """Types of what is trained, by part, such as ``float32``; parts without any are left out."""
        kinds = {
            name: sorted({str(p.dtype).removeprefix("torch.") for p in part}) for name, part in self._parts().items()
        }
        return {name: ", ".join(dtypes) for name, dtypes in kinds.items() if dtypes}

    def coverage(self) -> Coverage:
        """Active adapter -> target pattern -> names of the sites it hit; prints as the encoder's tree of sites."""
        hits = {name: attachment.hits for name, attachment in self._acting().items()}
        return Coverage(hits, self.encoder.spec.name, self._sites)

    def first_stage(self) -> dict[str, int]:
        """First stage of each tower, by modality, that any adapter changes; all before it can be computed once."""
        towers = self.towers()
        first = {name: tower.n_stages for name, tower in towers.items()}
        for attachment in self._acting().values():
            for tower_name, stage in attachment.stage.items():
                key = tower_name or next(iter(towers))
                first[key] = min(first[key], stage)
        return first

    def condensers(self) -> dict[str, Condenser]:
        """What can be computed once of the features of each frozen tower, by modality.

        Towers that an adapter changes before their features, and those whose features several adapters read, have none;
        under ``MEDGRAFT_PLAIN=1`` no tower has.
        """
        if is_plain():
            return {}
        readers: dict[str, list[Adapter]] = {}
        for name, adapter in self.named_adapters():
            touched = {hit for matches in self._acting()[name].hits.values() for hit in matches}
            for tower in {self._sites[hit].tower for hit in touched if self._sites[hit].kind == "features"}:
                readers.setdefault(tower or next(iter(self.towers())), []).append(adapter)
        first = self.first_stage()
        frozen = {name: readers.get(name, []) for name, tower in self.towers().items() if first[name] >= tower.n_stages}
        condensers = {
            name: precomputation_of(only[0], self.towers()[name]) for name, only in frozen.items() if len(only) == 1
        }
        return {name: condenser for name, condenser in condensers.items() if condenser is not None}

    # -- lifetime -----------------------------------------------------------------------------------------------------

    def ungraft(self) -> Encoder:
        """Detaches everything, last first, and returns the encoder as it was; the graft does not run any more."""
        for name in [*reversed(self._active), *self._attachments]:
            if name in self._attachments:
                self._attachments.pop(name).detach()
        self._merged, self._taken_off = False, True
        return self.encoder

    def merge(self) -> None:
        """Folds every active adapter into the encoder's weights, where this changes no result.

        Layers and the whole graft run before and after on generated inputs and must agree to within rounding. Merged,
        the graft cannot be trained until :meth:`unmerge`.

        Raises:
            ConfigError: One of them cannot be merged, they are merged already, or the graft was taken off.
            MergeError: The encoder would not return the same, and the sentence names the site; every weight is what
                it was before then. See :func:`medgraft.attachment.merging.merge_checked`.
        """
        self._require_attached()
        stuck = [name for name, adapter in self.named_adapters() if not adapter.mergeable]
        if stuck:
            raise ConfigError(f"cannot merge {', '.join(stuck)}: it has no form that is a change of the weights alone")
        if self._merged:
            raise ConfigError("this graft is merged already; unmerge() first")
        hits = {name: list(self._sites) if not a.hits else [h for f in a.hits.values() for h in f]
                for name, a in self._acting().items()}  # fmt: skip
        with self._trying() as adapters:
            merge_checked(self.encoder, adapters, hits, self._sites, self.encode)
        self._merged = bool(adapters)

    def unmerge(self) -> None:
        """Restores the weights from before :meth:`merge`, bit for bit."""
        self._require_attached()
        for _, adapter in reversed(list(self.named_adapters())):  # the last one merged kept the sum of the others
            adapter.unmerge()
        self._merged = False

    def save(self, folder: str | Path) -> Path:
        """Writes adapters and head, and nothing of the encoder; see :mod:`medgraft.checkpoints.folder`."""
        return save(self, Path(folder))

    def load(self, folder: str | Path) -> Grafted:
        """Loads what :meth:`save` wrote, strictly; returns itself."""
        self._require_attached()
        load(self, Path(folder))
        return self

    def train(self, mode: bool = True) -> Grafted:
        """Training mode for adapters and head; the encoder stays in evaluation mode."""
        self.training = mode
        self.encoder.train(False)
        for module in [self.adapters, *([self.head] if self.head is not None else [])]:
            module.train(mode)
        return self


def refuse_carried(encoder: Encoder) -> None:
    """Refuses a second graft, whose adapters would act on top of the first one's.

    Raises:
        ConfigError: The encoder, one of its towers, or an encoder that it lies in carries adapters.
    """
    if names := ", ".join(dict.fromkeys(attachment.name for attachment in encoder.carried())):
        raise ConfigError(
            f"encoder {encoder.spec.name!r} carries {names} already; ungraft() it or add() to it, or, where the "
            "Grafted object is gone, take everything off with medgraft.ungraft_all(encoder)"
        )
