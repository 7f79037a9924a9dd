"""Rules about what an adapter says of itself: version, options, what it fits."""

from __future__ import annotations

import inspect
import json
import math
import re
import unittest
from typing import Any, get_args

from medgraft.adapter import AdapterConfig, Support
from medgraft.errors import ConfigError, IncompatibleError, MedgraftError
from medgraft.grafting import Grafted
from medgraft.plugins import refused_version
from medgraft.testing.adapter_rules.subject import AdapterSubject
from medgraft.testing.check import Rule, require, rule
from medgraft.testing.snapshots import outputs_of, tree_difference, tree_of
from medgraft.typed.values import is_a

NOWHERE = "no.such.site"
MIN_WORDS = 3


@rule("Leave api_version to the base class, or set it to the version that the plugin was written for.")
def api_version_is_spoken(subject: AdapterSubject) -> None:
    """The plugin was written for a version of the contract that this medgraft speaks."""
    for part in subject.parts:
        problem = refused_version(getattr(part.cls, "api_version", None))
        require(not problem, f"{part.cls.__name__} {problem}")


@rule("Describe each field under 'Attributes:' in the docstring of the nested Config, as `name: meaning`.")
def options_are_documented(subject: AdapterSubject) -> None:
    """Every field of Config is described in its docstring."""
    for part in subject.parts:
        require_documented(part.cls.Config)


def require_documented(config: type[Any]) -> None:
    """Raises a violation that names the fields of a pydantic class that its docstring does not describe."""
    texts = [inspect.cleandoc(vars(kind).get("__doc__") or "") for kind in config.__mro__]  # a base describes its own
    described = "\n".join(text.partition("Attributes:")[2] for text in texts)
    documented = set(re.findall(r"^\s*(\w+): \S", described, re.M))
    missing = [name for name, field in config.model_fields.items() if name not in documented and not field.description]
    require(not missing, f"{', '.join(missing)} of {config.__qualname__} is not described")


@rule("Derive Config from medgraft.AdapterConfig and leave extra='forbid' as it is.")
def unknown_options_are_refused(subject: AdapterSubject) -> None:
    """An option that does not exist is an error that names it."""
    for part in subject.parts:
        try:
            part.make(no_such_option=1)
        except ConfigError as error:
            require("no_such_option" in str(error), f"the error does not name the unknown option: {error}")
            continue
        require(False, f"{part.name} takes the unknown option no_such_option=1")


@rule("Derive Config from medgraft.AdapterConfig and leave frozen=True as it is.")
def options_cannot_be_changed(subject: AdapterSubject) -> None:
    """A configuration is immutable once it is made, and is an AdapterConfig."""
    for part in subject.parts:
        config = part.make().config
        require(is_a(config, AdapterConfig), f"{part.name}.config is a {type(config).__name__}")
        field = next(iter(type(config).model_fields), "anything")
        try:
            setattr(config, field, getattr(config, field, None))
        except ValueError:
            continue
        require(False, f"{field} of {part.name}'s configuration can be set")


@rule("Use types that pydantic can write as JSON and read back: numbers, strings, Literal, tuples.")
def options_survive_storage(subject: AdapterSubject) -> None:
    """A configuration written as JSON, as a checkpoint holds it, is read back equal."""
    for part in subject.parts:
        config = part.make().config
        stored = json.loads(json.dumps(config.model_dump(mode="json")))
        again = type(config).model_validate(stored)
        require(again == config, f"{part.name}'s configuration comes back as {again!r}, it was {config!r}")


@rule("Give the field a type that refuses other kinds of values.")
def wrong_kinds_of_values_are_refused(subject: AdapterSubject) -> None:
    """A value of the wrong kind is an error that names the option."""
    for part in subject.parts:
        for field in part.cls.Config.model_fields:
            try:
                part.make(**{field: object()})
            except ConfigError as error:
                require(field in str(error), f"the error does not name the option {field!r}: {error}")
                continue
            require(False, f"{part.name} takes {field}=object()")


