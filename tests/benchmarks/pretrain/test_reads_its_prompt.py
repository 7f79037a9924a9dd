"""Whether a model reads its prompt: the questions are answered by what the prompt tells, and the shares count that."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer

from medgraft.benchmarks.pretrain.reading import questions, reading
from medgraft.encoders.parts.hf import embedded_language
from medgraft.encoders.parts.shipped import weights_folder

WORDS = Tokenizer.from_file(str(weights_folder() / embedded_language.TOKENIZER / "tokenizer.json"))
COUNT = 24


def test_what_is_asked_for_is_told():
    for told, asked, answer in questions(3, 200):
        where = told.lower() if " Choices: " not in asked else asked.lower()
        words = answer.lower().removesuffix(".").split()
        sides = {"both": "bilateral", "sides": "bilateral"}
        assert any(word in where or sides.get(word, word) in where for word in words), (told, asked, answer)
    assert list(questions(3, 20)) == list(questions(3, 20)) != list(questions(4, 20))


class Oracle:
    """Answers right where the prompt tells the findings, and with what is most frequent where it does not."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers

    def eval(self) -> None:
        pass

    def generate(self, ids: torch.Tensor, **_: Any) -> torch.Tensor:
        prompt = WORDS.decode(ids[0].tolist()).strip()
        said = self.answers.get(prompt, "left")
        return torch.cat([ids, torch.tensor([WORDS.encode(f" {said}", add_special_tokens=False).ids])], dim=1)


def test_shares_count_answers_that_are_right_word_for_word():
    asked = list(questions(5, COUNT))
    found = reading(Oracle({f"{told} {question}": answer.upper() for told, question, answer in asked}), WORDS, 5, COUNT)
    assert found == {"told": 1.0, "not told": round(sum(a.lower() == "left" for *_, a in asked) / COUNT, 4)}
