"""What each of NVIDIA's performance recipes sets in its ConfigContainer, key by key: ``tests/bridge_containers.json``.

    python benchmarks/bridge_containers.py CLONE

CLONE is a git folder of NVIDIA-NeMo/Megatron-Bridge that holds ``COMMIT``. The recipe functions are executed, with
Bridge's own configuration classes; what they would download or what needs a GPU is a stand-in (the model's provider
records what is set and answers with Megatron-core's defaults). Then Bridge's own ``mixed_precision`` and
``comm_overlap`` are applied, as its training does before it builds a model.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import logging
import re
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

COMMIT = "067f987df"
TARGET = Path(__file__).parent.parent / "tests" / "bridge_containers.json"
FAMILIES = {
    "deepseek": ("deepseek_v3",),
    "gpt_oss": ("gpt_oss",),
    "kimi": ("kimi_k2",),
    "llama": ("llama3", "llama31"),
    "nemotronh": ("nemotronh",),
    "qwen": ("qwen3_moe",),
}
GPUS = ("h100", "b200", "b300", "gb200", "gb300", "r100")
SECTIONS = ("train", "optimizer", "scheduler", "ddp", "rng", "dist")
_NAME = re.compile(r"(?P<model>[a-z].*)_pretrain_(?P<count>\d+)gpu_(?P<gpu>[a-z]+\d+)_(?P<kind>\w+)_config")

Values = dict[str, Any]


def main(clone: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "-C", clone, "archive", COMMIT, "src"], check=True, capture_output=True).stdout
        subprocess.run(["tar", "x", "-C", folder], input=archive, check=True)
        _stand_in(Path(folder) / "src" / "megatron" / "bridge")
        found = {name: _values(function, int(m["count"])) for name, m, function in _functions()}
    shared = {model: _shared([v for n, v in found.items() if _model(n) == model]) for model in {*map(_model, found)}}
    own = {n: {k: v for k, v in values.items() if k not in shared[_model(n)]} for n, values in found.items()}
    lines = [f" {json.dumps(n)}: {json.dumps(own[n], sort_keys=True)}" for n in sorted(own)]
    models = [f" {json.dumps(n)}: {json.dumps(shared[n], sort_keys=True)}" for n in sorted(shared)]
    text = '{{"commit": "{}", "models": {{\n{}\n}}, "functions": {{\n{}\n}}}}\n'
    TARGET.write_text(text.format(COMMIT, ",\n".join(models), ",\n".join(lines)), "utf-8")
    print(f"{TARGET}: {len(own)} functions")


def _model(name: str) -> str:
    return name.partition("_pretrain_")[0]


def _shared(every: list[Values]) -> Values:
    """What all of a model's functions set alike."""
    first, *others = every
    return {k: v for k, v in first.items() if all(k in other and other[k] == v for other in others)}


def _functions() -> list[tuple[str, re.Match[str], Any]]:
    """Those that a module defines for its GPU, or that are another GPU's under its name."""
    root = "megatron.bridge.perf_recipes"
    places = [(gpu, f"{root}.{name}.{gpu}", file) for name, files in FAMILIES.items() for gpu in GPUS for file in files]
    found = [(gpu, f"{package}.{file}") for gpu, package, file in places if _is_there(package, file)]
    every = [(gpu, name, f) for gpu, module in found for name, f in vars(importlib.import_module(module)).items()]
    return [(name, m, f) for gpu, name, f in every if (m := _NAME.fullmatch(name)) and m["gpu"] == gpu]


def _is_there(package: str, file: str) -> bool:
    try:
        return importlib.util.find_spec(f"{package}.{file}") is not None
    except ModuleNotFoundError:
        return False


def _values(function: Any, world: int) -> Values:
    config = function()
    _apply(config, world)
    set_in_model = {f"model.{k}": v for k, v in vars(config.model).items()}
    sections = {
        f"{section}.{field.name}": getattr(part, field.name)
        for section in SECTIONS
        if dataclasses.is_dataclass(part := getattr(config, section))
        for field in dataclasses.fields(part)
    }
    rest = {"dataset.seq_length": config.dataset.seq_length, "validation.eval_iters": config.validation.eval_iters}
    environment = {f"env.{k}": str(v) for k, v in (config.env_vars or {}).items()}
    every = {**set_in_model, **sections, **rest, **environment}
    return {k: made for k, v in every.items() if (made := _plain(v)) is not Ellipsis}


