"""Whether a graft runs, and whether every site that its adapters name is reached.

Libraries need not call the modules that they hold: an attention that gives the weight of its ``qkv`` to ``F.linear``
itself never runs a hook on ``qkv``, so an adapter there would hold parameters that nothing trains. One run of the
graft on a blank sample tells.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medgraft.adapter import Adapter, Attachment
from medgraft.attachment.blank_run import blank_batch, graph_of
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.errors import IncompatibleError, MedgraftError, UnreachedError
from medgraft.features import Features
from medgraft.typed.pytorch import fork_random
from medgraft.typed.values import is_a

logger = logging.getLogger(__name__)

Run = Callable[[Mapping[str, Tensor]], Mapping[str, Features]]


class _Watch:
    """Which modules run, and from which node of the graph on their results go."""

    def __init__(self, encoder: Encoder, sites: Mapping[str, Site]) -> None:
        self.names: dict[nn.Module, str] = {}
        for site in sites.values():
            if site.path:
                self.names.setdefault(encoder.get_submodule(site.path), site.name)
        self.called: set[nn.Module] = set()
        self.results: dict[nn.Module, list[Any]] = {}
        self.running: list[str] = []

    @contextmanager
    def watching(self) -> Generator[None]:
        """Hooks on every module, behind those of adapters."""
        with ExitStack() as stack:
            for module in self.names:
                stack.callback(module.register_forward_pre_hook(self._enter).remove)
                stack.callback(module.register_forward_hook(self._leave).remove)
            yield

    def _enter(self, module: nn.Module, args: Any) -> None:
        self.called.add(module)
        self.running.append(self.names[module])

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.running.pop()
        parts = output if is_a(output, tuple | list) else [output]
        nodes = [part.grad_fn for part in parts if isinstance(part, Tensor) and part.grad_fn is not None]
        self.results.setdefault(module, []).extend(nodes)


class _Graph(NamedTuple):
    """What ran, and the graph behind the features."""

    watch: _Watch
    nodes: set[Any]
    leaves: set[Any]

    def reads_substitute(self, module: nn.Module, parameters: set[Any]) -> bool:
        """Whether the features depend on something that stands in the place of a parameter inside a module.

        Args:
            module: The module at a site.
            parameters: The adapter's parameters that the features depend on.
        """
        shadows = [value for part in module.modules() for value in part.__dict__.values() if isinstance(value, Tensor)]
        return any(value in parameters if value.grad_fn is None else value.grad_fn in self.nodes for value in shadows)

    def obstacle(self, module: nn.Module) -> str:
        """Why a change of what a module returns would not be seen; empty where it would."""
        if module not in self.watch.called:
            return "never called"
        results = self.watch.results.get(module)
        return "called, but nothing reads what it returns" if results and self.nodes.isdisjoint(results) else ""


def check_reach(
    encoder: Encoder,
    adapters: Mapping[str, Adapter],
    attachments: Mapping[str, Attachment],
    sites: Mapping[str, Site],
    run: Run,
) -> None:
    """Runs a graft on a blank sample of each tower that its adapters touch, in evaluation mode.

    A site is reached if its module is called and what it returns is read on the way to the features (or into the
    space that modalities share), or if a value that its adapter put in the place of one of its parameters is.

    Args:
        encoder: The encoder, adapters attached.
        adapters: The adapters by name; those to be checked.
        attachments: What each did to the encoder.
        sites: ``encoder.sites()`` from before the adapters.
        run: Modality -> batch, to modality -> features; the graft's own.

    Raises:
        UnreachedError: A site is not reached, and the sentence names it; or the features depend on none of an
            adapter's parameters.
        IncompatibleError: The graft does not run.
    """
    if not adapters:
        return
    hits = {
        name: {hit: sites[hit] for matches in attachment.hits.values() for hit in matches if hit in sites}
        for name, attachment in attachments.items()
    }
    towers = _touched(encoder, attachments)
    watch = _Watch(encoder, {hit: site for matches in hits.values() for hit, site in matches.items()})
    devices = [encoder.device] if encoder.device.type == "cuda" else []
    with fork_random(devices), torch.inference_mode(False), torch.enable_grad(), watch.watching():
        inputs = {name: blank_batch(tower) for name, tower in towers.items()}
        try:
            outputs = dict(run(inputs))
        except (MedgraftError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # what an adapter does to a library's model may fail in any way
            _explain(encoder, towers, inputs, adapters, attachments, watch, error)
            return
        graph = _Graph(watch, *graph_of(*_tensors(outputs.values())))
        problem = _problem(encoder, adapters, hits, graph)
        if problem and (shared := _shared(towers, outputs)):
            nodes, leaves = graph_of(*shared)
            problem = _problem(encoder, adapters, hits, _Graph(watch, graph.nodes | nodes, graph.leaves | leaves))
    if problem:
        raise UnreachedError(problem)


def _problem(
    encoder: Encoder, adapters: Mapping[str, Adapter], hits: Mapping[str, Mapping[str, Site]], graph: _Graph
) -> str:
    """What would train nothing, in words; empty if everything is reached."""
    if missed := _missed(encoder, adapters, hits, graph):
        return _sentence(encoder, missed)
    if len(adapters) != 1:  # one may put its own features in the place of what the rest made
        return ""
    name, adapter = next(iter(adapters.items()))
    parameters = {parameter for parameter in adapter.parameters() if parameter.requires_grad}
    elsewhere = type(adapter).extra_loss is not Adapter.extra_loss or adapter.logit_scale() is not None
    if not parameters or not hits[name] or elsewhere or not parameters.isdisjoint(graph.leaves):
        return ""
    return (
        f"adapter {name!r} would train nothing on encoder {encoder.spec.name!r}: the features depend on none of its "
        f"{len(parameters)} parameters"
    )


def _touched(encoder: Encoder, attachments: Mapping[str, Attachment]) -> dict[str, Encoder]:
    """Towers that adapters change, and those that must run before them; all where an adapter recorded nothing."""
    towers = encoder.towers()
    if any(not attachment.stage for attachment in attachments.values()):
        return towers
    names = {name for attachment in attachments.values() for name in (*attachment.stage, *attachment.first)}
    return {name: tower for i, (name, tower) in enumerate(towers.items()) if name in names or (i == 0 and "" in names)}


def _tensors(outputs: Any) -> list[Tensor]:
    values = [getattr(each, part) for each in outputs for part in ("tokens", "pooled", "embedding", "cls_scores")]
    return [value for value in values if isinstance(value, Tensor)]


def _shared(towers: Mapping[str, Encoder], outputs: Mapping[str, Features]) -> list[Tensor]:
    """The towers' embeddings in a shared space, where they have one and adapters left its input alone."""
    embeddings: list[Tensor] = []
    for name, tower in towers.items():
        try:
            embeddings.append(tower.project(outputs[name].pooled))
        except Exception as error:  # an adapter may give the pooled features another width
            logger.debug("%s: its pooled features cannot be projected (%s)", tower.spec.name, error)
    return embeddings


