"""What pyproject.toml says of the compiled codec."""

import tomllib
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]


def hook_settings() -> dict[str, Any]:  # Any: TOML's values
    """The settings of scripts/hatch_build.py."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    hook: dict[str, Any] = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"][
        "custom"
    ]
    return hook


def module_files() -> list[str]:
    """The files that are compiled, as paths below the root."""
    return list(hook_settings()["modules"])


def module_names() -> list[str]:
    """The same as names to import."""
    return [file.removesuffix(".py").replace("/", ".") for file in module_files()]
