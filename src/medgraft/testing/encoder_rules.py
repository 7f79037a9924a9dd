"""Rules that hold for every encoder."""

from __future__ import annotations

import copy
import math
import re
import tempfile
import unittest
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from medgraft import plugins, sources
from medgraft.checkpoints.weights import state_digest
from medgraft.encoder import Encoder, MultimodalEncoder
from medgraft.encoder.attention import AttentionLayout, capture_cls_rows
from medgraft.encoder.towers import grid_axes, reads_text
from medgraft.errors import CheckpointError, ConfigError, MedgraftError
from medgraft.features import Features
from medgraft.modality import find_modality
from medgraft.registry import check_encoder, resolve_encoder
from medgraft.testing.block_token_rules import tokens_of_blocks_fit
from medgraft.testing.check import Rule, require, rule
from medgraft.testing.encoder_subject import EncoderSubject
from medgraft.testing.snapshots import difference, tensors_of
from medgraft.testing.text_rules import padding_is_not_read, short_batches_agree
from medgraft.typed.pytorch import named_modules, seed_random
from medgraft.typed.values import is_a

WEIGHTS = re.compile(r"random|none|pretrained:[0-9a-f]{64}")
# The same products in batches of another size sum in another order: a thousand roundings of float32.
ATOL, RTOL = 1e-5, 1e-4


def _run(tower: Encoder, x: Tensor | Features, **options: Any) -> Features:
    with torch.no_grad():
        return tower(x, **options)


def _tensors(features: Features) -> dict[str, Tensor]:
    return tensors_of({"": features})


@rule("Fill in EncoderSpec: name, licence, weights 'random', 'none' or 'pretrained:<sha256>'; one modality per tower.")
def the_spec_is_complete(subject: EncoderSubject) -> None:
    """The spec says what a result must carry, and names the towers."""
    spec, towers = subject.encoder.spec, subject.encoder.towers()
    require(spec.name and spec.licence, f"spec has name {spec.name!r} and licence {spec.licence!r}")
    require(WEIGHTS.fullmatch(spec.weights), f"spec.weights is {spec.weights!r}")
    require("+".join(towers) == spec.modality, f"spec.modality is {spec.modality!r}, its towers {'+'.join(towers)}")
    for name, tower in towers.items():
        require(tower.spec.modality == name, f"the tower {name!r} has modality {tower.spec.modality!r}")
    if isinstance(subject.encoder, MultimodalEncoder) and subject.encoder.logit_scale is not None:
        shared, scale = subject.encoder.shared, subject.encoder.logit_scale
        require(len(shared) > 1, f"a shared space has the towers {' and '.join(shared)}")
        require(math.isfinite(scale) and scale > 0, f"logit_scale is {scale!r}")


@rule("Make spec.dim, spec.heads, n_prefix and grid those of the tokens that encode() returns.", each=True)
def features_fit_the_spec(subject: EncoderSubject, case: str) -> None:
    """Tokens, pooled, grid and mask have the shapes that the spec promises, and are finite."""
    tower = subject.tower(case)
    features = _run(tower, subject.batch(case))
    require(features.tokens.ndim == 3, f"tokens have shape {list(features.tokens.shape)}, not [B, N, C]")
    B, N, C = features.tokens.shape
    require((2, tower.spec.dim) == (B, C), f"tokens are [{B}, {N}, {C}] and spec.dim is {tower.spec.dim}")
    places = math.prod(features.grid) + features.n_prefix
    require(places == N, f"there are {N} tokens, and grid {features.grid} with n_prefix {features.n_prefix}")
    require(features.pooled.ndim == 2 and len(features.pooled) == 2, f"pooled has shape {list(features.pooled.shape)}")
    finite = features.tokens.isfinite().all() and features.pooled.isfinite().all()
    require(finite, "tokens or pooled are not finite")
    if axes := grid_axes(tower):
        require(len(features.grid) == axes, f"grid {features.grid} has another rank than the input of {axes} axes")
    last = tower.attention[-1:]  # stages of a hierarchy may have narrower tokens and fewer heads than the features
    heads = {layout.heads for layout in tower.attention if layout.dim == last[0].dim}
    require(heads <= {tower.spec.heads}, f"spec.heads is {tower.spec.heads}, the attention has {sorted(heads)}")
    mask = features.mask
    require(mask is None or (mask.shape == (B, N) and mask.dtype == torch.bool), "mask is not bool [B, N]")
    tokens_of_blocks_fit(tower, subject.batch(case))


