"""TGH-MoE: its formula, who gets a gradient, stages, prompts, collapse, and independence of the batch."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import tiny_encoders as tiny
import torch
import torch.nn.functional as F
from plain_blocks import EXACT, PlainTower, by_hand, grafted_on
from torch import Tensor

from medgraft.adapters.parts.tgh.layers import Choice, TaskLevel, TghBlock
from medgraft.adapters.tgh_moe import PATIENCE, TghMoe
from medgraft.encoder import DualEncoder, Encoder, EncoderSpec, TextEncoder
from medgraft.encoders.inflate3d import inflate
from medgraft.errors import ConfigError, IncompatibleError
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.schedule import phase_parameters

pytestmark = pytest.mark.usefixtures("seeded")
WORDS = 11


class Words(TextEncoder):
    """A text tower of fixed word vectors: ids ``[B, 4]``, 0 is padding."""

    pad_id = 0

    def __init__(self) -> None:
        spec = EncoderSpec(name="test:words", modality="text", input_size=(4,), dim=6, weights="random")
        super().__init__(spec)
        self.table = torch.nn.Embedding(WORDS, 6, dtype=torch.float64)

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        tokens = self.table(x)
        return Features(tokens, tokens.mean(dim=1), 0, (4,), mask=x != 0)


def pair(rank: int = 2) -> DualEncoder:
    """A plain float64 visual tower beside words."""
    visual = PlainTower(rank)
    spec: Any = visual.spec.model_copy(update={"modality": f"{visual.spec.modality}+text"})
    encoder = DualEncoder(spec, {visual.spec.modality: visual, "text": Words()})
    encoder.freeze()
    return encoder


def build(encoder: Encoder, **options: Any) -> tuple[Grafted, TghMoe]:
    adapter = TghMoe(TghMoe.Config(width=5, prompt_dim=7, depth="all", **options))
    return grafted_on(encoder, adapter), adapter


def visual_of(encoder: Encoder) -> PlainTower:
    tower = next(iter(encoder.towers().values()))
    assert isinstance(tower, PlainTower)
    return tower


def prompts(*rows: int) -> Tensor:
    """One prompt per word."""
    return torch.tensor([[row, row % (WORDS - 1) + 1, 0, 0] if row else [0, 0, 0, 0] for row in rows])


def run(grafted: Grafted, images: Tensor, words: Tensor | None) -> Features:
    with torch.no_grad():
        return grafted.encode({"image": images} | ({} if words is None else {"text": words}))["image"]


# -- the formula ------------------------------------------------------------------------------------------------------


def expert(experts: Any, e: int, u: Tensor) -> Tensor:
    return F.gelu(u @ experts.down[e] + experts.down_bias[e]) @ experts.up[e] + experts.up_bias[e]


def task_of(adapter: TghMoe, words: Tensor, table: Tensor) -> tuple[Tensor, int]:
    """``t'`` and ``m*`` of one prompt."""
    reader = adapter.reader
    assert reader is not None and reader.prototypes is not None
    t = table[words[words != 0]].mean(dim=0)
    text = F.layer_norm(t @ reader.project.weight.T, (7,), reader.norm.weight, reader.norm.bias)
    return text, int(F.cosine_similarity(text[None], reader.prototypes).argmax())