def _apply(config: Any, world: int) -> None:
    """As training/config.py does before the model is built."""
    precision = importlib.import_module("megatron.bridge.training.mixed_precision")
    if isinstance(config.mixed_precision, str):
        config.mixed_precision = precision.get_mixed_precision_config(config.mixed_precision)
    if config.mixed_precision.fp8_param is None:
        config.mixed_precision.fp8_param = config.mixed_precision.fp8_param_gather
    config.mixed_precision.setup(config.model, config.optimizer, config.ddp)
    if config.comm_overlap is not None:
        model = config.model
        dense = model.tensor_model_parallel_size * model.pipeline_model_parallel_size * model.context_parallel_size
        config.comm_overlap.finalize()
        config.comm_overlap.data_parallel_size = world // dense
        config.comm_overlap.setup(model, config.optimizer, config.ddp)
    if config.ddp.use_megatron_fsdp:
        config._validate_and_apply_megatron_fsdp_configs()
    sys.modules[type(config).__module__]._validate_and_sync_distributed_optimizer_settings(config)


def _plain(value: Any) -> Any:
    """As JSON has it: a function by its name, another object by its class; Ellipsis for a list that holds objects."""
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, list | tuple):
        made = [_plain(item) for item in value]
        return Ellipsis if Ellipsis in made else made
    if isinstance(value, types.FunctionType):
        return value.__name__
    return str(value).removeprefix("torch.") if type(value).__name__ == "dtype" else type(value).__name__


class _Package(types.ModuleType):
    """A package whose __init__ is not run: it would import all of Bridge."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return importlib.import_module(f"{self.__name__}.{name}") if name.islower() else type(name, (), {})


class _Nothing(types.ModuleType):
    """Stands in for a module of models or adapters: each name in it is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(
            self, name, _Provider if name.endswith("Provider") else type(name, (), {"__new__": lambda *_, **__: None})
        )
        return vars(self)[name]


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, *_: Any) -> Any:
        away = name.startswith(("megatron.bridge.models.", "megatron.bridge.peft."))
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if away else None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Nothing(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__path__ = []


class _Provider:
    """Records what is set; what is not has Megatron-core's default."""

    vocab_size = None
    num_moe_experts, add_bias_linear = 2, False  # of every model whose all-to-all is overlapped
    gradient_accumulation_fusion = True  # where APEX is, as in NVIDIA's containers (models/gpt_provider.py:206)

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)

    def __getattr__(self, name: str) -> Any:
        from megatron.core.transformer import MLATransformerConfig as Config

        if name in ("finalize", "__post_init__") or name not in Config.__dataclass_fields__:
            raise AttributeError(name)
        return getattr(Config, name, None)


class _Bridge:
    @classmethod
    def from_hf_pretrained(cls, *_: Any, **__: Any) -> _Bridge:
        return cls()

    from_hf_config = from_hf_pretrained

    def to_megatron_provider(self, **_: Any) -> _Provider:
        return _Provider()

    get_model_config = to_megatron_provider


def _stand_in(source: Path) -> None:
    import megatron.core

    logging.disable(logging.WARNING)
    for name in ("", ".models", ".recipes", ".training", ".data", ".peft", ".utils", ".perf_recipes"):
        module = _Package(f"megatron.bridge{name}")
        module.__path__ = [str(source / name.strip("."))]
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None, is_package=True)
        sys.modules[module.__name__] = module
    megatron.bridge = sys.modules["megatron.bridge"]  # type: ignore[attr-defined]
    megatron.bridge.AutoBridge = _Bridge  # type: ignore[attr-defined]
    sys.meta_path.insert(0, _Finder())
    overlap = importlib.import_module("megatron.bridge.training.comm_overlap")
    overlap.HAVE_TE = True
    overlap.is_te_min_version = lambda *_: True


if __name__ == "__main__":
    main(sys.argv[1])
