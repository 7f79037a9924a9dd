"""For every check of an encoder a builder of one that breaks exactly that rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from medgraft.encoder import DualEncoder, Encoder
from medgraft.testing.tiny import TinyText, TinyViT


class Vit(TinyViT):
    """Sound; subclasses break one rule."""

    def __init__(self):
        super().__init__("packed", 2)


class Unlabelled(Vit):
    def __init__(self):
        super().__init__()
        self.spec = self.spec.model_copy(update={"weights": "from somewhere"})


class WrongGrid(Vit):
    def encode(self, x, *, start=0):
        return super().encode(x, start=start).replace(grid=(2, 3))


class Wakes(Vit):
    def train(self, mode=True):
        return nn.Module.train(self, mode)


class Draws(Vit):
    def encode(self, x, *, start=0):
        torch.rand(1)
        return super().encode(x, start=start)


class MixesSamples(Vit):
    def encode(self, x, *, start=0):
        features = super().encode(x, start=start)
        return features.replace(pooled=features.pooled - features.pooled.mean(dim=0))


class LostBlock(Vit):
    def block_paths(self):
        return [*super().block_paths(), "blocks.9"]


class SkipsABlock(Vit):
    def prefix(self, x, stop):
        return super().prefix(x, min(stop, 1))


class WrongScale(Vit):
    def __init__(self):
        super().__init__()
        self.attention = [dataclasses.replace(layout, scale=0.05) for layout in self.attention]


class WrongValues(TinyViT):
    def __init__(self):
        super().__init__("split", 2)
        self.attention = [
            dataclasses.replace(layout, value_path="blocks.0.mlp.3", out_path="") for layout in self.attention
        ]


class DoublePrecisionInput(Vit):
    def prepare(self, raw):
        return super().prepare(raw).double()


class ReadsPadding(TinyText):
    has_cls = False
    any_length = False

    def encode(self, x, *, start=0):
        tokens = self.words(x) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        features = super().encode(x)
        return features.replace(tokens=tokens, pooled=tokens[:, 0])


class ScalesByLength(TinyText):
    def encode(self, x, *, start=0):
        features = super().encode(x)
        return features.replace(pooled=features.pooled * x.shape[1] / self.spec.input_size[0])


class NeverCopied(Vit):
    def __deepcopy__(self, memo):
        return self


def dual(text: Encoder, shared: int) -> DualEncoder:
    image = TinyViT("packed", 2, shared_dim=shared)
    spec = image.spec.model_copy(update={"modality": "image+text"})
    return DualEncoder(spec, {"image": image, "text": text}, logit_scale=10.0)


def built(make: Callable[[], Encoder]) -> Callable[[], Encoder]:
    """A builder that freezes, and leaves the global random state alone."""

    def build() -> Encoder:
        with torch.random.fork_rng(devices=[]):
            return make().freeze()

    return build


def draws_while_building() -> Encoder:
    torch.rand(1)
    return built(Vit)()


class TakesAll:
    """A source that builds the same whatever model and weights it is asked for."""

    api_version = 1
    models = staticmethod(lambda: {"tiny": "the only one"})
    check = staticmethod(lambda model, weights: None)

    @staticmethod
    def build(model: str, weights: str = "default") -> Encoder:
        return built(Vit)()


BROKEN: dict[str, Callable[[], Encoder] | str] = {
    "names_are_checked": "takes_all:tiny",
    "the_spec_is_complete": built(Unlabelled),
    "features_fit_the_spec": built(WrongGrid),
    "frozen_for_good": built(Wakes),
    "a_run_repeats_itself": built(Draws),
    "samples_do_not_see_each_other": built(MixesSamples),
    "sites_resolve": built(LostBlock),
    "stages_join": built(SkipsABlock),
    "cls_scores_are_the_attention": built(WrongScale),
    "projections_are_where_the_layout_says": built(WrongValues),
    "prepare_gives_the_input": built(DoublePrecisionInput),
    "projections_share_a_space": built(lambda: dual(TinyText("packed", 12), 20)),
    "padding_is_not_read": built(lambda: dual(ReadsPadding("packed", 20), 20)),
    "short_batches_agree": built(lambda: dual(ScalesByLength("packed", 20), 20)),
    "building_repeats_itself": draws_while_building,
    "weights_load_back": built(NeverCopied),
}
