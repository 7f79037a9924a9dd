"""TGH-MoE: experts that tokens choose and experts that the prompt chooses, beside the MLP of the upper blocks.

Yu et al., "TGH-MoE" (arXiv 2604.10233): a text-guided hierarchical mixture of experts in a vision encoder, with a
token-level mixture, a task-level one that is routed hard by the text prompt, and two stages of training, first
task-shared, then task-specific. The paper's text gives no formula, no number of experts and no loss; all of the
following is our definition. With ``u`` what the frozen MLP reads and ``t`` the prompt's embedding::

    y = x + MLP(u) + s sum_{k in TopK(p)} p_k E^sh_k(u) + s sum_{j in TopK'(r)} r_j E^m*_j(u)
    p = softmax(W_x u + W_t t'),  t' = LN(W_p t),  m* = argmax_m cos(t', c_m)

- Expert: Linear, GELU, Linear; the second linear starts at zero, so a fresh graft changes nothing. ``W_t`` starts at
  zero too: routing begins with the image alone. It learns ``text_lr`` times as fast as the rest, since it starts at
  zero beside a ``W_x`` that does not (Hayou et al., "LoRA+", arXiv 2402.12354, for such matrices): at the adapter's own
  rate, the first stage of a short training ends, and freezes the router, before the prompt moves a token.
- ``m*`` is one decision per sample for all blocks. Training uses the true task where it is told, and trains the
  prototypes ``c_m`` by cross-entropy on ``cos / tau``; where it is not, the gradient passes straight through the
  argmax. A prediction reads the prompt only.
- Losses: balance (DeepSeekMoE's) and z (ST-MoE's), both 1 for a router that treats experts alike.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapter.knobs import SizeKnob
from medgraft.adapters.parts.placement import GRIDDED, DepthGroup, Hits, key_of, select, tower_of, unique
from medgraft.adapters.parts.routing import evenness, top_k_gates
from medgraft.adapters.parts.tgh.ffn_copies import Ffn, ffn_of
from medgraft.adapters.parts.tgh.layers import (
    Choice,
    Experts,
    PromptReader,
    Routed,
    TaskLevel,
    TghBlock,
    TokenLevel,
    of_all_ranks,
    prompt_embedding,
)
from medgraft.adapters.parts.tgh.report import RoutingReport
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.encoder.towers import text_tower
from medgraft.errors import ConfigError, IncompatibleError
from medgraft.features import Features
from medgraft.schedule import ONE_PHASE, Phase
from medgraft.world import World

logger = logging.getLogger(__name__)

__all__ = ["Experts", "TghMoe", "top_k_gates"]

MEMORY = 0.9
"""Share of the running load that one training step keeps."""

PATIENCE = 20
"""Steps before a router may be called collapsed."""


class TghMoe(Adapter):
    """Token-level shared experts with a text-biased router beside task-level experts chosen by the prompt.

    The prompt is what the text tower of the encoder reads in the same call. An encoder without one, a call without
    text and an empty prompt give ``t' = 0``: tokens choose by the image alone, and a sample that no prompt places gets
    the average of all task groups. A prompt of a task that was never trained goes to the nearest prototype; with
    ``unknown_below`` it counts as no prompt where even that is far. An empty prompt has no token behind the prefix; a
    text tower that ends every text by a token of its own (CLIP's) reads it as a prompt that was never trained.

    A router whose load has collapsed on as few experts as each token may use is set to zero, so that its block becomes
    the average of all experts. This is logged and reported, and stored with the weights.
    """

    paper = "Yu et al., text-guided hierarchical mixture of experts (TGH-MoE), 2026 (arXiv 2604.10233)"
    licence = "Apache-2.0"
    formula = (
        r"y = x + \mathrm{MLP}(u) + s \sum_{k \in \mathrm{TopK}(p)} p_k E^{sh}_k(u) + s \sum_{j \in "
        r"\mathrm{TopK}'(r)} r_j E^{m^*}_j(u)"
        "\n"
        r"p = \mathrm{softmax}(W_x u + W_t t'), \quad m^* = \mathrm{argmax}_m \cos(t', c_m)"
    )
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 8})
    size_knob = SizeKnob("width")
    search = MappingProxyType({"scale": (0.1, 0.3, 1.0, 3.0, 10.0), "balance": (0.0, 0.001, 0.01, 0.1, 1.0)})
    text_padding = 0

    class Config(AdapterConfig):
        """Options.

        Attributes:
            experts: Shared experts ``E`` per block.
            top_k: Shared experts per token.
            tasks: Tasks ``M`` that prompts tell apart; 1 for a single group, which needs no prompt.
            task_experts: Experts per task; more than one are chosen by each token.
            task_top_k: Experts per token within a task.
            expert: ``bottleneck``, or ``ffn_copy``: the difference between a trained copy of the block's MLP and the
                MLP, as large as that for each expert.
            width: Numbers inside a bottleneck.
            prompt_dim: Width of the prompt's projection ``t'``.
            prompt: ``mean`` of the prompt's tokens, or what the text tower ``pooled``.
            scale: Factor ``s`` on what the experts add.
            text: Read the prompt; false is the ablation without text.
            levels: ``both``, or one alone: ``token``, ``task``.
            token_router: ``image+text``, or ``text``, which drops ``W_x``.
            task_router: ``hard``, or ``soft``, which mixes the groups by ``softmax(cos / tau)``.
            stages: ``two``, task-shared and then task-specific, or ``one`` for joint training.
            first_share: Share of the training steps in the first of two stages.
            text_lr: Learning rate of ``W_t`` relative to the adapter's.
            upcycle: Start the task experts from the mean shared expert when the second stage begins.
            tau: Temperature of the prototypes.
            balance: Weight of the balance loss.
            z: Weight of the z loss.
            task_loss: Weight of the prototypes' cross-entropy.
            unknown_below: Cosine with the nearest prototype below which a prompt counts as none.
            collapse_below: Evenness of the load, 0 to 1, below which a router counts as collapsed; 0 never does.
            targets: Patterns of MLP branches.
            depth: Group of blocks.
        """

        experts: int = Field(4, ge=2)
        top_k: int = Field(2, ge=1)
        tasks: int = Field(1, ge=1)
        task_experts: int = Field(1, ge=1)
        task_top_k: int = Field(1, ge=1)
        expert: Literal["bottleneck", "ffn_copy"] = "bottleneck"
        width: int = Field(64, ge=1)
        prompt_dim: int = Field(64, ge=2)
        prompt: Literal["mean", "pooled"] = "mean"
        scale: float = Field(1.0, gt=0)
        text: bool = True
        levels: Literal["both", "token", "task"] = "both"
        token_router: Literal["image+text", "text"] = "image+text"
        task_router: Literal["hard", "soft"] = "hard"
        stages: Literal["two", "one"] = "two"
        first_share: float = Field(0.5, gt=0, lt=1)
        text_lr: float = Field(3.0, gt=0)
        upcycle: bool = False
        tau: float = Field(0.07, gt=0)
        balance: float = Field(0.01, ge=0)
        z: float = Field(1e-3, ge=0)
        task_loss: float = Field(0.1, ge=0)
        unknown_below: float = Field(-1.0, ge=-1, le=1)
        collapse_below: float = Field(0.02, ge=0, lt=1)
        targets: tuple[str, ...] = Field(("*.mlp",), min_length=1)
        depth: DepthGroup = "half_up"

        @model_validator(mode="after")
        def _enough_experts(self) -> TghMoe.Config:
            for experts, top_k in (("experts", "top_k"), ("task_experts", "task_top_k")):
                if getattr(self, top_k) > getattr(self, experts):
                    raise ValueError(
                        f"{top_k} is {getattr(self, top_k)} with {experts} {getattr(self, experts)}; a token cannot "
                        "have more experts than there are"
                    )
            if self.upcycle and self.expert == "ffn_copy":
                raise ValueError("upcycle starts bottlenecks; with expert: ffn_copy all experts start from the MLP")
            return self

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.reader: PromptReader | None = None
        self.blocks = nn.ModuleDict()
        self._prompt: tuple[Tensor, Tensor] | None = None
        self._listening = False
        self._tasks: Tensor | None = None
        self._choice: Choice | None = None
        self._task_term: Tensor | None = None
        self._routed: dict[str, Routed] = {}
        self._running: dict[str, Tensor] = {}
        self._steps = 0
        self._task_on = True
        self._report = RoutingReport(self.config.tasks)

    # -- attaching ----------------------------------------------------------------------------------------------------

    def supports(self, encoder: Encoder) -> Support:
        """Fits image and volume towers of transformer blocks; prompts need a text tower beside one visual tower."""
        try:
            for site in unique(self.select(encoder, encoder.sites())):
                if self.config.expert == "ffn_copy":
                    ffn_of(encoder, tower_of(encoder, site), site)
        except IncompatibleError as error:
            return Support(False, str(error))
        return Support(True)

    def select(self, encoder: Encoder, sites: Mapping[str, Site]) -> Hits:
        """Branches of image and volume towers that ``targets`` names."""
        targets, depth = self.config.targets, self.config.depth
        return select(encoder, sites, targets, {"branch"}, depth=depth, what="tgh_moe", towers=GRIDDED)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Puts both mixtures beside the MLP of each selected block, and reads the prompt before the image."""
        attachment, config = Attachment(encoder), self.config
        attachment.on_call.append(self._begin)
        hits = self.select(encoder, sites)
        attachment.record(hits)
        places = unique(hits)
        towers = {id(tower_of(encoder, site)): tower_of(encoder, site) for site in places}
        prompts = text_tower(encoder) if config.text else None
        like = next(tower_of(encoder, places[0]).parameters())
        self.reader = None
        if prompts is not None:
            modality, text = prompts
            self.reader = PromptReader(
                text.spec.dim, config.prompt_dim, config.tasks if config.levels != "token" else 1, like
            )
            attachment.first.add(modality)
            attachment.map_features(text, self._read)
        for tower in towers.values():
            attachment.map_features(tower, self._end)
        self.blocks.clear()
        for site in places:
            tower = tower_of(encoder, site)
            ffn = ffn_of(encoder, tower, site) if config.expert == "ffn_copy" else None
            self.blocks[key_of(site)] = self._block(tower.spec.dim, next(tower.parameters()), ffn)
            attachment.add_to_branch(site, self._delta(key_of(site), tower))
        return attachment

    def _block(self, dim: int, like: Tensor, ffn: Ffn | None) -> TghBlock:
        config, shared, task = self.config, None, None
        text_dim = config.prompt_dim if self.reader is not None else 0
        if config.levels != "task":
            image = config.token_router == "image+text"
            shared = TokenLevel(config.experts, config.top_k, dim, config.width, text_dim, image, like, ffn)
        if config.levels != "token":
            task = TaskLevel(config.tasks, config.task_experts, config.task_top_k, dim, config.width, like, ffn)
        return TghBlock(shared, task, config.scale)

    # -- running ------------------------------------------------------------------------------------------------------

    def set_task_ids(self, tasks: Tensor | None) -> None:
        """Teacher forcing in training, and whose load is whose in evaluation: the task of each sample, ``int64 [B]``.

        Raises:
            ConfigError: A task is numbered beyond ``tasks``.
        """
        if tasks is not None and self.config.tasks > 1 and len(tasks):
            low, high = int(tasks.min()), int(tasks.max())
            if low < 0 or high >= self.config.tasks:
                raise ConfigError(
                    f"samples ask tasks {low} to {high}, but tgh_moe has tasks={self.config.tasks}; set {high + 1}"
                )
        self._tasks = tasks

    def _read(self, features: Features) -> Features:
        if self._listening:  # a tower that is run by itself asks nothing of the other
            self._prompt = prompt_embedding(features, self.config.prompt)
        return features

    def _begin(self) -> None:
        """Forgets the last call; the first block makes the choice, since only it knows how many samples there are."""
        self._prompt, self._choice, self._task_term = None, None, None
        self._routed, self._listening = {}, True

    def _end(self, features: Features) -> Features:
        """A prompt belongs to one call, and so do the tasks that were told for its samples."""
        if not self.training and self._choice is not None:
            self._report.add(self._choice, self._routed, self._tasks if self.config.tasks > 1 else None)
        self._prompt, self._choice, self._tasks, self._listening = None, None, None, False
        return features

    def _delta(self, key: str, tower: Encoder) -> Any:
        def delta(u: Tensor) -> Tensor:
            if self._choice is None:
                self._choice = self._choose(len(u) // tower.sliced, u.device)
            real = None if tower.real_slices is None else tower.real_slices.flatten()
            block = self.blocks[key]
            change, routed = block(u, self._choice.per_row(len(u)), real, self._task_on)
            if routed is not None:
                self._routed[key] = routed
            return change

        return delta

    def _choose(self, samples: int, device: torch.device) -> Choice:
        """What the prompts of this call decide."""
        config = self.config
        one = torch.ones(samples, device=device)
        nobody = torch.zeros(samples, dtype=torch.long, device=device)
        if self.reader is None or self._prompt is None:
            return Choice(None, nobody, one, one.bool() if config.tasks == 1 else ~one.bool())
        t, prompted = self._prompt
        if len(t) != samples:
            raise ConfigError(f"{len(t)} prompts for {samples} images or volumes in the same call; give one each")
        text = self.reader(t.to(self.reader.project.weight.dtype)) * prompted[:, None]
        if config.tasks == 1 or config.levels == "token":
            return Choice(text, nobody, one, one.bool())
        return self._place(text, prompted)

    def _place(self, text: Tensor, prompted: Tensor) -> Choice:
        config = self.config
        assert self.reader is not None
        cosines = self.reader.cosines(text)
        probs = torch.softmax(cosines / config.tau, dim=-1)
        nearest = cosines.argmax(dim=-1)
        known = prompted & (cosines.detach().amax(dim=-1) >= config.unknown_below)
        tasks = self._tasks if self.training else None
        if tasks is not None:
            tasks = tasks.to(cosines.device)
            each = F.cross_entropy(cosines / config.tau, tasks, reduction="none")
            self._task_term = torch.stack([(each * prompted).sum(), prompted.sum().to(each.dtype)])
        if config.task_router == "soft":
            average = torch.full_like(probs, 1 / config.tasks)
            return Choice(
                text, nearest, torch.ones_like(probs[:, 0]), known, torch.where(known[:, None], probs, average)
            )
        if tasks is not None:
            return Choice(text, tasks, torch.ones_like(probs[:, 0]), torch.ones_like(known))
        chosen = probs.gather(1, nearest[:, None])[:, 0]
        return Choice(text, nearest, 1 + (chosen - chosen.detach()), known)

    # -- training -----------------------------------------------------------------------------------------------------

    def extra_loss(self, outputs: Mapping[str, Features]) -> Tensor | None:
        """Balance and z losses, means over blocks, and the prototypes' cross-entropy: the weighted sum, a scalar."""
        config, terms = self.config, []
        if not self.training:
            return None
        if self._routed:
            self._routed = of_all_ranks(self._routed)
            terms.append(config.balance * torch.stack([each.balance for each in self._routed.values()]).mean())
            terms.append(config.z * torch.stack([each.z for each in self._routed.values()]).mean())
        if self._task_term is not None:
            loss, prompted = World().sum(self._task_term)  # of a batch that several processes run
            terms.append(config.task_loss * loss / prompted.clamp(min=1))
        return torch.stack(terms).sum() if terms else None

    def after_step(self) -> None:
        """Keeps a running load of each block, and makes routers dense that have collapsed."""
        config = self.config
        self._steps += 1
        if config.collapse_below == 0 or config.top_k == config.experts:
            return
        for key, routed in self._routed.items():
            load = routed.load
            self._running[key] = load if key not in self._running else MEMORY * self._running[key] + (1 - MEMORY) * load
            level = self.blocks[key].shared
            assert isinstance(level, TokenLevel)
            even = evenness(self._running[key], config.top_k)
            if self._steps >= PATIENCE and even < config.collapse_below and not level.is_dense:
                level.make_dense()
                logger.warning(
                    "tgh_moe: the router of %s sends %.0f%% of the tokens to %d of %d experts; it is made dense",
                    key.replace("/", "."),
                    100 * float(self._running[key].topk(config.top_k).values.sum()),
                    config.top_k,
                    config.experts,
                )

    def training_state(self) -> dict[str, Any]:
        """Steps taken, and the running load of each block."""
        return {"steps": self._steps, "running": self._running}

    def restore_training_state(self, state: Mapping[str, Any]) -> None:
        """Goes on with them."""
        device = next(self.parameters()).device
        self._steps, self._running = state["steps"], {key: load.to(device) for key, load in state["running"].items()}

    def learning_rate_scale(self, parameter: str) -> float:
        """``W_t`` learns faster."""
        return self.config.text_lr if parameter.endswith("router.text") else 1.0

    def phases(self) -> tuple[Phase, ...]:
        """Task-shared, then task-specific, where there are both levels; else one stage.

        The first trains the shared experts, both routers and the prototypes, the second the task experts.
        """
        config = self.config
        if config.stages == "one" or config.levels != "both":
            return ONE_PHASE
        shared = ("blocks.*.shared.*", *(("reader.*",) if self.reader is not None else ()))
        return (
            Phase("task-shared", shared, config.first_share),
            Phase("task-specific", ("blocks.*.task.*",), 1 - config.first_share),
        )

    def enter_phase(self, stage: str | None) -> None:
        """The task level is off in the first stage."""
        self._task_on = stage != "task-shared"
        if stage == "task-specific" and self.config.upcycle:
            for block in self.blocks.values():
                assert isinstance(block, TghBlock)
                if block.task is not None and block.shared is not None:
                    block.task.copy_mean(block.shared.experts)

    # -- diagnostics --------------------------------------------------------------------------------------------------

    def reset_diagnostics(self) -> None:
        """Starts counting anew."""
        self._report = RoutingReport(self.config.tasks)

    def diagnostics(self) -> dict[str, Any]:
        """Router entropy, load of each expert per task, accuracy of ``m*``, and blocks whose router was made dense."""
        dense = [
            key.replace("/", ".")
            for key, block in self.blocks.items()
            if isinstance(block, TghBlock) and block.shared is not None and block.shared.is_dense
        ]
        return {**self._report.of_all_ranks().summary(), "dense_blocks": dense}
