"""Every entry of data/architectures says what transformers' own default configuration of it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from meshwright.emit.huggingface import config
from meshwright.errors import ConfigError
from meshwright.model.architecture_table import ARCHITECTURES
from meshwright.model.count import total_parameters
from meshwright.model.huggingface import read
from meshwright.spec.decode import decode
from meshwright.spec.model import Model
from samples import sample

INCOMPLETE = {"deepseek_v2", "dots1"}  # the class's own defaults leave the experts null
# transformers' defaults have no key/value heads, no kinds of layers, no channels of a head
UNBUILDABLE = {"nemotron", "lfm2_moe", "hunyuan_v1_moe", "hunyuan_v1_dense"}


def default(model_type: str, folder: Path) -> Path:
    """What transformers writes for a configuration nobody touched."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    file = folder / f"{model_type}.json"
    CONFIG_MAPPING[model_type]().to_json_file(file, use_diff=False)
    return file


def counts(model_type: str, folder: Path) -> tuple[int, int, int]:
    """(ours, transformers' of its own file, transformers' of the file that we write back)."""
    from meshwright.verify.transformers import count

    file = default(model_type, folder)
    model = decode(Model, read(file))
    settings: dict[str, Any] = json.loads(file.read_text(), object_hook=number)
    return total_parameters(model), count(settings), count(config(model))


def number(found: dict[str, Any]) -> Any:
    """Transformers writes infinity as ``{"__float__": "Infinity"}``."""
    return float(found["__float__"]) if "__float__" in found else found


NAMES = sorted(set(ARCHITECTURES) - INCOMPLETE - UNBUILDABLE)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(sample(NAMES, 36), id="some"),
        pytest.param(NAMES, id="all", marks=pytest.mark.slow(reason="each is built on meta twice")),
    ],
)
def test_each_default_is_read_counted_and_written_back(names: list[str], tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from meshwright.verify.pool import Crash, fork_map
    from meshwright.verify.transformers import warm

    warm()
    found = dict(zip(names, fork_map(lambda name: counts(name, tmp_path), names), strict=True))
    assert {name: three for name, three in found.items() if isinstance(three, Crash) or len(set(three)) > 1} == {}


@pytest.mark.parametrize("model_type", sorted(INCOMPLETE))
def test_a_null_that_the_model_needs_is_said(model_type: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ConfigError, match="num_experts_per_tok is null, and the model needs a value"):
        read(default(model_type, tmp_path))


@pytest.mark.parametrize("name", [name for name, known in ARCHITECTURES.items() if known.autotp])
def test_autotp_follows_a_plan_where_transformers_has_one(name: str) -> None:
    """Without one it cuts no words (deepspeed/runtime/engine.py:1095)."""
    from transformers import CONFIG_MAPPING

    assert ARCHITECTURES[name].tp_plan == bool(CONFIG_MAPPING[name].base_model_tp_plan)
