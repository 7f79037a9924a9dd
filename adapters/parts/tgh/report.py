"""What the routers of TGH-MoE did with the samples of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from medgraft.adapters.parts.routing import entropy
from medgraft.adapters.parts.tgh.layers import Choice, Routed
from medgraft.world import World


class RoutingReport:
    """Sums over calls; tasks are those that were told, else those that prompts chose.

    Args:
        tasks: ``M``.
    """

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.samples = self.unplaced = self.labelled = self.right = 0
        self.chosen = torch.zeros(tasks)
        self.picks: dict[str, Tensor] = {}
        self.uncertainty = torch.zeros(2)

    @torch.no_grad()
    def add(self, choice: Choice, routed: Mapping[str, Routed], true_task: Tensor | None) -> None:
        """Adds one call, unless all processes run the same and another adds it.

        Args:
            choice: Per sample.
            routed: Per block, tokens in rows of ``R / B`` to a sample.
            true_task: True task of each sample, ``[B]``, if known.
        """
        if World().repeats:
            return
        group, known = choice.group.cpu(), choice.known.cpu()
        samples = len(group)
        self.samples += samples
        self.unplaced += int((~known).sum())
        self.chosen += torch.bincount(group[known], minlength=self.tasks)
        if true_task is not None and choice.text is not None:
            self.labelled += samples
            self.right += int(((group == true_task.cpu()) & known).sum())
        task = group if true_task is None else true_task.cpu()
        for key, each in routed.items():
            sample = each.row.cpu() // (each.rows // samples)
            shares = each.picked.cpu().float()
            shares = shares / shares.sum(dim=-1, keepdim=True)
            counts = self.picks.setdefault(key, torch.zeros(self.tasks, shares.shape[1]))
            counts.index_add_(0, task[sample], shares)
            self.uncertainty += torch.stack(
                [entropy(each.probs).sum().cpu().float(), torch.tensor(len(shares)).float()]
            )

    def of_all_ranks(self) -> RoutingReport:
        """The sums over all processes, which call it together; this report itself where there is but one."""
        world = World()
        if world.size == 1:
            return self
        whole = RoutingReport(self.tasks)
        for each in world.gather_objects(vars(self)):
            for name in ("samples", "unplaced", "labelled", "right", "chosen", "uncertainty"):
                setattr(whole, name, getattr(whole, name) + each[name])
            for key, counts in each["picks"].items():
                whole.picks[key] = whole.picks[key] + counts if key in whole.picks else counts
        return whole

    def summary(self) -> dict[str, Any]:
        """The report as JSON; empty before the first call.

        Entropies are shares of the largest possible, so 1 is uniform.
        """
        if not self.samples:
            return {}
        report: dict[str, Any] = {"samples": self.samples, "without_known_prompt": self.unplaced}
        if self.tasks > 1:
            report["chosen_tasks"] = [int(count) for count in self.chosen]
        if self.labelled:
            report["task_accuracy"] = self.right / self.labelled
        if self.picks:
            report["router_entropy"] = float(self.uncertainty[0] / self.uncertainty[1])
            total = torch.stack(list(self.picks.values())).sum(dim=0)
            load = total / total.sum(dim=-1, keepdim=True).clamp(min=1e-12)
            report["expert_load"] = {str(m): _rounded(load[m]) for m in range(self.tasks) if total[m].sum() > 0}
            report["load_entropy"] = {
                m: round(float(entropy(torch.tensor(row))), 4) for m, row in report["expert_load"].items()
            }
            report["block_load"] = {
                key.replace("/", "."): _rounded(counts.sum(dim=0) / counts.sum()) for key, counts in self.picks.items()
            }
        return report


def _rounded(shares: Tensor) -> list[float]:
    return [round(float(share), 4) for share in shares]