@rule("Call freeze() when the encoder is built, and do not override train().", each=True)
def frozen_for_good(subject: EncoderSubject, case: str) -> None:
    """No parameter requires a gradient, every module is in evaluation mode, and train() changes neither."""
    tower = subject.copy(case)  # whose statistics a run in training mode may change
    before = _run(tower, subject.batch(case))
    loose = [name for name, p in tower.named_parameters() if p.requires_grad]
    require(not loose, f"{', '.join(loose[:4])} requires a gradient")
    tower.train(True)
    awake = [name or "the tower itself" for name, module in named_modules(tower) if module.training]
    changed = difference(_tensors(before), _tensors(_run(tower, subject.batch(case))))
    require(not awake, f"after train(), {', '.join(awake[:4])} is in training mode")
    require(not changed, f"after train(), {changed}")


@rule("Draw no random number in encode(), and keep no state between runs.", each=True)
def a_run_repeats_itself(subject: EncoderSubject, case: str) -> None:
    """Two runs on one input are bit-equal, and change no weight, no buffer and no random state."""
    tower, x = subject.tower(case), subject.batch(case)
    digest, random = state_digest(tower), torch.get_rng_state()
    first, second = _run(tower, x), _run(tower, x)
    require(not (changed := difference(_tensors(first), _tensors(second))), f"in a second run {changed}")
    require(state_digest(tower) == digest, "a run changes the encoder's state")
    require(torch.equal(random, torch.get_rng_state()), "a run draws random numbers")


@rule("Use no statistics of the batch.", each=True)
def samples_do_not_see_each_other(subject: EncoderSubject, case: str) -> None:
    """A sample's features do not depend on its neighbours in the batch."""
    tower, x = subject.tower(case), subject.batch(case)
    together, alone = _tensors(_run(tower, x)), _tensors(_run(tower, x[:1]))
    changed = difference({name: value[:1] for name, value in together.items()}, alone, ATOL, RTOL)
    require(not changed, f"a sample alone and in its batch differ: {changed}")


@rule("Give sites, block_paths() and attention the paths of modules that exist in the encoder.")
def sites_resolve(subject: EncoderSubject) -> None:
    """Every site and block names a module that is there, with the rows that it says."""
    encoder = subject.encoder
    sites = encoder.sites()
    require(any(site.kind == "features" for site in sites.values()), "there is no site of kind 'features'")
    for site in sites.values():
        module = _module(encoder, site.path, f"site {site.name!r}")
        if site.kind in ("projection", "layer") and not site.in_mha:
            weight = getattr(module, "weight", None)
            require(isinstance(weight, Tensor), f"site {site.name!r} is a {type(module).__name__} without a weight")
            assert isinstance(weight, Tensor)
            fits = site.rows is None or site.rows.stop <= len(weight)
            require(fits, f"site {site.name!r} owns rows {site.rows} of a weight with {len(weight)}")
    for tower in encoder.towers().values():
        for path in tower.block_paths():
            _module(tower, path, "block_paths()")
        blocks = len(tower.block_paths())
        require(blocks >= len(tower.attention), f"it has {len(tower.attention)} attentions in {blocks} blocks")


def _module(root: Encoder, path: str, what: str) -> nn.Module:
    try:
        return root.get_submodule(path)
    except AttributeError:
        require(False, f"{what} names {path!r}, which is no module")
        raise


