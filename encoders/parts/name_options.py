"""Options behind a model's name, ``llama,bits=4`` or ``hcp,windows=8``, so that a command line can give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from medgraft.errors import UnknownNameError
from medgraft.options import Options, as_text, checked, from_text
from medgraft.sources import Source, check_weights

Config = TypeVar("Config", bound=Options)


class OptionsInName(Source):
    """Base of sources whose models' names hold options.

    Attributes:
        Config: The options.
    """

    hub_ids = True
    Config: ClassVar[type[Options]]

    @classmethod
    def with_options(cls, model: str, options: Mapping[str, Any]) -> str:
        """The name of a model with options in it, in place of those that it holds.

        Raises:
            ConfigError: One does not exist or is out of range.

        Example:
            >>> from medgraft.encoders.causal_lm import CausalLmSource
            >>> CausalLmSource.with_options("gpt2,bits=8", {"bits": 4})
            'gpt2,bits=4'
        """
        model, texts = parse(model)
        values = _values(cls.Config, texts) | dict(options)
        checked(cls.Config, values, f"options of {cls.name}")
        return ",".join([model, *(f"{name}={as_text(value)}" for name, value in values.items())])


class ListedModels(OptionsInName):
    """Base of such sources that have a list of models.

    Attributes:
        listed: The models, by name.
    """

    listed: ClassVar[Mapping[str, Any]]

    @classmethod
    def check(cls, model: str, weights: str) -> None:
        """Raises for a model that there is not, options that cannot be read, and weights that are nowhere."""
        cls.parsed(model, {})
        check_weights(f"{cls.name}:{model}", weights)

    @classmethod
    def parsed(cls, model: str, options: Mapping[str, Any]) -> tuple[str, Any]:
        """The model of a name, and the options (:attr:`Config`) of the name and of those that are given in their place.

        Raises:
            UnknownNameError: There is no such model.
            ConfigError: An option does not exist or is out of range.
        """
        base, texts = parse(model)
        if base not in cls.listed:
            raise UnknownNameError(f"{cls.name} encoder", base, cls.listed)
        return base, values_of(cls.Config, texts, options, f"options of {cls.name}")


def parse(model: str) -> tuple[str, dict[str, str]]:
    """Model and options of a name.

    Example:
        >>> parse("meta-llama/Llama-3.2-1B,bits=4,library=torchao")
        ('meta-llama/Llama-3.2-1B', {'bits': '4', 'library': 'torchao'})
    """
    parts, options = model.split(","), {}
    while len(parts) > 1 and "=" in parts[-1]:
        name, _, value = parts.pop().partition("=")
        options[name.strip()] = value.strip()
    return ",".join(parts), dict(reversed(options.items()))


def values_of(config: type[Config], texts: Mapping[str, str], options: Mapping[str, Any], what: str) -> Config:
    """The options of a name, and those that are given in their place.

    Args:
        config: What they must be.
        texts: As :func:`parse` found them.
        options: Values.
        what: Whose they are, for the error.

    Raises:
        ConfigError: One does not exist or is out of range.
    """
    return checked(config, _values(config, texts) | dict(options), what)


def _values(config: type[Options], texts: Mapping[str, str]) -> dict[str, Any]:
    fields = config.model_fields
    return {name: from_text(fields[name].annotation, text) if name in fields else text for name, text in texts.items()}