@pytest.mark.parametrize("nested", [1, 2])
def test_it_is_the_definition_token_by_token(nested):
    encoder = pair()
    tower = visual_of(encoder)
    table = encoder.towers()["text"].table.weight
    grafted, adapter = build(encoder, tasks=3, experts=4, top_k=2, scale=0.7, task_experts=nested, task_top_k=1)
    x, words = tower.images(3), prompts(1, 4, 8)
    found = run(grafted, x, words)

    def block(i: int, module: Any, h: Tensor) -> Tensor:
        h = h + module.attn(module.norm1(h))
        u, out = module.norm2(h), []
        mixture: Any = adapter.blocks[f"image/blocks/{i}/mlp"]
        for b in range(3):
            text, task = task_of(adapter, words[b], table)
            rows = []
            for token in u[b]:
                logits = mixture.shared.router["image"] @ token + mixture.shared.router["text"] @ text
                p = torch.softmax(logits, dim=0)
                top = p.argsort(descending=True)[:2]
                y = sum(p[e] / p[top].sum() * expert(mixture.shared.experts, int(e), token) for e in top)
                inner = 0 if nested == 1 else int((mixture.task.router[task] @ token).argmax())
                rows.append(0.7 * (y + expert(mixture.task.experts, task * nested + inner, token)))
            out.append(torch.stack(rows))
        return h + module.mlp(u) + torch.stack(out)

    grafted.ungraft()
    with torch.no_grad():
        torch.testing.assert_close(found.tokens, by_hand(tower, x, block), **EXACT)


def test_a_fresh_graft_changes_nothing_and_routes_by_the_image():
    encoder = pair()
    x = visual_of(encoder).images()
    before = encoder.towers()["image"](x).tokens
    adapter = TghMoe(TghMoe.Config(tasks=3))
    grafted = Grafted(encoder, {"it": adapter}).eval()
    assert torch.equal(run(grafted, x, prompts(1, 2)).tokens, before)
    assert all(not block.shared.router["text"].any() for block in adapter.blocks.values())  # type: ignore


@pytest.mark.parametrize(
    "options",
    [{"text": False}, {"levels": "token"}, {"levels": "task"}, {"token_router": "text"}, {"task_router": "soft"}],
)
def test_every_ablation_runs_and_drops_what_it_names(options):
    encoder = pair()
    grafted, adapter = build(encoder, tasks=3, **options)
    x = visual_of(encoder).images()
    first, second = run(grafted, x, prompts(1, 2)), run(grafted, x, prompts(5, 9))
    names = [name for name, _ in adapter.named_parameters()]
    if "text" in options:
        assert torch.equal(first.tokens, second.tokens) and not any("reader" in name for name in names)
    else:
        assert not torch.equal(first.tokens, second.tokens)
    assert any(".shared." in name for name in names) == (options.get("levels") != "task")
    assert any(".task." in name for name in names) == (options.get("levels") != "token")
    assert any("router.image" in name for name in names) == (
        options.get("token_router") != "text" and options.get("levels") != "task"
    )


# -- gradients and stages ---------------------------------------------------------------------------------------------


def loss_of(grafted: Grafted, x: Tensor, words: Tensor | None, tasks: Tensor | None = None) -> Tensor:
    for _, adapter in grafted.named_adapters():
        adapter.set_task_ids(tasks)
    outputs = grafted.encode({"image": x} | ({} if words is None else {"text": words}))
    extra = grafted.extra_loss(outputs)
    value = (outputs["image"].pooled * torch.linspace(-1, 2, 12, dtype=torch.float64)).sum()
    return value if extra is None else value + extra


@pytest.mark.parametrize("told", [True, False])
def test_task_groups_that_no_prompt_chose_get_exactly_no_gradient(told):
    encoder = pair()
    grafted, adapter = build(encoder, tasks=4)
    words, tasks = prompts(1, 1), torch.tensor([2, 2])
    table = encoder.towers()["text"].table.weight
    chosen = 2 if told else task_of(adapter, words[0], table)[1]
    loss_of(grafted.train(), visual_of(encoder).images(), words, tasks if told else None).backward()
    block: Any = adapter.blocks["image/blocks/0/mlp"]
    for parameter in block.task.experts.parameters():
        idle = [m for m in range(4) if m != chosen]
        assert parameter.grad[chosen].any() and parameter.grad[idle].eq(0).all()
    assert adapter.reader is not None and adapter.reader.prototypes is not None
    grad = adapter.reader.prototypes.grad
    assert grad is not None and grad.any()  # by cross-entropy where told, straight through the argmax where not