@rule(
    "Let prefix(x, s) run exactly the stages before s, and encode(h, start=s) the rest, without writing to h.",
    each=True,
)
def stages_join(subject: EncoderSubject, case: str) -> None:
    """prefix() and encode() from any stage give bit for bit what a whole run gives."""
    tower, x = subject.tower(case), subject.batch(case)
    whole = _tensors(_run(tower, x))
    stages = list(tower.block_stages)
    require(stages == sorted(stages), f"block_stages {stages} are not in order")
    require(all(0 <= s < tower.n_stages for s in stages), f"block_stages {stages} and n_stages {tower.n_stages}")
    for stage in range(tower.n_stages):
        with torch.no_grad():
            hidden = tower.prefix(x, stage)
        kept = hidden.clone()
        changed = difference(whole, _tensors(_run(tower, hidden, start=stage)))
        require(not changed, f"from stage {stage} {changed}")
        require(torch.equal(kept, hidden), f"encode() from stage {stage} writes to the hidden state it was given")


@rule(
    "Set has_cls, and attention with the layout's heads, scale and transform as the library computes them.", each=True
)
def cls_scores_are_the_attention(subject: EncoderSubject, case: str) -> None:
    """cls_scores and cls_probs are the CLS row of the last attention, and asking for them changes nothing."""
    tower, x = subject.tower(case), subject.batch(case)
    if not tower.has_scores:
        try:
            _run(tower, x, scores=True)
        except ConfigError:
            raise unittest.SkipTest(f"its {case} tower has no CLS attention, and says so") from None
        require(False, "it has no CLS attention, and gives scores")
    layout = subject.layout(case)
    plain, features = _run(tower, x), _run(tower, x, scores=True)
    require(not (changed := difference(_tensors(plain), _tensors(features))), f"with scores=True {changed}")
    logits, probs = features.cls_scores, features.cls_probs
    assert logits is not None and probs is not None
    B, N = features.tokens.shape[:2]
    shape = (B, tower.spec.heads, N - features.n_prefix)
    require(logits.shape == probs.shape == shape, f"cls_scores are {list(logits.shape)}, not {list(shape)}")
    if features.mask is not None:
        padded = ~features.mask[:, None, features.n_prefix :].expand_as(probs)
        require((probs[padded] == 0).all(), "padded tokens have a probability other than 0")
    context = _context(tower, layout, x)
    if context is not None:
        expected, mixed = context
        changed = difference({"the CLS row": mixed}, {"the CLS row": expected}, ATOL, RTOL)
        require(not changed, f"values mixed by cls_probs are not what the attention gave its output map: {changed}")


