"""The config groups: closed, complete, commented, and models as large as their publications say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from meshwright.compose import CONF, Options, compose
from meshwright.loading import load
from meshwright.model.count import active_parameters, total_parameters
from meshwright.spec import Spec

OPTIONS = [
    (path.parent.name, path.stem)
    for path in sorted(CONF.glob("*/*.yaml"))
    if path.parent.name != "recipe" and not path.stem.startswith("_")
]
ASKS = [("model", "hf"), ("parallelism", "auto")]  # a folder to read, and a batch to search with
FILES = [path for path in sorted(CONF.rglob("*.yaml")) if path.parent.name != "recipe"]


@pytest.mark.parametrize(("group", "option"), [o for o in OPTIONS if o not in ASKS])
def test_every_option_decodes(group: str, option: str) -> None:
    (spec,) = load([f"{group}={option}"]).stages
    named = getattr(getattr(spec, group), "name", option)
    assert named == option


def test_every_key_of_a_spec_stands_in_the_configuration() -> None:
    composed = compose(["model=llama3_8b"])
    null = ("model.moe.", "model.mla.", "model.rope.scaling.", "after")  # a model has them or not; after is derived
    stands = [path for path in [*paths(Spec), *paths(Options)] if not path.startswith(null)]
    assert not [path for path in stands if not present(composed, path)]


def paths(cls: Any, above: str = "") -> Iterator[str]:
    hints = get_type_hints(cls)
    for field in fields(cls):
        path, hint = f"{above}{field.name}", hints[field.name]
        inner = next((a for a in get_args(hint) if get_origin(hint) is UnionType and is_dataclass(a)), hint)
        yield path
        if is_dataclass(inner):
            yield from paths(inner, f"{path}.")


def present(data: Any, path: str) -> bool:
    for key in path.split("."):
        if not isinstance(data, dict) or key not in data:
            return False
        data = data[key]
    return True


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_comment_stands_above_every_key(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    assert lines[0].startswith("# ")
    uncommented = [
        line
        for before, line in pairwise(lines)
        if re.match(r"\s*[a-z]\w*:", line) and not line.startswith("defaults:") and not before.lstrip().startswith("#")
    ]
    if path.name == "config.yaml":  # Hydra's own block has one comment for all of it
        uncommented = uncommented[: next((i for i, line in enumerate(uncommented) if "output_subdir" in line), None)]
    assert not uncommented


def test_a_number_from_outside_has_its_source() -> None:
    for path in [*CONF.glob("model/*.yaml"), *CONF.glob("cluster/*.yaml")]:
        if not path.stem.startswith("_") and path.stem not in ("hf", "tiny", "yi_lightning"):
            assert "Source" in path.read_text("utf-8"), path.name


PUBLISHED = {
    # exact counts of the checkpoints on the Hugging Face hub, or of the publication where it prints them
    "llama3_8b": 8_030_261_248,
    "llama3_70b": 70_553_706_496,
    "llama3_405b": 405_853_388_800,
    "gemma2_2b": 2_614_341_888,
    "gemma2_9b": 9_241_705_984,
    "gemma2_27b": 27_227_128_320,
    "yi_6b": 6_061_035_520,
    "yi_34b": 34_388_917_248,
    "olmo_7b": 6_888_095_744,
    "bloom_176b": 176_247_271_424,
    "bloom_7b1": 7_069_016_064,
    "gpt_neox_20b": 20_554_567_680,
    "mixtral_8x7b": 46_702_792_704,
    "qwen3_30b_a3b": 30_532_122_624,
    "qwen3_235b_a22b": 235_093_634_560,
    "apertus_8b": 8_053_338_176,
    "smollm3_3b": 3_075_098_624,
    "olmo2_7b": 7_298_617_344,
    "olmoe_1b_7b": 6_919_161_856,
    "pythia_12b": 11_846_072_320,
}


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_models_have_the_parameters_of_their_publication(name: str, parameters: int) -> None:
    (spec,) = load([f"model={name}"]).stages
    assert total_parameters(spec.model) == parameters


@pytest.mark.parametrize(
    ("name", "billions"), [("deepseek_v3", 37), ("mixtral_8x7b", 13), ("deepseek_v2", 21), ("qwen2_57b_a14b", 14)]
)
def test_active_parameters_are_the_publication_s(name: str, billions: int) -> None:
    (spec,) = load([f"model={name}"]).stages
    assert active_parameters(spec.model) == pytest.approx(billions * 1e9, rel=0.03)
