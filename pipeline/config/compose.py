"""The config files: where they are, and the values that overrides compose of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pipeline.config.types import ConfigError

_PACKAGE = Path(__file__).parents[1]
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"


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
            config = compose("config", list(overrides))
            values: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(str(error.full_key), "???", "must be given") from None
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError("overrides", " ".join(overrides), reason) from error
    return dict(values)