def test_the_stages_are_disjoint_and_complete():
    for encoder in (pair(), PlainTower(3)):
        _, adapter = build(encoder, tasks=3, task_experts=2)
        names = [name for name, _ in adapter.named_parameters()]
        stages = phase_parameters(adapter.phases(), names, "tgh_moe")
        first, second = stages["task-shared"], stages["task-specific"]
        assert not set(first) & set(second) and set(first) | set(second) == set(names)
        assert all(".task." in name for name in second) and not any(".task." in name for name in first)


@pytest.mark.parametrize("options", [{"stages": "one"}, {"levels": "token"}, {"levels": "task"}])
def test_one_stage_where_there_is_nothing_to_separate(options):
    _, adapter = build(pair(), **options)
    assert [stage.name for stage in adapter.phases()] == ["all"]


def test_the_task_level_is_off_in_the_first_stage_and_may_start_from_the_shared_experts():
    encoder = pair()
    grafted, adapter = build(encoder, tasks=2, upcycle=True)
    x, words = visual_of(encoder).images(), prompts(1, 5)
    whole = run(grafted, x, words).tokens
    adapter.enter_phase("task-shared")
    shared = run(grafted, x, words).tokens
    assert not torch.equal(shared, whole)
    adapter.enter_phase("task-specific")
    block: Any = adapter.blocks["image/blocks/0/mlp"]
    assert torch.equal(block.task.experts.down[1], block.shared.experts.down.mean(dim=0))
    assert torch.equal(run(grafted, x, words).tokens, shared)  # their output layers start at zero


def test_extra_loss_is_weighted_as_said():
    encoder = pair()
    x, words, tasks = visual_of(encoder).images(), prompts(1, 5), torch.tensor([0, 1])
    values = {}
    for name in ("balance", "z", "task_loss"):
        torch.manual_seed(0)
        weights = dict.fromkeys(("balance", "z", "task_loss"), 0.0) | {name: 2.0}
        grafted, adapter = build(encoder, tasks=2, **weights)
        adapter.set_task_ids(tasks)
        extra = adapter.train().extra_loss(grafted.encode({"image": x, "text": words}))
        assert extra is not None
        values[name] = float(extra.detach())
        if name != "task_loss":
            each = [float(getattr(routed, name).detach()) for routed in adapter._routed.values()]
            assert len(each) == 2 and values[name] == pytest.approx(2 * sum(each) / 2)
        if name == "task_loss":
            assert adapter.reader is not None
            t = torch.stack([task_of(adapter, row, encoder.towers()["text"].table.weight)[0] for row in words])
            wanted = 2 * F.cross_entropy(adapter.reader.cosines(t) / 0.07, tasks)
            assert values[name] == pytest.approx(float(wanted.detach()), rel=1e-9)
        grafted.ungraft()


# -- prompts ----------------------------------------------------------------------------------------------------------


def test_a_sample_does_not_depend_on_its_batch():
    encoder = pair()
    grafted, _ = build(encoder, tasks=3)
    images = visual_of(encoder).images(4)
    whole = run(grafted, images, prompts(1, 3, 6, 0)).tokens
    other = torch.cat([images[:1], torch.randn_like(images[1:])])
    assert torch.equal(run(grafted, other, prompts(1, 0, 9, 2)).tokens[0], whole[0])
    torch.testing.assert_close(run(grafted, images[:1], prompts(1)).tokens[0], whole[0], **EXACT)


def test_an_empty_prompt_is_no_prompt():
    encoder = pair()
    grafted, _ = build(encoder, tasks=3)
    x = visual_of(encoder).images()
    with_empty, without = run(grafted, x, prompts(0, 0)), run(grafted, x, None)
    assert with_empty.tokens.isfinite().all()
    torch.testing.assert_close(with_empty.tokens, without.tokens, **EXACT)


