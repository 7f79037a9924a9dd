"""For every check of the kit a copy of a sound adapter that breaks exactly that rule."""

from __future__ import annotations

import os
import weakref
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field, field_serializer
from sound_adapters import Sound, SoundMerge
from torch import nn

from medgraft.adapter import Adapter, Attachment, Support
from medgraft.adapters.linear_probe import LinearProbe
from medgraft.attachment.hooks import HALVES
from medgraft.encoder.sites import Site, match_sites
from medgraft.errors import IncompatibleError
from medgraft.features import Condenser

# -- what it says of itself -------------------------------------------------------------------------------------------


class FromTheFuture(Sound):
    api_version = 99


class Undocumented(Sound):
    class Config(Sound.Config):
        """Options.

        Attributes:
            width: Of the bottleneck.
            targets: Patterns of blocks.
        """

        unsaid: bool = False


class Lenient(Sound):
    class Config(Sound.Config):
        __doc__ = Sound.Config.__doc__
        model_config = ConfigDict(extra="ignore")


class TakesAnything(Sound):
    class Config(Sound.Config):
        """Options.

        Attributes:
            width: Of the bottleneck.
            scale: Factor on it.
            targets: Patterns of blocks.
            note: Anything.
        """

        note: Any = None


class NoRange(Sound):
    class Config(Sound.Config):
        __doc__ = Sound.Config.__doc__
        width: int = 4


class Mutable(Sound):
    class Config(Sound.Config):
        __doc__ = Sound.Config.__doc__
        model_config = ConfigDict(frozen=False)


class Rounded(Sound):
    class Config(Sound.Config):
        __doc__ = Sound.Config.__doc__
        scale: float = Field(1.5, gt=0)

        @field_serializer("scale")
        def _short(self, value: float) -> float:
            return round(value)


class FitsNothing(Sound):
    def supports(self, encoder):
        return Support(False, "it is never the right encoder")


class Curt(Sound):
    def supports(self, encoder):
        return Support(bool(super().supports(encoder)), "no")


class Marks(Sound):
    def supports(self, encoder):
        answer = super().supports(encoder)
        if not answer:
            encoder.was_asked = True
        return answer


class Overconfident(Sound):
    def supports(self, encoder):
        return Support(True)


class InventsSites(Sound):
    def record(self, attachment, hits):
        attachment.record(hits)
        attachment.record({"more": [Site("blocks.77", "block", "")]})


class ForgivesTypos(Sound):
    def hits(self, sites):
        known = []
        for pattern in self.config.targets:
            try:
                match_sites(sites, (pattern,), "targets")
            except IncompatibleError:
                continue
            known.append(pattern)
        return {
            pattern: [s for s in match_sites(sites, (pattern,), "")[pattern] if s.kind == "block"] for pattern in known
        }


class NotTheIdentity(Sound):
    def make(self, dim):
        delta = super().make(dim)
        nn.init.normal_(delta.up.weight)
        return delta


# -- numbers ----------------------------------------------------------------------------------------------------------


class WrongGrid(Sound):
    def after(self, encoder, attachment):
        for tower in encoder.towers().values():
            attachment.map_features(tower, lambda features: features.replace(grid=(1, 2)))


class Unseeded(Sound):
    def make(self, dim):
        delta = super().make(dim)
        generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(4)))
        nn.init.normal_(delta.down.weight, generator=generator)
        return delta


class MixesSamples(Sound):
    def change(self, x, delta):
        return x + delta - delta.mean(dim=0)


class HidesItsStage(Sound):
    def after(self, encoder, attachment):
        attachment.stage = dict.fromkeys(attachment.stage, 2)


class Counts(Sound):
    calls = 0

    def change(self, x, delta):
        if self.training:
            self.calls += 1
        return x + delta * (1 + 0.1 * self.calls * self.training)


class WrongUnderAutocast(Sound):
    def change(self, x, delta):
        return (x + delta) * (1.5 if torch.is_autocast_enabled("cpu") else 1.0)


