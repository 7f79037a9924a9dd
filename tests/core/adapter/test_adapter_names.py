"""Names that a plugin may have, and what is no plugin at all."""

from __future__ import annotations

import pytest
import torch
from distributions import install

from medgraft import plugins
from medgraft.adapters.lora import Lora
from medgraft.errors import PluginError
from medgraft.grafting import Grafted
from medgraft.testing.snapshots import difference, outputs_of
from medgraft.testing.tiny import example_inputs, tiny_encoder


@pytest.mark.parametrize("name", ["keys", "pop", "values", "items", "acme.labs:gain"])
def test_an_adapter_may_be_called_what_a_module_dict_refuses(name, tmp_path):
    encoder = tiny_encoder("packed-2d")
    inputs = example_inputs(encoder)
    torch.manual_seed(0)
    grafted = Grafted(encoder, {name: Lora()})
    for parameter in grafted.trainable_parameters():
        torch.nn.init.normal_(parameter)
    wanted = outputs_of(grafted, inputs)
    grafted.save(tmp_path)
    again = Grafted(tiny_encoder("packed-2d"), {name: Lora()}).load(tmp_path)
    assert not difference(wanted, outputs_of(again, inputs))
    assert list(again.coverage()) == [name.replace(".", "/")]


@pytest.mark.parametrize(
    ("version", "message"),
    [(99, "Install a newer medgraft"), (0, "Install a newer release of acme"), (None, "Set api_version = 1")],
)
def test_a_version_that_is_not_spoken_is_refused_with_its_own_remedy(version, message):
    problem = plugins.refused_version(version, "acme")
    assert f"declares api_version {version!r}; this medgraft speaks version" in problem and message in problem


def test_the_version_that_is_inherited_is_spoken():
    assert plugins.refused_version(type("Mine", (Lora,), {}).api_version) == ""


SOURCES = {
    "number": "Plugin = 5",
    "function": "def Plugin(): pass\nPlugin.api_version = 1",
    "another_class": "class Plugin:\n    api_version = 1",
    "instance": "class Other:\n    api_version = 1\nPlugin = Other()",
}


@pytest.mark.parametrize("kind", SOURCES)
def test_an_entry_point_that_is_no_adapter_is_refused_when_it_is_loaded(kind, tmp_path, monkeypatch):
    module = f"acme_odd_{kind}"
    install(tmp_path, "acme", {"acme_odd": f"{module}:Plugin"}, {module: SOURCES[kind]})
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError, match="not a subclass"):
        plugins.load(plugins.find("adapter", "acme_odd"))
