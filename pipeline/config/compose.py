"""The config files: where they are, and the values that overrides compose of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pipeline.config.types import ConfigError

_PACKAGE = Path(__file__).parents[1]
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"


class ComposeError(ConfigError):
    """Hydra cannot compose a config; its text is the line that the command says."""

    def __init__(self, text: str) -> None:
        Exception.__init__(self, text)


def allow_tags(words: Sequence[str]) -> list[str]:
    """Let ``tracking.tags.<name>=`` name a tag that no file has; Hydra wants ``++`` before that."""
    return [f"++{word}" if word.startswith(("tracking.tags.", "tracking.tags=")) else word
            for word in words]  # fmt: skip


def compose_values(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the config of some overrides as plain containers, as a command composes it.

    Hydra's own state, which a notebook may use as well, is put back.

    Raises
    ------
    ConfigError
        If Hydra cannot compose it.
    """
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            config = compose("config", allow_tags(overrides))
            values = to_values(config)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ComposeError(explain_hydra(error)) from None
    return values


def to_values(config: DictConfig, *, whole: bool = True) -> dict[str, Any]:
    """Return a composed config as plain containers, interpolations resolved.

    What has to be given and was not is an error if it must be `whole`; else it stays ``???``.
    Without what an experiment adds as another name of a setting, such as ``verify.train``.
    """
    values: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=whole)
    return {key: value for key, value in values.items() if key not in _ALIASES}


_ALIASES = ("verify",)

# Settings of an earlier version, and what stands in their place.
_REPLACED = {
    "parity.permutations": "noise floors of permuted batches were replaced by two tests from equal "
    "states, which need no number (docs/parity.md)",
    "parity.forced": "each step is always made from equal states (docs/parity.md)",
}


def explain_hydra(error: BaseException) -> str:
    """Put Hydra's and OmegaConf's errors into one line: the key, the value, what is allowed."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        extra = {"ray": "ray", "optuna": "search"}.get(option)
        install = f"; pip install 'twingrad[{extra}]' brings {option}" if extra else ""
        return f"{group}={option}: must be one of {', '.join(sorted(error.options))}{install}"
    cause = error.__cause__
    replaced = _REPLACED.get(str(getattr(cause, "full_key", "")))
    if replaced is not None:
        return f"{getattr(cause, 'full_key', '')}: is gone; {replaced}"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}=???: must be given"
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.parent_node is not None:
        allowed = ", ".join(sorted(map(str, cause.parent_node)))
        if not allowed:
            return f"{cause.full_key}: unknown key; what it is below of is one value"
        return f"{cause.full_key}: unknown key; allowed here: {allowed}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read; put such a value in quotes: 'key=\"value\"'"
    return " ".join(str(error).split())
