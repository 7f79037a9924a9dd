"""Questions that need opposite features of the same tokens, and how well anybody can answer them.

An image of 32 x 32 shows stripes or none and dots or none, four combinations alike often, in noise. Four questions are
asked of every image: are there ``stripes``, is it ``without stripes``, are there ``dots``, is it ``without dots``.
All are answered "no" or "yes" by one linear head on the pooled image features, as a language model reads visual tokens
through one connector. The encoder is frozen, with random weights; its adapters see the prompt, the head does not.

What can be reached is known:

- *Without the prompt* features of an image are the same for all four questions, and so is the answer. Two of the four
  true answers are "yes" and two "no", whatever the image shows, so exactly two are right: the accuracy is 1/2, for any
  adapter of any size, trained in any way. The AUC of a question and that of its opposite sum to 1, so their mean is
  1/2 too.
- *With the prompt* the accuracy may be 1: one adapter for each question that puts plus or minus what the frozen tokens
  show of stripes or dots into the direction that the head reads.

So an adapter that is told the prompt and stays near 1/2 does not use it, and one without it that passes 1/2 has a leak.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from medgraft.benchmarks.prefix_cache.rows import TowerInputs
from medgraft.encoder import DualEncoder, EncoderSpec
from medgraft.encoders.embedded import SPECIALS, WORD, ConvStemViT, TextTower
from medgraft.task import RawInputs, TaskData

QUESTIONS = ("stripes", "without stripes", "dots", "without dots")
ANSWERS = ("no", "yes")
_SEEN = (
    ("are there {}?", "does it show {}?", "do you see {}?", "are {} here?"),
    ("is it without {}?", "are {} missing?", "does it lack {}?", "are no {} here?"),
)
_HELD_OUT = (("do you see {} here?", "does it show {} there?"), ("are {} missing here?", "does it lack {} there?"))
WORDINGS = tuple(tuple(text.format(what) for text in texts) for what in ("stripes", "dots") for texts in _SEEN)
"""What training asks, by question."""
HELD_OUT = tuple(tuple(text.format(what) for text in texts) for what in ("stripes", "dots") for texts in _HELD_OUT)
"""What the test asks: other sentences of the same words."""
SHARED_CEILING = 0.5
"""Accuracy of whatever is not told the question, and its mean AUC."""
SIZE, NOISE = 32, 0.5


def truths(stripes: np.ndarray, dots: np.ndarray) -> np.ndarray:
    """Right answers to the questions, ``int64 [n, 4]``, of what images show, bool ``[n]`` each.

    Example:
        >>> truths(np.array([True, False]), np.array([False, False])).tolist()
        [[1, 0, 0, 1], [0, 1, 0, 1]]
    """
    return np.stack([stripes, ~stripes, dots, ~dots], axis=1).astype(np.int64)


def draw_images(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images ``float32 [n, 1, 32, 32]``, whether each has stripes and whether it has dots, bool ``[n]``.

    The four combinations are alike often, but for a remainder of ``count`` by 4.
    """
    kind = rng.permutation(np.arange(count) % 4)
    stripes, dots = kind % 2 == 1, kind >= 2
    rows, columns = np.indices((SIZE, SIZE))
    lined = np.where(columns % 4 < 2, 1.0, -1.0)
    dotted = np.where((rows % 8 < 3) & (columns % 8 < 3), 1.5, -0.25)
    images = stripes[:, None, None] * lined + dots[:, None, None] * dotted
    images = images + NOISE * rng.standard_normal(images.shape)
    return images.astype(np.float32)[:, None], stripes, dots


def tiny_encoder(seed: int = 0) -> DualEncoder:
    """A frozen ViT of two blocks beside a text tower that knows the words, both with random weights."""
    words = {w for texts in (*WORDINGS, *HELD_OUT) for text in texts for w in WORD.findall(text)}
    common: dict[str, Any] = {"name": "control", "licence": "Apache-2.0", "weights": "random", "pooling": "cls"}
    image = EncoderSpec(modality="image", input_size=(SIZE, SIZE), dim=64, heads=2, **common)
    text = EncoderSpec(modality="text", input_size=(12,), dim=32, heads=2, **common)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        towers = {
            "image": ConvStemViT(image, depth=2),
            "text": TextTower(text, (*SPECIALS, *sorted(words)), depth=1),
        }
    encoder = DualEncoder(image.model_copy(update={"modality": "image+text"}), towers)
    encoder.freeze()
    return encoder


@dataclass(frozen=True)
class Control:
    """The questions on drawn images, ready to train on.

    Attributes:
        data: Targets, splits and who asks what; every image is asked all four questions.
        inputs: Prepared rows by modality.
        images: Of which image each sample is, ``int64 [n]``.
    """

    data: TaskData
    inputs: dict[str, TowerInputs]
    images: np.ndarray


def draw_control(encoder: DualEncoder, train: int, test: int, seed: int) -> Control:
    """Draws images and asks all questions of each, in test in wordings that training never used.

    Args:
        encoder: Whose towers prepare them.
        train: Training images.
        test: Test images; a few more serve as the validation split, which nothing here reads.
        seed: Of the drawing.
    """
    rng = np.random.default_rng([seed, 41])
    counts = {"train": train, "val": 8, "test": test}
    pictures, stripes, dots = (
        np.concatenate(each) for each in zip(*(draw_images(rng, n) for n in counts.values()), strict=True)
    )
    home = np.repeat(list(counts), list(counts.values()))
    unit, asked = np.repeat(np.arange(len(home)), 4), np.tile(np.arange(4), len(home))
    pools = [WORDINGS if home[i] == "train" else HELD_OUT for i in unit]
    prompts = [pool[q][int(rng.integers(len(pool[q])))] for pool, q in zip(pools, asked, strict=True)]
    tower = encoder.towers()["text"]
    ids = torch.stack([tower.prepare(prompt) for prompt in prompts]).numpy()
    n = len(unit)
    data = TaskData(
        inputs={
            "image": RawInputs(lambda i: pictures[unit[i], 0], n, "control"),
            "text": RawInputs(prompts.__getitem__, n, "control"),
        },
        targets=truths(stripes, dots).reshape(-1),
        subjects=unit.astype(str),
        splits={name: np.flatnonzero(home[unit] == name) for name in counts},
        classes=ANSWERS,
        asked=asked,
        questions=QUESTIONS,
        phantom=True,
    ).check()
    rows = pictures[unit]
    return Control(data, {"image": TowerInputs(0, {"x": rows}), "text": TowerInputs(0, {"x": ids})}, unit)