@rule("Declare the range where the field is declared: Field(default, ge=..., lt=...).")
def values_out_of_range_are_refused(subject: AdapterSubject) -> None:
    """A number that the method cannot work with is refused by Config, not by PyTorch later on."""
    if not subject.cases():
        raise unittest.SkipTest(subject.without_cases())
    numeric = 0
    for part in subject.parts:
        for field, info in part.cls.Config.model_fields.items():
            kinds = {info.annotation, *get_args(info.annotation)} & {int, float}
            numeric += bool(kinds)
            for value in _extremes(kinds):
                _try_value(subject, part.name, field, value)
    if not numeric:
        raise unittest.SkipTest("no option is a number")


def _extremes(kinds: set[Any]) -> list[float | int]:
    return ([-1, 0] if int in kinds else []) + ([-1.0, math.inf, math.nan] if float in kinds else [])


def _try_value(subject: AdapterSubject, name: str, field: str, value: float) -> None:
    """The options refuse ``value``, the adapter refuses the encoder, or a graft runs and gives finite numbers."""
    case = subject.cases()[0]
    encoder = subject.encoder(case)
    try:
        parts = {part.name: part.make(**({field: value} if part.name == name else {})) for part in subject.parts}
        grafted = Grafted(encoder, parts).train()
        outputs = grafted.encode(subject.inputs(encoder))
    except MedgraftError:
        return
    except Exception as error:  # PyTorch's complaint about a value that should never have come this far
        text = " ".join(str(error).split())[:160]
        require(False, f"{name} takes {field}={value!r} and then fails with {type(error).__name__}: {text}")
        return
    fine = all(each.pooled.isfinite().all() for each in outputs.values())
    require(fine, f"{name} takes {field}={value!r} and then gives features that are not finite")


@rule("Return medgraft.Support from supports(): Support(True), or Support(False, reason) with a reason in words.")
def refusals_have_a_reason(subject: AdapterSubject) -> None:
    """supports() answers for every encoder, and a refusal gives a reason that a person understands."""
    for name, trial in subject.trials.items():
        where = f"{name}: supports()"
        require(trial.support is not None, f"{where} raised {type(trial.error).__name__}: {trial.error}")
        require(isinstance(trial.support, Support), f"{where} returned {trial.support!r}")
        assert trial.support is not None
        if not trial.support:
            reason = trial.support.reason
            require(len(reason.split()) >= MIN_WORDS, f"{where} refuses with the reason {reason!r}")


@rule("Leave the encoder alone in supports(): read its spec, its sites and the shapes of its weights only.")
def asking_changes_nothing(subject: AdapterSubject) -> None:
    """supports() leaves no trace in an encoder, whatever it answers, and graft() refuses where it says no."""
    for name, trial in subject.trials.items():
        encoder = subject.encoder(name)
        before = tree_of(encoder)
        for part in subject.parts:
            if trial.support is not None:
                part.make().supports(encoder)
        if trial.support is not None and not trial.support:
            try:
                Grafted(encoder, subject.adapters())
            except IncompatibleError:
                pass
            else:
                require(False, f"{name}: supports() says no and graft() attaches it")
        changed = tree_difference(before, tree_of(encoder))
        require(not changed, f"{name}: after supports(), {changed}")


@rule("Let supports() say yes to encoders of the kit that the method fits, or pass encoders= with one that it fits.")
def supports_something(subject: AdapterSubject) -> None:
    """The adapter fits at least one of the encoders."""
    reasons = [f"{name}: {t.support.reason}" for name, t in subject.trials.items() if t.support is not None]
    require(any(trial.support for trial in subject.trials.values()), f"it fits no encoder ({'; '.join(reasons)[:400]})")


@rule("Let supports() refuse what attach() or the method cannot handle, or mend attach().")
def attaches_where_it_fits(subject: AdapterSubject) -> None:
    """Wherever supports() says yes, attach() succeeds and the graft runs."""
    for name, trial in subject.trials.items():
        if trial.support and trial.error is not None:
            text = " ".join(str(trial.error).split())[:300].rstrip(".")
            require(False, f"{name}: supports() says yes, and it fails with {type(trial.error).__name__}: {text}")


