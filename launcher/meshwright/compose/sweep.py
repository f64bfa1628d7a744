"""``-m``: the points of a Hydra sweep, in the order Hydra's own sweeper runs them."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.compose.words import folders, problem_of
from meshwright.errors import ConfigError

__all__ = ["expand"]


def expand(overrides: Sequence[str], config_dir: str | None = None) -> list[list[str]]:
    """Every combination of ``key=a,b``, ``range()``, ``choice()`` and ``glob()``, as override lists."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra._internal.utils import create_config_search_path
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    search_path = create_config_search_path("pkg://meshwright.conf")
    for folder in folders(config_dir)[1:]:
        search_path.append("command-line", f"file://{folder.absolute()}")
    try:
        parser = OverridesParser.create(config_loader=ConfigLoaderImpl(search_path))
        batches = BasicSweeper.split_arguments(parser.parse_overrides(list(overrides)), max_batch_size=None)
    except (HydraException, ValueError) as error:  # ValueError: range(1,2,0)
        raise ConfigError([problem_of(error)]) from None
    return [list(point) for batch in batches for point in batch]