def _context(tower: Encoder, layout: AttentionLayout, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """CLS row of ``probabilities @ values`` by the layout, and as the library computed it; ``None`` if hidden."""
    seen: dict[str, Any] = {}
    attention = tower.get_submodule(layout.path if layout.style == "mha" else layout.path.rpartition(".")[0])
    between = getattr(attention, "norm", None)
    if (layout.style != "mha" and not layout.out_path) or not isinstance(between, nn.Identity | None):
        return None
    handles: list[RemovableHandle] = []
    if layout.style == "mha":
        handles.append(attention.register_forward_pre_hook(lambda m, a, k: seen.update(args=a, kw=k), with_kwargs=True))
    else:
        value = tower.get_submodule(layout.value_path if layout.style == "split" else layout.path)
        handles.append(value.register_forward_hook(lambda m, a, out: seen.update(value=out)))
        out = tower.get_submodule(layout.out_path)
        handles.append(out.register_forward_pre_hook(lambda m, a: seen.update(mixed=a[0])))
    try:
        with torch.no_grad(), capture_cls_rows(tower, layout) as capture:
            features = tower.encode(x)
            if tower.sliced > 1:  # the row is an average over slices, which no single product of the library shows
                return None
            probs = capture.rows(0, features.mask)[1]
    finally:
        for handle in handles:
            handle.remove()
    if layout.style == "mha":
        options = {**seen["kw"], "need_weights": True, "average_attn_weights": False}
        with torch.no_grad():
            weights = attention(*seen["args"], **options)[1]
        return probs, weights[:, :, 0]
    value = seen["value"][..., -layout.dim :] if layout.style == "packed" else seen["value"]
    B, N, C = value.shape
    v = value.view(B, N, layout.heads, C // layout.heads).transpose(1, 2)
    expected = (probs[:, :, None] @ v).squeeze(2).reshape(B, C)
    return expected, seen["mixed"].reshape(B, -1, C)[:, 0]


@rule(
    "Point the layout's path, key_path and value_path (or the order q, k, v in a packed weight) at the right rows.",
    each=True,
)
def projections_are_where_the_layout_says(subject: EncoderSubject, case: str) -> None:
    """Changing queries or keys changes the scores; changing values changes the tokens and no score."""
    layout = subject.layout(case)
    twin, x = subject.copy(case), subject.batch(case)
    before = _run(twin, x, scores=True)
    for projection in ("q", "k", "v"):
        path, rows = layout.location(projection)
        module: Any = twin.get_submodule(path)
        whole = module.in_proj_weight if layout.style == "mha" else module.weight
        weight = whole if rows is None else whole[rows]
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(torch.linspace(0.2, 1.9, len(weight), dtype=weight.dtype)[:, None])
            after = twin(x, scores=True)
            weight.copy_(kept)
        assert before.cls_probs is not None and after.cls_probs is not None
        moved = bool((after.cls_probs - before.cls_probs).abs().max() > 0)
        if projection == "v" and _runs(twin, path, x) > 1:  # a block that all layers share feeds itself
            continue
        require(
            moved == (projection != "v"), f"rows of {projection!r} {'change' if moved else 'do not change'} the scores"
        )
        require(not torch.equal(after.tokens, before.tokens), f"rows of {projection!r} do not change the tokens")


def _runs(tower: Encoder, path: str, x: Tensor) -> int:
    """How often a module is called in one run."""
    calls: list[int] = []
    handle = tower.get_submodule(path).register_forward_hook(lambda m, a, out: calls.append(1))
    try:
        _run(tower, x)
    finally:
        handle.remove()
    return len(calls)


@rule("Return what the modality says from prepare(): float [channels, *input_size], int64 [L] for text.", each=True)
def prepare_gives_the_input(subject: EncoderSubject, case: str) -> None:
    """prepare() turns a raw sample into one input of the size that the spec promises."""
    tower, text = subject.tower(case), reads_text(subject.tower(case))
    try:
        x = tower.prepare(subject.raw(case))
    except CheckpointError as error:
        raise unittest.SkipTest(f"its tokenizer cannot be loaded here: {str(error)[:120]}") from None
    spec = tower.spec
    modality = find_modality(spec.modality)
    shape = modality.input_shape(spec)
    fits = is_a(x, Tensor) and tuple(x.shape) == shape
    require(fits, f"prepare() gives {getattr(x, 'shape', x)}, not {shape}")
    right = x.dtype == (torch.int64 if text else torch.float32)
    require(right, f"prepare() gives {x.dtype}")
    require(text or modality.is_sound(x), "prepare() gives values that are not finite")
    again = tower.prepare(subject.raw(case))
    same = x.shape == again.shape and bool(((x == again) | (x.isnan() & again.isnan())).all())
    require(same, "prepare() gives another input the second time")
    if text:
        words = subject.vocabulary(tower).num_embeddings
        require(x.min() >= 0 and x.max() < words, f"prepare() gives token {x.max()}, the tower has {words}")


@rule("Let project() map [..., C] to [..., E], with one E for all towers of a shared space.")
def projections_share_a_space(subject: EncoderSubject) -> None:
    """project() keeps the leading axes, and towers with a shared space have one width there."""
    widths: dict[str, int] = {}
    for case in subject.cases():
        tower = subject.tower(case)
        features = _run(tower, subject.batch(case))
        with torch.no_grad():
            pooled, tokens = tower.project(features.pooled), tower.project(features.tokens)
        leads = pooled.shape[:-1] == features.pooled.shape[:-1] and tokens.shape[:-1] == features.tokens.shape[:-1]
        require(leads, f"project() maps tokens {list(features.tokens.shape)} to {list(tokens.shape)}")
        require(pooled.isfinite().all(), f"project() of the {case} tower is not finite")
        widths[case] = pooled.shape[-1]
    shared = subject.encoder.shared if isinstance(subject.encoder, MultimodalEncoder) else ()
    require(len({widths[case] for case in shared}) < 2, f"the shared space has widths {widths}")


@rule("Keep every weight in a parameter or a persistent buffer, and no reference to another copy's modules.", each=True)
def weights_load_back(subject: EncoderSubject, case: str) -> None:
    """A state dict, written and read as safetensors, brings a disturbed copy back bit for bit; the original stays."""
    tower, twin, x = subject.tower(case), subject.copy(case), subject.batch(case)
    before, digest = _tensors(_run(tower, x)), state_digest(tower)
    require(state_digest(twin) == digest, "a copy has another digest")
    with torch.no_grad():
        for tensor in twin.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1.3)
    _run(twin, x)
    require(not (changed := difference(before, _tensors(_run(tower, x)))), f"after a copy was changed, {changed}")
    with tempfile.TemporaryDirectory(prefix="medgraft-check-") as folder:
        path = Path(folder) / "weights.safetensors"
        save_file({name: value.contiguous().clone() for name, value in tower.state_dict().items()}, path)
        twin.load_state_dict(load_file(path))
    require(state_digest(twin) == digest, "after loading its weights, a copy has another digest")
    require(
        not (changed := difference(before, _tensors(_run(twin, x)))), f"after loading its weights, in a copy {changed}"
    )
    again = copy.deepcopy(tower)
    require(not (changed := difference(before, _tensors(_run(again, x)))), f"in a copy {changed}")


@rule("Seed the fresh weights inside a fork of the random state (torch.random.fork_rng).")
def building_repeats_itself(subject: EncoderSubject) -> None:
    """Building twice gives the same weights and leaves the global random state alone."""
    if subject.build is None:
        raise unittest.SkipTest("it was passed built; pass a function or a name")
    digest = state_digest(subject.encoder)
    seed_random(7)
    expected = torch.rand(3)
    seed_random(7)
    again = subject.build()
    require(torch.equal(torch.rand(3), expected), "building it moves the global random state")
    require(state_digest(again) == digest, "building it twice gives other weights")


@rule("Refuse in build() every model that models() does not list, and weights that do not exist, by a MedgraftError.")
def names_are_checked(subject: EncoderSubject) -> None:
    """A model or weights that there are not is one sentence, from the source itself and before anything is planned."""
    if subject.name is None:
        raise unittest.SkipTest("it was passed built; pass a name")
    parsed = resolve_encoder(subject.name)
    source, label = plugins.load(parsed.plugin), parsed.plugin.name
    models = sources.models_of(source, label)
    listed = parsed.model in models or callable(getattr(source, "check", None))
    require(listed, f"models() lists {', '.join(models) or 'nothing'}, and {parsed.model!r} is built")
    absent = "/nonexistent/weights.safetensors"
    for model, weights in (("no-such-model", "random"), ("../../no-such-model", "random"), (parsed.model, absent)):
        said = f"{label}:{model}@{weights}"
        try:
            check_encoder(said)
        except MedgraftError:
            pass
        else:
            require(False, f"check() takes {said!r}")
        try:
            source.build(model, weights)
        except MedgraftError:
            continue
        except Exception as error:
            require(False, f"build() of {said!r} raises {type(error).__name__}: {error}")
        require(False, f"build() makes an encoder of {said!r}")


RULES: tuple[Rule[EncoderSubject], ...] = (
    names_are_checked,
    the_spec_is_complete,
    features_fit_the_spec,
    frozen_for_good,
    a_run_repeats_itself,
    samples_do_not_see_each_other,
    sites_resolve,
    stages_join,
    cls_scores_are_the_attention,
    projections_are_where_the_layout_says,
    prepare_gives_the_input,
    projections_share_a_space,
    padding_is_not_read,
    short_batches_agree,
    building_repeats_itself,
    weights_load_back,
)