def test_an_empty_prompt_of_a_tower_that_ends_every_text_counts_as_none_where_asked():
    encoder = tiny.fresh("hf_clip").double()
    adapter = TghMoe(TghMoe.Config(tasks=2, width=4, unknown_below=1.0))
    grafted = grafted_on(encoder, adapter).eval()
    inputs = {name: x.double() if name == "image" else x for name, x in tiny.batch(encoder).items()}
    text: Any = encoder.towers()["text"]
    inputs["text"][0] = torch.tensor([58, 59, *[text.pad_id] * 10])  # begin, end
    with torch.no_grad():
        assert grafted.encode(inputs)["image"].tokens.isfinite().all()
    assert adapter.diagnostics()["without_known_prompt"] == 2


def test_without_a_prompt_all_groups_count_alike():
    level = TaskLevel(3, 1, 1, 6, 4, torch.zeros(1, dtype=torch.float64))
    with torch.no_grad():
        for parameter in level.parameters():
            parameter.normal_()
    u, zero = torch.randn(2, 5, 6, dtype=torch.float64), torch.zeros(2, dtype=torch.long)
    found = level(u, Choice(None, zero, torch.ones(2), torch.tensor([False, True])))
    each = torch.stack([torch.stack([expert(level.experts, m, u[b]) for m in range(3)]) for b in range(2)])
    torch.testing.assert_close(found[0], each[0].mean(dim=0), **EXACT)
    torch.testing.assert_close(found[1], each[1, 0], **EXACT)


def test_a_prompt_far_from_every_prototype_counts_as_none_where_asked():
    encoder = pair()
    x, words = visual_of(encoder).images(), prompts(1, 5)
    near, adapter = build(encoder, tasks=3)
    run(near, x, words)
    assert adapter.diagnostics()["without_known_prompt"] == 0
    near.ungraft()
    far, adapter = build(encoder, tasks=3, unknown_below=1.0)
    assert run(far, x, words).tokens.isfinite().all()
    assert adapter.diagnostics()["without_known_prompt"] == 2


def test_prototypes_learn_tasks_and_paraphrases_keep_them():
    encoder = pair()
    table = encoder.towers()["text"].table.weight
    with torch.no_grad():  # words 1 to 5 mean one thing, 6 to 10 another
        table[1:6] += 3 * torch.ones(6)
        table[6:] -= 3 * torch.tensor([1.0, -1, 1, -1, 1, -1])
    grafted, adapter = build(encoder, tasks=2, task_loss=1.0)
    x, seen, tasks = (
        visual_of(encoder).images(4),
        torch.tensor([[1, 2, 0, 0], [2, 1, 0, 0], [6, 7, 0, 0], [7, 6, 0, 0]]),
        [0, 0, 1, 1],
    )
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.02)
    grafted.train()
    for _ in range(30):
        optimizer.zero_grad()
        loss_of(grafted, x, seen, torch.tensor(tasks)).backward()
        optimizer.step()
    grafted.eval()
    adapter.reset_diagnostics()
    adapter.set_task_ids(torch.tensor(tasks))
    run(grafted, x, torch.tensor([[4, 5, 3, 0], [5, 3, 0, 0], [9, 10, 8, 0], [8, 9, 0, 0]]))
    report = adapter.diagnostics()
    assert report["task_accuracy"] == 1.0 and report["chosen_tasks"] == [2, 2]
    assert set(report["expert_load"]) == {"0", "1"} and 0 < report["router_entropy"] <= 1
    assert all(sum(load) == pytest.approx(1, abs=1e-3) for load in report["expert_load"].values())


def test_a_true_task_never_reaches_a_prediction():
    encoder = pair()
    grafted, adapter = build(encoder, tasks=3)
    x, words = visual_of(encoder).images(), prompts(1, 5)
    before = run(grafted, x, words).tokens
    adapter.set_task_ids(torch.tensor([2, 1]))
    assert torch.equal(run(grafted, x, words).tokens, before)


