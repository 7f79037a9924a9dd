"""What decoding behind an image costs: the vision side once or at every step, and sixteen samples at once.

``python -m benchmarks.speed.decoding`` writes a Markdown table. All ways decode the same tokens greedily, in turns, and
a time is not given where they differ; in bfloat16, where near ties fall by the order of sums, it takes as many tokens.
*Once* is how the package decodes: the vision side and, for ``xattn``, the keys and values of its media are computed
once, and the language model keeps its own. *Vision at every step* is the same but for the vision side, which runs again
for every token; *all at every step* also runs the language model over the whole text so far. The ratio of sixteen
samples to one is of decoding alone, the vision side given. It is of two parts, which stand behind the table: the first
token, for which the model reads soft tokens and prompt, and each token that follows.

The language model is a LLaMA of random weights in bfloat16; ``--bits 32`` stores it in fp32, ``--language NAME`` takes
another. No text ends before its last token. The visual encoder reads volumes slice by slice, ``--visual NAME`` takes
another. One thread is timed by what the processor worked, several by the clock on the wall, which is to be read on an
idle machine alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from medgraft.adapter.protocols import looking_at, soft_tokens
from medgraft.encoder import MultimodalEncoder
from medgraft.encoder.towers import visual_tower
from medgraft.encoders.causal_lm import CausalLmSource
from medgraft.errors import ConfigError
from medgraft.grafting import Grafted
from medgraft.language_model import Decoding, LanguageModel, Prompts
from medgraft.registry import build_adapters, build_encoder

ADAPTERS = ("soft_prefix", "xattn")
VISUAL = "inflate3d:slices=16:embedded:chest"
LLAMA = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 4096,
    "max_position_embeddings": 1024,
    "eos_token_id": None,
}
BATCH = 16
ONE, MANY = "decoding of 1", f"decoding of {BATCH}"
FIRST_ONE, FIRST_MANY = "first token of 1", f"first token of {BATCH}"
GOALS = {"vision at every step / once": 5.0, f"{MANY} / 1": 3.0}


class Subject:
    """A visual encoder and a language model with one adapter between them.

    Args:
        adapter: One of :data:`ADAPTERS`.
        visual: Name of the visual encoder.
        language: Folder of a language model; ``None`` for :data:`LLAMA`, or a wider one where its width is a number.
        steps: New tokens.
        prompt: Tokens of a prompt.
        bits: 16 stores the language model in bfloat16; 32 leaves it as it is, :data:`LLAMA` in fp32.
    """

    def __init__(
        self,
        adapter: str,
        visual: str,
        language: str | int | None,
        steps: int,
        prompt: int,
        bits: Literal[16, 32] = 16,
    ) -> None:
        found = visual_tower(build_encoder(visual))
        if found is None:
            raise ConfigError(f"encoder {visual} reads no images and no volumes")
        stored: dict[str, Any] = {"bits": bits} if bits == 16 else {}
        if isinstance(language, str):
            model = build_encoder(f"causal_lm:{language}", **stored)
        else:
            model = _fresh(language, stored)
        assert isinstance(model, LanguageModel)
        _never_ends(model)
        self.modality, tower = found
        self.model = model
        spec = tower.spec.model_copy(update={"name": "pair", "modality": f"{self.modality}+text"})
        self.grafted = Grafted(
            MultimodalEncoder(spec, {self.modality: tower, "text": model}), build_adapters(adapter)
        ).eval()
        self.adapters = [each for _, each in self.grafted.named_adapters()]
        with torch.no_grad():
            for name, parameter in self.grafted.named_parameters():
                if name.endswith("_gate"):
                    parameter.fill_(0.5)  # closed gates would decode without the image
        shape = (BATCH, tower.spec.channels, *tower.spec.input_size)
        self.samples = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        random = torch.Generator().manual_seed(1)
        self.ids = torch.randint(3, 100, (BATCH, prompt), generator=random)
        self.steps = steps
        self.exact = next(model.parameters()).dtype == torch.float32

    def seen(self, count: int) -> Mapping[str, Any]:
        """The vision side, adapter included, of the first samples."""
        return self.grafted.encode({self.modality: self.samples[:count]})

    def prompts(self, seen: Mapping[str, Any], count: int) -> Prompts:
        """Prompts with what the adapter puts in front of them."""
        soft, mask = soft_tokens(self.adapters, seen)
        ids = self.ids[:count]
        return Prompts(ids, torch.ones_like(ids, dtype=torch.bool), soft, mask)

    def once(self, count: int) -> list[tuple[int, ...]]:
        """Tokens as the package decodes them."""
        seen = self.seen(count)
        with looking_at(self.adapters, seen):
            return self.decoded(count, seen)

    def decoded(
        self, count: int, seen: Mapping[str, Any], again: Callable[[], object] | None = None, steps: int | None = None
    ) -> list[tuple[int, ...]]:
        """Tokens behind what the adapters look at, ``steps`` of them if not all; ``again`` runs before every token."""
        prompts = self.prompts(seen, count)
        output: Any = self.model.get_submodule("output")
        handle = None if again is None else output.register_forward_pre_hook(lambda *_: again() and None)
        try:
            return list(self.model.generate(prompts, Decoding.model_validate({"limit": steps or self.steps})).ids)
        finally:
            if handle is not None:
                handle.remove()

    def vision_at_every_step(self, count: int) -> list[tuple[int, ...]]:
        """The same with the vision side before every token."""

        def again() -> None:
            held = [dict(vars(each)) for each in self.adapters]
            with looking_at(self.adapters, self.seen(count)):
                pass
            for each, values in zip(self.adapters, held, strict=True):  # a call of the graft ends what it looked at
                vars(each).update(values)

        seen = self.seen(count)
        with looking_at(self.adapters, seen):
            return self.decoded(count, seen, again)

    def all_at_every_step(self, count: int) -> list[tuple[int, ...]]:
        """The vision side and the whole text so far for every token."""
        ids: Tensor = torch.zeros(count, 0, dtype=torch.long)
        for _ in range(self.steps):
            seen = self.seen(count)
            with looking_at(self.adapters, seen):
                logits = self.model.logits(self.prompts(seen, count), (ids, torch.ones_like(ids, dtype=torch.bool)))
            ids = torch.cat([ids, logits[:, -1:].argmax(dim=-1)], dim=1)
        return [tuple(row) for row in ids.tolist()]


def _never_ends(model: LanguageModel) -> None:
    """Takes the end token away, so that every sample and every way decodes as many tokens."""
    lm: Any = model
    lm.end_ids = ()
    lm.network.generation_config.eos_token_id = None


def _as_due(tokens: Sequence[int], due: Sequence[int], exact: bool) -> bool:
    """Whether a way decoded what it should; in bfloat16 as many tokens, since near ties fall by the order of sums."""
    return tuple(tokens) == tuple(due) if exact else len(tokens) == len(due)


def _fresh(width: int | None, stored: Mapping[str, Any]) -> Any:
    heads = 0 if width is None else max(width // 64, 1)
    wider = {"hidden_size": width, "intermediate_size": 11 * (width or 0) // 4, "num_attention_heads": heads}
    config = LLAMA if width is None else LLAMA | wider | {"num_key_value_heads": heads}
    return CausalLmSource.build("llama", "random", config=config, **stored)


@torch.no_grad()
def measure(subject: Subject, rounds: int, clock: Callable[[], float] = time.process_time) -> dict[str, list[float]]:
    """Seconds of each round by way, in turns.

    Args:
        subject: What decodes.
        rounds: Turns.
        clock: What tells seconds.

    Raises:
        ConfigError: Two ways give other tokens, so that a ratio of their times would mean nothing.
    """
    seen = {count: subject.seen(count) for count in (1, BATCH)}
    nothing: dict[str, Any] = {}
    ways: dict[str, tuple[Callable[[], list[tuple[int, ...]]], Mapping[str, Any]]] = {
        "once": (lambda: subject.once(1), nothing),
        "vision at every step": (lambda: subject.vision_at_every_step(1), nothing),
        "all at every step": (lambda: subject.all_at_every_step(1), nothing),
        ONE: (lambda: subject.decoded(1, seen[1]), seen[1]),
        MANY: (lambda: subject.decoded(BATCH, seen[BATCH]), seen[BATCH]),
        FIRST_ONE: (lambda: subject.decoded(1, seen[1], steps=1), seen[1]),
        FIRST_MANY: (lambda: subject.decoded(BATCH, seen[BATCH], steps=1), seen[BATCH]),
    }
    subject.once(1)  # what a first call alone pays
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        tokens = {}
        for name, (way, given) in ways.items():
            with looking_at(subject.adapters, given) if given else nullcontext():
                start = clock()
                tokens[name] = way()
                seconds[name].append(clock() - start)
        due = {name: tokens["once"][0][: 1 if name in (FIRST_ONE, FIRST_MANY) else None] for name in ways}
        if other := [name for name, rows in tokens.items() if not _as_due(rows[0], due[name], subject.exact)]:
            raise ConfigError(f"{other[0]!r} decodes other tokens; a time of them would mean nothing")
    return seconds


def rows(adapter: str, seconds: Mapping[str, Sequence[float]], steps: int) -> list[str]:
    """Lines of the table: medians over rounds of the ratios within each."""

    def ratio(over: str, under: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[over], seconds[under], strict=True))

    first, second = GOALS
    found = {first: ratio("vision at every step", "once"), second: ratio(MANY, ONE)}
    met = {first: found[first] >= GOALS[first], second: found[second] <= GOALS[second]}
    cells = [f"{found[name]:.2f} (goal {GOALS[name]:g}: {'met' if met[name] else '**not met**'})" for name in GOALS]
    whole = ratio("all at every step", "once")
    rate = [count * steps / statistics.median(seconds[name]) for name, count in ((ONE, 1), (MANY, BATCH))]
    return [f"| {adapter} | {cells[0]} | {whole:.2f} | {cells[1]} | {rate[0]:.0f} | {rate[1]:.0f} |"]


def parts(adapter: str, seconds: Mapping[str, Sequence[float]], steps: int) -> str:
    """A sentence on the first token and on those that follow, ``steps - 1``: milliseconds of one sample, and ratios."""
    first = {count: seconds[name] for count, name in ((1, FIRST_ONE), (BATCH, FIRST_MANY))}
    after = {
        count: [(a - b) / (steps - 1) for a, b in zip(seconds[name], first[count], strict=True)]
        for count, name in ((1, ONE), (BATCH, MANY))
    }
    said = []
    for name, part in (("the first token", first), ("each token after it", after)):
        ratio = statistics.median(a / b for a, b in zip(part[BATCH], part[1], strict=True))
        said.append(f"{name} takes {1000 * statistics.median(part[1]):.1f} ms, {ratio:.2f} times that for {BATCH}")
    return f"{adapter}: {'; '.join(said)}."


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", default=",".join(ADAPTERS))
    parser.add_argument("--visual", default=VISUAL)
    parser.add_argument("--language", help="folder or name of a language model, behind causal_lm:")
    parser.add_argument("--width", type=int, help="of the LLaMA, a multiple of 64")
    parser.add_argument("--bits", type=int, choices=[16, 32], default=16, help="32 stores the language model in fp32")
    parser.add_argument("--steps", type=int, default=64, help="new tokens")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of the prompt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.steps < 2:
        parser.error(f"--steps {options.steps} leaves no token after the first to time; name 2 or more")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and writes the table to the standard output."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    first, second = GOALS
    lines = [f"| adapter | {first} | all at every step / once | {second} | tokens/s | tokens/s of {BATCH} |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    clock, told = time.process_time, "processor time"
    if options.threads > 1:  # they work at once, and the processor's seconds are the sum
        clock, told = time.perf_counter, "time by the clock"
    behind, numbers = list[str](), ""
    for adapter in options.adapters.split(","):
        language = options.language or options.width
        subject = Subject(adapter, options.visual, language, options.steps, options.prompt, options.bits)
        numbers = str(next(subject.model.parameters()).dtype).removeprefix("torch.")
        seconds = measure(subject, options.rounds, clock)
        lines += rows(adapter, seconds, options.steps)
        behind.append(parts(adapter, seconds, options.steps))
        sys.stderr.write(f"{lines[-1]}\n{behind[-1]}\n")
    model = (
        options.language
        or f"LLaMA of {LLAMA['num_hidden_layers']} blocks of {options.width or LLAMA['hidden_size']}, random weights"
    )
    lines += ["", *behind, "", f"{options.visual}; {model}; {options.steps} tokens behind {options.prompt}; medians of"]
    lines[-1] += f" {options.rounds} round(s) of {told}, {options.threads} thread(s), {numbers}."
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
