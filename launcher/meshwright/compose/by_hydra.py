"""Hydra composes: the search for options, the defaults list, the merging and the overrides are its own functions.

``hydra.compose`` composes Hydra's settings with ours (logging, launcher, sweeper, help) and first looks through every
plugin for them. Nothing here reads them, and they are half of the time: where no word asks for them, Hydra's loader is
asked for our configuration alone. Both ways call the same functions, and a test holds them to the same result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meshwright.compose.quick_yaml import quick_yaml

__all__ = ["configuration"]

PACKAGE = "meshwright.conf"
VERSION_BASE = "1.3"
PRIMARY = "config"


def configuration(words: Sequence[str], folders: Sequence[Path]) -> Any:
    """The configuration that ``words`` describe, a DictConfig; options lie in ``folders``, the first one ours.

    Raises:
        HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError: what they complain of.

    """
    hydras = any(word.lstrip("+~").startswith(("hydra.", "hydra/")) for word in words)
    with _undisturbed(), quick_yaml():
        return _with_its_settings(words, folders) if hydras else _ours_alone(words, folders)


def _with_its_settings(words: Sequence[str], folders: Sequence[Path]) -> Any:
    from hydra import compose, initialize_config_module

    quoted = [str(folder.absolute()).replace("'", r"\'") for folder in folders[1:]]
    search = [f"hydra.searchpath=['file://{folder}']" for folder in quoted]
    with initialize_config_module(PACKAGE, version_base=VERSION_BASE):
        return compose(PRIMARY, [*search, *words])


def _ours_alone(words: Sequence[str], folders: Sequence[Path]) -> Any:
    from hydra import version
    from hydra._internal.defaults_list import create_defaults_list
    from omegaconf import OmegaConf, open_dict

    version.setbase(VERSION_BASE)
    loader = _loader(folders)
    overrides, files = loader._parse_overrides_and_create_caching_repo(PRIMARY, list(words))
    _refuse_sweeps(loader, overrides)
    listed = create_defaults_list(files, PRIMARY, overrides, prepend_hydra=False, skip_missing=False)
    config = loader._compose_config_from_defaults_list(listed.defaults, files)
    OmegaConf.set_struct(config, True)
    loader._apply_overrides_to_config(listed.config_overrides, config)
    with open_dict(config):
        config.pop("hydra")  # what help and --cfg hydra show
    return config


def _refuse_sweeps(loader: Any, overrides: Any) -> None:
    from hydra.types import RunMode

    loader.validate_sweep_overrides_legal(overrides, RunMode.RUN, from_shell=False)


def _loader(folders: Sequence[Path]) -> Any:
    """Hydra's loader of the options in ``folders``; only sources of files are known to it."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
    from hydra._internal.core_plugins.file_config_source import FileConfigSource
    from hydra._internal.core_plugins.structured_config_source import StructuredConfigSource
    from hydra._internal.sources_registry import SourcesRegistry

    for source in (FileConfigSource, StructuredConfigSource):
        SourcesRegistry.instance().register(source)
    path = ConfigSearchPathImpl()
    for folder in folders:
        path.append("main", f"file://{folder.absolute()}")
    path.append("schema", "structured://")
    return ConfigLoaderImpl(path)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A Hydra of our own: the program that calls us may have one under way, of which there can be only one."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.singleton import Singleton
    from hydra.version import VersionBase

    theirs = {kind: Singleton._instances.pop(kind, None) for kind in (GlobalHydra, VersionBase)}
    try:
        yield
    finally:
        for kind, instance in theirs.items():
            Singleton._instances.pop(kind, None)
            Singleton._instances |= {} if instance is None else {kind: instance}