def test_bad_tasks_and_prompts_are_refused():
    encoder = pair()
    grafted, adapter = build(encoder, tasks=3)
    with pytest.raises(ConfigError, match="tasks 0 to 3"):
        adapter.set_task_ids(torch.tensor([0, 3]))
    with pytest.raises(ConfigError, match="3 prompts for 2"):
        run(grafted, visual_of(encoder).images(2), prompts(1, 2, 3))
    for bad in ({"experts": 2, "top_k": 3}, {"task_top_k": 2}):
        with pytest.raises(ValueError, match="top_k is"):
            TghMoe.Config(**bad)  # pyright: ignore[reportArgumentType]
    with pytest.raises(IncompatibleError, match="transformer block"):
        Grafted(tiny.shared("timm_cnn"), {"it": TghMoe()})


# -- collapse ---------------------------------------------------------------------------------------------------------


def test_a_collapsed_router_becomes_dense_says_so_and_stays_so(caplog, tmp_path):
    encoder = PlainTower()
    with torch.no_grad():
        encoder.blocks[1].norm2.bias.fill_(5.0)  # pyright: ignore
    grafted, adapter = build(encoder, experts=4, top_k=1)
    block: Any = adapter.blocks["blocks/1/mlp"]
    with torch.no_grad():
        for parameter in block.shared.router.values():
            parameter.zero_()
        block.shared.router["image"][0] = 1e-3  # all tokens that lean this way take one expert
    x = encoder.images()
    grafted.train()
    with caplog.at_level(logging.WARNING):
        for _ in range(PATIENCE):
            assert not block.shared.is_dense
            grafted.encode({"image": x})
            adapter.after_step()
    assert block.shared.is_dense and "blocks.1.mlp" in caplog.text and "made dense" in caplog.text
    assert adapter.diagnostics()["dense_blocks"] == ["blocks.1.mlp"]
    wanted = run(grafted.eval(), x, None).tokens
    grafted.save(tmp_path)
    grafted.ungraft()
    torch.manual_seed(5)
    again = Grafted(encoder, {"it": TghMoe(adapter.config)})
    again.load(tmp_path).eval()
    assert torch.equal(run(again, x, None).tokens, wanted)


# -- on inflated encoders ---------------------------------------------------------------------------------------------


def test_slices_of_a_sample_share_its_prompt_and_padding_is_not_counted():
    encoder = inflate(tiny.fresh("hf_clip").double(), slices=3, depth_2d=1)
    adapter = TghMoe(TghMoe.Config(tasks=2, width=4))
    grafted = grafted_on(encoder, adapter)
    spec = encoder.towers()["volume"].spec
    x, words = torch.randn(2, 3, *spec.input_size, dtype=torch.float64), tiny.batch(encoder)["text"]
    x[1, :, 2] = float("nan")
    grafted.train()
    found = grafted.encode({"volume": x, "text": words})
    assert found["volume"].pooled.isfinite().all()
    routed = adapter._routed["volume/blocks/1/mlp"]
    assert routed.rows == 6 and set(routed.row.tolist()) == {0, 1, 2, 3, 4}
    alone = grafted.encode({"volume": x[1:], "text": words[1:]})
    torch.testing.assert_close(alone["volume"].pooled[0], found["volume"].pooled[1], **EXACT)


def test_the_adapter_is_small():
    encoder = tiny.fresh("chest")
    grafted = Grafted(encoder, {"it": TghMoe(TghMoe.Config(width=8, experts=2, top_k=1))})
    blocks = [block for block in grafted.adapters["it"].blocks.values() if isinstance(block, TghBlock)]  # type: ignore
    assert len(blocks) == 2
    visual = sum(p.numel() for p in encoder.towers()["image"].parameters())
    assert sum(grafted.trainable_count().values()) < 0.05 * visual