class SinglePrecision(Sound):
    def change(self, x, delta):
        kind = delta.dtype if delta.dtype in HALVES else torch.float32
        return x + (delta @ torch.eye(delta.shape[-1], dtype=kind) if not torch.is_autocast_enabled("cpu") else delta)


class WrongWhenCompiled(Sound):
    def change(self, x, delta):
        return (x + delta) * (1.1 if torch.compiler.is_compiling() else 1.0)


class ReadsOtherTokens(Sound):
    """Takes the mean over all tokens away from what it adds to each query, which it says it does not do."""

    token_wise = True

    def hits(self, sites):
        found = match_sites(sites, self.config.targets, "targets")
        return {pattern: [site for site in hit if site.name.endswith(".q")] for pattern, hit in found.items()}

    def attach(self, encoder, sites):
        attachment = Attachment(encoder)
        hits = self.hits(sites)
        attachment.record(hits)
        self.delta.clear()
        for site in [site for hit in hits.values() for site in hit]:
            tower = encoder.towers()[site.tower] if site.tower else encoder
            self.delta[site.name.replace(".", "/")] = delta = self.make(tower.spec.dim)
            attachment.add_to_output(site, lambda x, d=delta: centred(d.up(F.gelu(d.down(x)))))
        return attachment


class CountsPadding(Sound):
    """Scales what a text is pooled to by the number of its tokens, and says that it needs no padding."""

    text_padding = 0

    def attach(self, encoder, sites):
        attachment = super().attach(encoder, sites)
        if (tower := encoder.towers().get("text")) is not None:
            context = tower.spec.input_size[0]
            scale = lambda each: each.replace(pooled=each.pooled * each.tokens.shape[1] / context)  # noqa: E731
            attachment.map_features(tower, scale)
        return attachment


def centred(x):
    return x - x.mean(dim=-2, keepdim=True)


class KeepsTooLittle(LinearProbe):
    """Its condenser forgets an option that changes what is pooled."""

    def precompute(self, tower):
        return Condenser("pooled", lambda features: features.replace(pooled=2 * features.pooled, condensed="pooled"))


# -- the frozen encoder -----------------------------------------------------------------------------------------------


class Thaws(Sound):
    def before(self, encoder, attachment):
        bias = next(p for name, p in encoder.named_parameters() if name.endswith("norm1.bias"))
        attachment.on_detach(lambda: setattr(bias, "requires_grad", False))
        bias.requires_grad_(True)


class SitsAtWhatIsNeverCalled(Sound):
    """Also sits at every ``qkv`` that is a layer of its own, and records no such site."""

    def supports(self, encoder):
        return Support(True) if "blocks.0" in encoder.sites() else Support(False, "it has no blocks")

    def after(self, encoder, attachment):
        for name, site in encoder.sites().items():
            if name.endswith(".attn.qkv"):
                weight = encoder.get_submodule(site.path).weight
                self.delta[name.replace(".", "/")] = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
                attachment.add_to_output(site, self.delta[name.replace(".", "/")])


class Idle(Sound):
    def after(self, encoder, attachment):
        self.unused = nn.Parameter(torch.ones(3))


class Hidden(Sound):
    def after(self, encoder, attachment):
        self.gains = [nn.Parameter(torch.ones(()))]

    def change(self, x, delta):
        return x + delta * self.gains[0]


class Backwards(Sound):
    def learning_rate_scale(self, parameter):
        return -1.0


class WritesToBuffers(Sound):
    def before(self, encoder, attachment):
        self.counters = [b for name, b in encoder.named_buffers() if name.endswith("num_batches_tracked")]

    def change(self, x, delta):
        if self.training:
            for counter in self.counters:
                counter += 1
        return x + delta


class AddsNoise(Sound):
    """Behind a step and without a gradient, past the version counters."""

    def before(self, encoder, attachment):
        self.outside = (encoder,)

    def after_step(self):
        for parameter in self.outside[0].parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))