@rule("Call attachment.record(hits) with the sites of the encoder that each target pattern hit.", each=True)
def coverage_names_sites(subject: AdapterSubject, case: str) -> None:
    """attach() reports which sites each target pattern hit, by the encoder's own names."""
    encoder = subject.encoder(case)
    site_names = set(encoder.sites())
    coverage = subject.graft(encoder, case).coverage()
    for name, patterns in coverage.items():
        require(patterns, f"{name} records no site")
        for pattern, sites in patterns.items():
            require(sites, f"{name} records no site for pattern {pattern!r}")
            strange = sorted(set(sites) - site_names)
            require(not strange, f"{name} records {strange[0] if strange else ''!r}, which is no site of the encoder")


@rule(
    "Resolve targets with medgraft.match_sites, which raises IncompatibleError for a pattern without a hit.", each=True
)
def unmatched_targets_are_errors(subject: AdapterSubject, case: str) -> None:
    """A target pattern that matches nothing is an error that names it, so that a typo never trains nothing."""
    aimed = [part for part in subject.parts if "targets" in part.cls.Config.model_fields]
    if not aimed:
        raise unittest.SkipTest("it has no option 'targets'")
    for part in aimed:
        encoder = subject.encoder(case)
        before = tree_of(encoder)
        targets = (*getattr(part.make().config, "targets"), NOWHERE)  # noqa: B009  the field is the plugin's own
        try:
            Grafted(
                encoder,
                {each.name: each.make(targets=targets) if each is part else each.make() for each in subject.parts},
            )
        except (IncompatibleError, ConfigError) as error:
            require(NOWHERE in str(error), f"the error does not name the pattern {NOWHERE!r}: {error}")
            changed = tree_difference(before, tree_of(encoder))
            require(not changed, f"after the error, {changed}")
            continue
        require(False, f"{part.name} takes targets={targets!r} without an error")


@rule(
    "Start as the identity (a zero-initialised last map), or set identity_at_init = False and say why in the class "
    "docstring, with the word 'identity'.",
    each=True,
)
def identity_at_the_start_is_true(subject: AdapterSubject, case: str) -> None:
    """A fresh graft gives the encoder's own numbers, or the adapter says that it does not."""
    adapters = subject.adapters()
    declared = [adapter for adapter in adapters.values() if not adapter.identity_at_init]
    for adapter in declared:
        said = "identity" in (type(adapter).__doc__ or "")
        require(said, f"{type(adapter).__name__} sets identity_at_init = False and its docstring does not explain it")
    if declared:
        raise unittest.SkipTest("it says that a fresh graft is not the identity")
    encoder = subject.encoder(case)
    inputs = subject.inputs(encoder)
    before = outputs_of(encoder, inputs)
    after = outputs_of(Grafted(encoder, adapters), inputs)
    after = {name: value for name, value in after.items() if name in before}
    # Some roundings: nn.MultiheadAttention sums in another order than an adapter's forward, and methods that
    # decompose a weight put it together again.
    for name, value in before.items():
        gap = (after[name] - value).abs().max().item() if after[name].shape == value.shape else math.inf
        require(gap <= 2e-5 * max(1.0, value.abs().max().item()), f"a fresh graft changes {name} by up to {gap:.3g}")


RULES: tuple[Rule[AdapterSubject], ...] = (
    api_version_is_spoken,
    options_are_documented,
    unknown_options_are_refused,
    wrong_kinds_of_values_are_refused,
    values_out_of_range_are_refused,
    options_cannot_be_changed,
    options_survive_storage,
    supports_something,
    refusals_have_a_reason,
    asking_changes_nothing,
    attaches_where_it_fits,
    coverage_names_sites,
    unmatched_targets_are_errors,
    identity_at_the_start_is_true,
)
