"""Plugins of other distributions: found without being imported, isolated when broken, never in the way of ours."""

from __future__ import annotations

import importlib
import json
import logging
import os
import shutil
import subprocess
import sys

import pytest
import tiny_encoders as tiny
import torch
from distributions import GOOD, SAMPLE, install

from medgraft import plugins
from medgraft.adapter import base as adapter_module
from medgraft.errors import ConfigError, PluginError, UnknownNameError
from medgraft.grafting import graft
from medgraft.plugins import declared, discovery
from medgraft.registry import build_adapter, build_encoder, resolve_adapter, resolve_encoder


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty folder on ``sys.path``; what is imported from it is forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(discovery, "_loaded", dict(discovery._loaded))
    yield folder
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture
def acme(site):
    """The sample distribution, installed by hand."""
    install(site, "acme-graft", {"acme_gain": "acme_graft:Gain"}, {}, "1.2.3")
    info = site / "acme_graft-1.2.3.dist-info" / "entry_points.txt"
    info.write_text(info.read_text() + "[medgraft.encoders]\nacme_mean = acme_graft:MeanSource\n")
    shutil.copy(SAMPLE / "acme_graft.py", site)
    return site


def run(code: str, site, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(site), "COLUMNS": "200"} | variables
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


MEDGRAFT = "import sys; sys.argv = ['medgraft', *{args!r}]; from medgraft.benchmarks.commands.main import main; main()"


# -- a good plugin ----------------------------------------------------------------------------------------------------


def test_a_good_adapter_is_listed_and_usable(acme):
    assert plugins.discover("adapter")["acme_gain"].target == "acme_graft:Gain"
    encoder = tiny.shared("timm")
    x = tiny.batch(encoder)["image"]
    before = encoder(x).pooled
    grafted = graft(encoder, "acme_gain", start=2.0)
    after = grafted(x).pooled
    grafted.ungraft()
    torch.testing.assert_close(after, 2 * before, rtol=0, atol=0)


def test_a_good_encoder_is_listed_and_usable(acme):
    encoder = build_encoder("acme_mean:image")
    assert encoder(torch.ones(2, 1, 8, 8)).pooled.tolist() == [[1.0], [1.0]]


def test_the_options_of_a_foreign_adapter_are_validated_like_ours(acme):
    with pytest.raises(ConfigError, match=r"acme_gain.*start.*got -1"):
        build_adapter("acme_gain", {"start": -1})


def test_a_foreign_family_has_variants_by_name(acme):
    assert build_adapter("acme_gain:frozen").config.kind == "frozen"


def test_a_foreign_adapter_composes_with_ours(acme):
    grafted = graft(tiny.shared("timm"), "lora+acme_gain")
    grafted.ungraft()
    assert list(grafted.adapters) == ["lora", "acme_gain"]


def test_a_plugin_is_found_by_its_full_name_too(acme):
    assert plugins.find("adapter", "acme-graft:acme_gain") == plugins.find("adapter", "acme_gain")
    assert build_encoder("acme-graft:acme_mean:image").spec.name == "acme_mean:image"


def test_provenance_names_distribution_and_version(acme):
    assert plugins.find("adapter", "acme_gain").provenance() == {
        "name": "acme_gain",
        "target": "acme_graft:Gain",
        "distribution": "acme-graft",
        "version": "1.2.3",
    }


def test_ours_are_declared_like_any_others():
    lora = plugins.find("adapter", "lora")
    assert lora.builtin and lora.provenance()["distribution"] == "medgraft"


def test_the_versions_of_the_contract_agree():
    assert plugins.SUPPORTED_API == adapter_module.API_VERSION


def test_inside_a_block_the_installed_distributions_are_looked_at_once(monkeypatch):
    looks, look = [], declared._installed
    monkeypatch.setattr(declared, "_installed", lambda: looks.append(1) or look())
    with declared.looked_at_once():
        assert "lora" in plugins.discover("adapter") and "image" in plugins.discover("modality")
    assert len(looks) == 1
    plugins.discover("adapter")
    assert len(looks) == 2  # what is installed later is seen