class AdjustsWhenEvaluated(Sound):
    def before(self, encoder, attachment):
        self.outside = (next(encoder.parameters()),)

    def change(self, x, delta):
        if not self.training:
            with torch.no_grad():
                self.outside[0].mul_(1.0001)
        return x + delta


class Reseeds(Sound):
    def make(self, dim):
        torch.manual_seed(0)
        return super().make(dim)


class TakesEveryThread(Sound):
    def after_step(self):
        torch.set_num_threads(torch.get_num_threads() + 1)


class WantsDouble(Sound):
    def reset_diagnostics(self):
        torch.set_default_dtype(torch.float64)

    def after_step(self):
        torch.set_default_dtype(torch.float64)


class ReportsObjects(Sound):
    def diagnostics(self):
        return {"router": self.delta}


class WakesDropout(Sound):
    def before(self, encoder, attachment):
        self.outside = tuple(module for module in encoder.modules() if isinstance(module, nn.Dropout))
        attachment.on_detach(lambda: [module.eval() for module in self.outside])

    def train(self, mode=True):
        for module in getattr(self, "outside", ()):
            module.train(mode)
        return super().train(mode)


class LeavesAnAttribute(Sound):
    def before(self, encoder, attachment):
        self.block = (encoder.get_submodule(encoder.block_paths()[0]),)

    def change(self, x, delta):
        if self.training:
            self.block[0].was_trained = True
        return x + delta


class LeavesAnEpsilon(Sound):
    def before(self, encoder, attachment):
        norm = next(module for module in encoder.modules() if isinstance(module, nn.LayerNorm))
        attachment.on_detach(lambda: setattr(norm, "eps", 0.1), lambda: setattr(norm, "eps", 1e-5))


class Remembers(Sound):
    known: ClassVar[weakref.WeakSet] = weakref.WeakSet()

    def after(self, encoder, attachment):
        if encoder in self.known:
            encoder.register_forward_hook(lambda *_: None)
        self.known.add(encoder)


class CannotReturn(Sound):
    """Rolls the channels of a block until it is trained, so a fresh graft is not the identity."""

    identity_at_init = False
    trained = False

    def after(self, encoder, attachment):
        block = encoder.get_submodule(encoder.block_paths()[-1])
        handle = block.register_forward_hook(lambda module, x, out: out if self.trained else out.roll(1, dims=-1))
        attachment.on_detach(handle.remove)

    def change(self, x, delta):
        self.trained = self.trained or self.training
        return x + delta


class UndoesTooLate(Sound):
    def before(self, encoder, attachment):
        self.handle = (encoder.register_forward_hook(lambda *_: None),)

    def after(self, encoder, attachment):
        attachment.on_detach(self.handle[0].remove)


class Loner(Sound):
    def before(self, encoder, attachment):
        if any(module._forward_hooks for module in encoder.modules()):
            raise IncompatibleError("another adapter is attached already")


class Forgetful(Sound):
    def after(self, encoder, attachment):
        self.offset = 0.1 * torch.randn(encoder.spec.dim)

    def change(self, x, delta):
        return x + delta * (1 + self.offset.to(delta.dtype))


class Copies(Sound):
    def after(self, encoder, attachment):
        norm = next(module for module in encoder.modules() if isinstance(module, nn.LayerNorm))
        self.register_buffer("reference", norm.weight.detach().clone())


class Shared(Sound):
    def __deepcopy__(self, memo):
        return self


class Narrows(Sound):
    def before(self, encoder, attachment):
        self.narrow = encoder.dtype in HALVES

    def train(self, mode=True):
        for parameter in self.parameters() if getattr(self, "narrow", False) else ():
            parameter.data = parameter.data.to(torch.bfloat16)
        return super().train(mode)


class AlwaysWide(Sound):
    def change(self, x, delta):
        if delta.dtype in HALVES and not torch.is_autocast_enabled("cpu"):
            delta = delta @ torch.eye(delta.shape[-1])
        return x + delta


class HasANote(Sound):
    def make(self, dim):
        delta = super().make(dim)
        delta.notes = [lambda: "found under no name"]
        return delta