def _missed(
    encoder: Encoder, adapters: Mapping[str, Adapter], hits: Mapping[str, Mapping[str, Site]], graph: _Graph
) -> dict[str, list[tuple[str, str]]]:
    """Adapter -> its sites that are not reached, each with the reason."""
    missed: dict[str, list[tuple[str, str]]] = {}
    for name, matches in hits.items():
        parameters = {parameter for parameter in adapters[name].parameters() if parameter in graph.leaves}
        for site in (site for site in matches.values() if site.path):
            module = encoder.get_submodule(site.path)
            if not graph.reads_substitute(module, parameters) and (reason := graph.obstacle(module)):
                missed.setdefault(name, []).append((site.name, reason))
    return missed


def _sentence(encoder: Encoder, missed: Mapping[str, list[tuple[str, str]]]) -> str:
    parts: list[str] = []
    for name, sites in missed.items():
        shown = "; ".join(f"{site} is {why}" for site, why in sites[:4])
        more = f"; and {len(sites) - 4} more" if len(sites) > 4 else ""
        parts.append(f"adapter {name!r} would train nothing at {len(sites)} of its sites: {shown}{more}")
    return (
        f"encoder {encoder.spec.name!r}: {'; '.join(parts)}. The library reads the weights of such a module itself, or "
        "the features do not depend on it; leave it out of the adapter's targets"
    )


def _explain(
    encoder: Encoder,
    towers: Mapping[str, Encoder],
    inputs: Mapping[str, Tensor],
    adapters: Mapping[str, Adapter],
    attachments: Mapping[str, Attachment],
    watch: _Watch,
    error: Exception,
) -> None:
    """Raises what a failed run means; only warns where it says nothing of the graft as it will be used.

    That is so if the graft may still be cast to one type, if the encoder holds no values, or if its facts do not
    describe what it takes.
    """
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:240]}"
    where = f" at {watch.running[-1]}" if watch.running else ""
    types = {parameter.dtype for adapter in adapters.values() for parameter in adapter.parameters()}
    if types - {encoder.dtype} and not isinstance(error, NotImplementedError):
        logger.warning(
            "%s%s: adapters of %s do not run on weights of %s (%s); cast the graft before its first run",
            encoder.spec.name, where, ", ".join(map(str, types)), encoder.dtype, text,
        )  # fmt: skip
        return
    if encoder.device.type == "meta":  # a branch on a value cannot run where there are none
        logger.warning("%s%s has no values, so its graft was not tried (%s)", encoder.spec.name, where, text)
        return
    if failure := _adapter_failure(towers, inputs, attachments):
        logger.warning("%s does not run on a blank sample (%s), so its graft was not tried", encoder.spec.name, failure)
        return
    raise IncompatibleError(
        f"adapter {' + '.join(attachments)} does not run on encoder {encoder.spec.name!r}{where}: {text}"
    ) from error


def _adapter_failure(
    towers: Mapping[str, Encoder], inputs: Mapping[str, Tensor], attachments: Mapping[str, Attachment]
) -> str:
    """What the encoder itself raises on a blank sample, its adapters taken off; empty if nothing."""
    for attachment in reversed(list(attachments.values())):
        attachment.pause()
    try:
        with torch.no_grad():
            for name, tower in towers.items():
                tower.encode(inputs[name])
    except Exception as error:  # an encoder of any library
        return f"{type(error).__name__}: {error}"
    finally:
        for attachment in attachments.values():
            attachment.resume()
    return ""