@pytest.mark.slow
def test_a_distribution_that_pip_installed_is_found_and_usable(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(SAMPLE, source)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", target, source], check=True)
    code = (
        "import json; from medgraft import plugins; from medgraft.registry import build_adapter, build_encoder\n"
        "print(json.dumps([plugins.find('adapter', 'acme_gain').provenance(), "
        "build_adapter('acme_gain', {'start': 3}).config.start, build_encoder('acme_mean:image').spec.name]))"
    )
    done = run(code, target)
    assert done.returncode == 0, done.stderr
    provenance, start, encoder = json.loads(done.stdout)
    assert (provenance["distribution"], provenance["version"]) == ("acme-graft", "1.2.3")
    assert (start, encoder) == (3.0, "acme_mean:image")


# -- broken plugins ---------------------------------------------------------------------------------------------------

BROKEN = {
    "syntax error": ("def f(:", "SyntaxError"),
    "missing dependency": ("import no_such_module_of_acme", "no_such_module_of_acme"),
    "error": ("raise RuntimeError('the driver is too old')", "the driver is too old"),
    "sys.exit": ("import sys; sys.exit(3)", "SystemExit"),
    "no such object": ("Other = 1", "Plugin"),
    "wrong version": (GOOD.format(name="Plugin") + "\n    api_version = 99", "api_version 99"),
    "no version": (GOOD.format(name="Plugin") + "\n    api_version = None", "api_version None"),
    "another class": ("class Plugin:\n    api_version = 1", r"not a subclass of medgraft\.Adapter"),
    "a function": ("def Plugin(config): pass", r"not a subclass of medgraft\.Adapter"),
    "a number": ("Plugin = 5", r"is 5, not a subclass of medgraft\.Adapter"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_listed_and_fails_only_when_it_is_asked_for(site, kind):
    source, reason = BROKEN[kind]
    install(site, "acme", {"acme_broken": "acme_broken:Plugin"}, {"acme_broken": source})
    assert "acme_broken" in plugins.discover("adapter")
    build_adapter("lora")
    with pytest.raises(PluginError, match=rf"'acme_broken' \(acme_broken:Plugin, from acme 0.1\).*{reason}"):
        build_adapter("acme_broken")


@pytest.mark.parametrize("target", ["acme_odd", "acme_odd:", ":Plugin", "acme_odd:Plugin:x", "a b", ""])
def test_an_entry_point_of_another_form_is_an_error_that_quotes_it(site, target):
    install(site, "acme", {"acme_odd": target}, {"acme_odd": GOOD.format(name="Plugin")})
    with pytest.raises(PluginError, match=rf"'acme_odd'.*{target}"):
        build_adapter("acme_odd")


def test_what_is_no_source_of_encoders_is_refused(site):
    install(site, "acme", {"acme_odd": "acme_odd:Source"}, {"acme_odd": "Source = 5"}, group="medgraft.encoders")
    with pytest.raises(PluginError, match=r"'acme_odd'.*is 5, not a source .* no models and no build\(\)"):
        build_encoder("acme_odd:any")


def test_an_encoder_source_that_builds_something_else_is_refused(site):
    body = "    api_version = 1\n    models = lambda: {'any': ''}\n    build = lambda model, weights: 5"
    source = f"class Source:\n{body}"
    install(site, "acme", {"acme_five": "acme_five:Source"}, {"acme_five": source}, group="medgraft.encoders")
    with pytest.raises(PluginError, match=r"'acme_five' built <class 'int'>, not a medgraft\.Encoder"):
        build_encoder("acme_five:any")


def test_an_interrupt_during_an_import_is_not_swallowed(site):
    install(site, "acme", {"acme_stop": "acme_stop:Plugin"}, {"acme_stop": "raise KeyboardInterrupt"})
    with pytest.raises(KeyboardInterrupt):
        plugins.load(plugins.find("adapter", "acme_stop"))


@pytest.mark.parametrize("source", ["raise RuntimeError", "Other = 1"], ids=["import fails", "object missing"])
def test_a_failure_is_not_remembered(site, source):
    install(site, "acme", {"acme_later": "acme_later:Plugin"}, {"acme_later": source})
    with pytest.raises(PluginError):
        build_adapter("acme_later")
    (site / "acme_later.py").write_text(GOOD.format(name="Plugin"))
    importlib.invalidate_caches()
    assert type(build_adapter("acme_later")).__name__ == "Plugin"


def test_what_a_failed_import_left_behind_is_forgotten(site):
    package = site / "acme_parts"
    package.mkdir()
    (package / "driver.py").write_text("READY = False")
    check = "from acme_parts import driver\nif not driver.READY:\n    raise RuntimeError('busy')\n"
    (package / "plugin.py").write_text(check + GOOD.format(name="Plugin"))
    (site / "acme_shared.py").write_text("")
    (package / "__init__.py").write_text("import acme_shared")
    install(site, "acme", {"acme_later": "acme_parts.plugin:Plugin"}, {})
    with pytest.raises(PluginError, match="busy"):
        build_adapter("acme_later")
    assert not [name for name in sys.modules if name.startswith("acme_parts")]
    assert "acme_shared" in sys.modules  # another package's: others may hold it already
    (package / "driver.py").write_text("READY = 'now it is'")
    assert type(build_adapter("acme_later")).__name__ == "Plugin"


def test_a_failure_leaves_modules_that_were_there_before(site):
    install(site, "acme", {"acme_torch": "torch.nn:Linear", "acme_none": "torch.nothing:Here"}, {})
    for name in ("acme_torch", "acme_none"):
        with pytest.raises(PluginError):
            build_adapter(name)
    assert sys.modules["torch"] is torch and sys.modules["torch.nn"] is torch.nn


TORN = {
    "no equals sign": b"[medgraft.adapters]\nacme_torn\n",
    "not a text": b"[medgraft.adapters]\nacme_torn = \xff:x\n",
}


@pytest.mark.parametrize("case", TORN)
def test_a_distribution_with_unreadable_entry_points_is_left_out_alone(acme, caplog, case):
    install(acme, "torn", {}, {}, "3.1")
    (acme / "torn-3.1.dist-info" / "entry_points.txt").write_bytes(TORN[case])
    with caplog.at_level(logging.WARNING, "medgraft.plugins"):
        known = plugins.discover("adapter")
    assert "acme_gain" in known and "lora" in known and "acme_torn" not in known
    (refused,) = plugins.survey("adapter").refused
    assert (refused.plugin.distribution, refused.plugin.version) == ("torn", "3.1")
    assert "entry points that cannot be read" in caplog.text and "torn 3.1" in caplog.text


def test_a_distribution_without_metadata_is_listed_as_unknown(site):
    install(site, "acme", {"acme_x": "acme_x:Plugin"}, {"acme_x": GOOD.format(name="Plugin")})
    (site / "acme-0.1.dist-info" / "METADATA").unlink()
    plugin = plugins.find("adapter", "acme_x")
    assert (plugin.distribution, plugin.version) == ("unknown", "unknown")


def test_metadata_that_is_no_utf8_takes_nothing_else_down(site):
    install(site, "acme", {"acme_x": "acme_x:Plugin"}, {"acme_x": GOOD.format(name="Plugin")})
    path = site / "acme-0.1.dist-info" / "METADATA"
    path.write_bytes(path.read_bytes() + b"Author: J\xf6rg\n")
    assert plugins.find("adapter", "acme_x").distribution == "unknown"
    assert plugins.find("adapter", "lora").builtin


# -- names ------------------------------------------------------------------------------------------------------------


def test_a_built_in_name_that_is_claimed_stays_ours_with_a_warning(site, caplog):
    install(site, "acme", {"lora": "acme_lora:Plugin"}, {"acme_lora": "raise RuntimeError"}, "7.8")
    with caplog.at_level(logging.WARNING, "medgraft.plugins"):
        assert type(build_adapter("lora")).__module__ == "medgraft.adapters.lora"
    assert "adapter 'lora' of acme 7.8 is ignored: medgraft has a built-in of that name" in caplog.text


def test_the_warning_comes_once(site, caplog):
    install(site, "acme", {"lora": "acme_lora:Plugin"}, {}, "7.9")
    with caplog.at_level(logging.WARNING, "medgraft.plugins"):
        plugins.discover("adapter")
        plugins.discover("adapter")
    assert caplog.text.count("acme 7.9") == 1


@pytest.mark.parametrize("name", ["a+b", "a:b", "a@b", "a,b", "a b", ".a", "-a"])
def test_a_name_that_cannot_be_asked_for_is_left_out_with_a_warning(site, caplog, name):
    install(site, "acme", {name: "acme_x:Plugin"}, {"acme_x": GOOD.format(name="Plugin")}, f"1.{ord(name[0])}")
    with caplog.at_level(logging.WARNING, "medgraft.plugins"):
        assert name not in plugins.discover("adapter")
    assert [refusal.plugin.name for refusal in plugins.survey("adapter").refused] == [name]


def test_a_name_that_one_distribution_declares_twice_is_its_first(site):
    install(site, "acme", {"gain": "acme_a:Plugin"}, {"acme_a": GOOD.format(name="Plugin")})
    table = site / "acme-0.1.dist-info" / "entry_points.txt"
    table.write_text(table.read_text() + "gain = acme_b:Plugin\n")
    assert plugins.find("adapter", "gain").target == "acme_a:Plugin"
    (refusal,) = plugins.survey("adapter").refused
    assert refusal.plugin.target == "acme_b:Plugin" and "first as acme_a:Plugin" in refusal.reason


def test_a_distributions_name_is_compared_as_indices_do(acme):
    assert plugins.find("adapter", "Acme_Graft:acme_gain") == plugins.find("adapter", "acme_gain")


def test_a_source_named_like_a_short_name_of_the_catalogue_is_hidden_with_a_warning(site, caplog):
    install(site, "acme", {"biomedclip": "acme_x:Source"}, {}, group="medgraft.encoders")
    with caplog.at_level(logging.WARNING, "medgraft.registry"):
        assert resolve_encoder("biomedclip").plugin.name == "open_clip"
    assert "encoder source 'biomedclip' of acme is hidden" in caplog.text


def two_with_one_name(site):
    for owner in ("acme", "bolt"):
        install(
            site, owner, {"gain": f"{owner}_gain:{owner.title()}"}, {f"{owner}_gain": GOOD.format(name=owner.title())}
        )


def test_two_distributions_with_one_name_are_listed_by_their_full_names(site):
    two_with_one_name(site)
    foreign = [name for name, plugin in plugins.discover("adapter").items() if not plugin.builtin]
    assert foreign == ["acme:gain", "bolt:gain"]


def test_the_bare_name_of_two_distributions_is_an_error_that_names_both(site):
    two_with_one_name(site)
    with pytest.raises(UnknownNameError, match="several distributions offer it: acme:gain, bolt:gain"):
        build_adapter("gain")


def test_the_full_name_chooses_one_of_two_distributions(site):
    two_with_one_name(site)
    assert [type(build_adapter(f"{owner}:gain")).__name__ for owner in ("acme", "bolt")] == ["Acme", "Bolt"]
    grafted = graft(tiny.shared("timm"), "bolt:gain")
    grafted.ungraft()
    assert list(grafted.adapters) == ["bolt:gain"]


def test_a_distribution_with_a_dot_in_its_name_can_be_grafted_and_stored(site, tmp_path):
    for owner in ("acme.labs", "bolt"):
        install(site, owner, {"gain": f"{owner[:4]}_gain:Plugin"}, {f"{owner[:4]}_gain": GOOD.format(name="Plugin")})
    grafted = graft(tiny.shared("timm"), "acme.labs:gain")
    grafted.save(tmp_path)
    grafted.load(tmp_path).ungraft()
    assert resolve_adapter("acme.labs:gain").full == "acme.labs:gain"


def test_an_unknown_name_suggests_a_foreign_one(acme):
    with pytest.raises(UnknownNameError, match="did you mean acme_gain"):
        build_adapter("acme_gian")


# -- switching them off -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["all", "acme_gain", "other, acme_gain", "acme-graft:acme_gain"])
def test_a_plugin_that_is_switched_off_is_not_there(acme, monkeypatch, value):
    monkeypatch.setenv(plugins.DISABLE_VARIABLE, value)
    assert "acme_gain" not in plugins.discover("adapter")
    with pytest.raises(UnknownNameError, match="MEDGRAFT_DISABLE_PLUGINS is set"):
        build_adapter("acme_gain")


@pytest.mark.parametrize("value", ["", "other", "all_of_them"])
def test_another_value_leaves_it_on(acme, monkeypatch, value):
    monkeypatch.setenv(plugins.DISABLE_VARIABLE, value)
    assert "acme_gain" in plugins.discover("adapter")


@pytest.mark.parametrize("value", ["all", "lora"])
def test_ours_cannot_be_switched_off(monkeypatch, value):
    monkeypatch.setenv(plugins.DISABLE_VARIABLE, value)
    assert "lora" in plugins.discover("adapter")


def test_switching_off_one_of_two_leaves_the_other_its_bare_name(site, monkeypatch):
    two_with_one_name(site)
    monkeypatch.setenv(plugins.DISABLE_VARIABLE, "acme:gain")
    assert plugins.find("adapter", "gain").distribution == "bolt"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("acme_gian", "unknown plugin in MEDGRAFT_DISABLE_PLUGINS 'acme_gian'; did you mean acme_gain"),
        ("acme_gain,other", "unknown plugin in MEDGRAFT_DISABLE_PLUGINS 'other'"),
        ("lora", "'lora' is built in, and only plugins of others can be left out"),
        ("medgraft:lora", "is built in"),
        ("all", ""),
        ("acme_gain, acme-graft:acme_mean", ""),
        ("", ""),
    ],
)
def test_a_command_refuses_to_switch_off_what_is_not_there(acme, monkeypatch, capsys, value, says):
    from medgraft.commands import console

    monkeypatch.setattr(console.logging, "basicConfig", lambda **options: None)
    monkeypatch.setenv(plugins.DISABLE_VARIABLE, value)
    if not says:
        with console.guarded():
            return
    with pytest.raises(SystemExit) as end, console.guarded():
        pytest.fail("the command ran")
    assert end.value.code == 2 and says in capsys.readouterr().err


# -- the command line -------------------------------------------------------------------------------------------------


def test_listing_imports_neither_a_plugin_nor_torch(site):
    install(site, "acme", {"acme_boom": "acme_boom:Plugin"}, {"acme_boom": "raise RuntimeError('imported')"})
    code = (
        "import sys; sys.argv = ['medgraft', 'ls', 'adapters']\n"
        "from medgraft.benchmarks.commands.main import main\n"
        "try:\n    main()\nfinally:\n"
        "    heavy = {'torch', 'peft', 'timm', 'transformers', 'monai', 'acme_boom', 'medgraft.adapters'}\n"
        "    print('imported:', sorted(heavy & set(sys.modules)))"
    )
    done = run(code, site)
    assert done.returncode == 0, done.stderr
    assert "acme_boom" in done.stdout and "ace_lora" in done.stdout
    assert "imported: []" in done.stdout


def test_describing_a_broken_plugin_is_one_sentence_and_exit_code_two(site):
    install(site, "acme", {"acme_bad": "acme_bad:Plugin"}, {"acme_bad": "raise RuntimeError('no driver')"})
    done = run(MEDGRAFT.format(args=["describe", "acme_bad"]), site)
    assert done.returncode == 2
    assert done.stderr.startswith("error: adapter 'acme_bad'") and "no driver" in done.stderr
    assert "Traceback" not in done.stderr


# --- whole or not -----------------------------------------------------------------------------------------------------

UNFINISHED = """
from medgraft import Adapter, AdapterConfig, Attachment
from medgraft.task import Task, TaskConfig, TaskData
from pydantic import BaseModel

class Whole(Adapter):
    def attach(self, encoder, sites):
        return Attachment(encoder)

class NoAttach(Adapter):
    pass

class PlainConfig(Whole):
    class Config(BaseModel):
        width: int = 1

class NoConfig(Whole):
    Config = None

class Read(Task):
    inputs, objective, cohort = ("image",), "multiclass", "acme"
    def load(self, root):
        return TaskData({}, [], [], {}, ())

class NoLoad(Task):
    inputs, objective, cohort = ("image",), "multiclass", "acme"

class NoCohort(Task):
    inputs, objective = ("image",), "multiclass"
    load = Read.load
"""


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("adapter", "Whole", ""),
        ("adapter", "NoAttach", r"has no attach\(\) of its own"),
        ("adapter", "PlainConfig", r"whose Config is no subclass of medgraft\.AdapterConfig"),
        ("adapter", "NoConfig", "whose Config is no subclass"),
        ("task", "Read", ""),
        ("task", "NoLoad", r"has no load\(\) of its own"),
        ("task", "NoCohort", "does not say its cohort"),
    ],
)
def test_what_is_not_whole_is_refused_when_it_is_loaded(tmp_path, monkeypatch, kind, name, says):
    (tmp_path / "acme_unfinished.py").write_text(UNFINISHED)
    monkeypatch.syspath_prepend(tmp_path)
    plugin = plugins.Plugin(kind, "acme", f"acme_unfinished:{name}", "acme", "1.0")
    if not says:
        assert plugins.load(plugin).__name__ == name
        return
    with pytest.raises(PluginError, match=says):
        plugins.load(plugin)