class AsksForAParameter(Sound):
    def change(self, x, delta):
        return x + delta if isinstance(next(iter(self.delta.values())).up.weight, nn.Parameter) else x


class MergesTooMuch(SoundMerge):
    @torch.no_grad()
    def merge(self):
        super().merge()
        for base, weight in zip(self.places, self.update.values(), strict=True):
            base.weight += 0.1 * weight


class Subtracts(SoundMerge):
    @torch.no_grad()
    def unmerge(self):
        for base, weight in zip(self.places, self.update.values(), strict=True):
            if self.kept:
                base.weight -= weight
        self.kept = []


class PretendsToMerge(Sound):
    def merge(self):
        pass


BROKEN: dict[str, type[Adapter]] = {
    "api_version_is_spoken": FromTheFuture,
    "options_are_documented": Undocumented,
    "unknown_options_are_refused": Lenient,
    "wrong_kinds_of_values_are_refused": TakesAnything,
    "values_out_of_range_are_refused": NoRange,
    "options_cannot_be_changed": Mutable,
    "options_survive_storage": Rounded,
    "supports_something": FitsNothing,
    "refusals_have_a_reason": Curt,
    "asking_changes_nothing": Marks,
    "attaches_where_it_fits": Overconfident,
    "coverage_names_sites": InventsSites,
    "unmatched_targets_are_errors": ForgivesTypos,
    "identity_at_the_start_is_true": NotTheIdentity,
    "features_are_well_formed": WrongGrid,
    "a_seed_fixes_everything": Unseeded,
    "samples_do_not_see_each_other": MixesSamples,
    "the_first_stage_is_true": HidesItsStage,
    "gradient_checkpointing_agrees": Counts,
    "autocast_agrees": WrongUnderAutocast,
    "float64_works": SinglePrecision,
    "compilation_agrees": WrongWhenCompiled,
    "the_short_last_block_agrees": ReadsOtherTokens,
    "condensed_features_agree": KeepsTooLittle,
    "cut_texts_agree": CountsPadding,
    "only_adapter_and_head_train": Thaws,
    "every_parameter_learns": Idle,
    "every_parameter_learns_where_layers_are_odd": SitsAtWhatIsNeverCalled,
    "trainable_parameters_are_all": Hidden,
    "learning_rates_are_positive": Backwards,
    "training_leaves_the_encoder_alone": WritesToBuffers,
    "the_encoder_stays_in_evaluation_mode": WakesDropout,
    "ungraft_restores_the_tree": LeavesAnAttribute,
    "ungraft_restores_the_outputs": LeavesAnEpsilon,
    "a_second_graft_is_like_the_first": Remembers,
    "switching_off_and_on_changes_nothing": CannotReturn,
    "a_failed_attach_leaves_no_trace": UndoesTooLate,
    "composes_with_another": Loner,
    "saving_and_loading_is_exact": Forgetful,
    "the_file_holds_no_encoder_weight": Copies,
    "training_in_half_precision_moves_what_is_trained": Narrows,
    "a_graft_moves_to_half_precision": AlwaysWide,
    "a_deep_copy_is_its_own": Shared,
    "a_pickle_is_its_own": HasANote,
    "a_replica_is_its_own": AsksForAParameter,
    "merging_changes_no_output": MergesTooMuch,
    "unmerging_restores_every_bit": Subtracts,
    "what_cannot_merge_says_so": PretendsToMerge,
    "settings_stay_as_they_are": TakesEveryThread,
    "reports_are_json": ReportsObjects,
}

ALSO_BROKEN: tuple[tuple[str, type[Adapter]], ...] = (
    ("training_leaves_the_encoder_alone", AddsNoise),
    ("training_leaves_the_encoder_alone", AdjustsWhenEvaluated),
    ("settings_stay_as_they_are", Reseeds),
    ("settings_stay_as_they_are", WantsDouble),
)
"""Further ways to break a rule; they may break others on the way."""
