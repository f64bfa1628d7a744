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

from meshwright.compose import CONF, Options, compose, run_of
from meshwright.library import files as library
from meshwright.model.count import active_parameters, total_parameters
from meshwright.spec import Spec
from samples import sample

OPTIONS = [
    (path.parent.name, path.stem)
    for path in sorted(CONF.glob("*/*.yaml"))
    if path.parent.name != "recipe" and not path.stem.startswith("_")
]
ASKS = [("model", "hf"), ("parallelism", "auto")]  # a folder to read, and a batch to search with
FILES = [path for path in sorted(CONF.rglob("*.yaml")) if path.parent.name != "recipe"]


def with_option(group: str, option: str) -> dict[str, Any]:
    """What Hydra composes for ``group=option``, without Hydra, which takes a tenth of a second."""
    return {**compose(), group: library.option(group, option)}


def described(group: str, option: str) -> Spec:
    """The only stage of a run with that option."""
    (spec,) = run_of(with_option(group, option), [f"{group}={option}"]).stages
    return spec


@pytest.mark.parametrize(("group", "option"), sample(OPTIONS, 25))
def test_hydra_composes_an_option_as_its_files_say(group: str, option: str) -> None:
    assert compose([f"{group}={option}"]) == with_option(group, option)


@pytest.mark.slow  # Hydra takes a tenth of a second each
@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_hydra_composes_every_option_as_its_files_say(group: str, option: str) -> None:
    assert compose([f"{group}={option}"]) == with_option(group, option)


@pytest.mark.parametrize(("group", "option"), [o for o in OPTIONS if o not in ASKS])
def test_every_option_decodes(group: str, option: str) -> None:
    spec = described(group, option)
    named = getattr(getattr(spec, group), "name", option)
    assert named == option


def test_every_key_of_a_spec_stands_in_the_configuration() -> None:
    composed = compose(["model=llama3_8b"])
    parts = tuple(
        f"model.{part}."
        for part in ("moe", "mla", "indexer", "delta_net", "mamba", "short_convolution", "multipliers", "rope.scaling")
    )
    null = (*parts, "model.measured", "after")  # there or not; derived
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
    "gpt_oss_20b": 20_914_757_184,
    "gpt_oss_120b": 116_829_156_672,
    "llama4_scout_109b": 107_769_861_120,
    "granite3_3_8b": 8_170_864_640,
    "command_r_35b": 34_980_831_232,
    "apertus_8b": 8_053_338_176,
    "smollm3_3b": 3_075_098_624,
    "olmo2_7b": 7_298_617_344,
    "olmoe_1b_7b": 6_919_161_856,
    "pythia_12b": 11_846_072_320,
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
    "llama3_2_1b": 1_235_814_400,
    "llama3_2_3b": 3_212_749_824,
    "tinyllama_1_1b": 1_100_048_384,
    "codellama_34b": 33_743_970_304,
    "mistral_7b": 7_248_023_552,
    "mistral_nemo_12b": 12_247_782_400,
    "mistral_small_24b": 23_572_403_200,
    "mistral_large_123b": 122_610_069_504,
    "ministral_8b": 8_019_808_256,
    "qwen2_5_0_5b": 494_032_768,
    "qwen2_5_1_5b": 1_543_714_304,
    "qwen2_5_3b": 3_085_938_688,
    "qwen2_5_7b": 7_615_616_512,
    "qwen2_5_14b": 14_770_033_664,
    "qwen2_5_32b": 32_763_876_352,
    "qwen2_5_72b": 72_706_203_648,
    "qwen3_0_6b": 596_049_920,
    "qwen3_1_7b": 1_720_574_976,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "qwen3_14b": 14_768_307_200,
    "qwen3_32b": 32_762_123_264,
    "qwen1_5_moe_a2_7b": 14_315_784_192,
    "gemma_2b": 2_506_172_416,
    "gemma_7b": 8_537_680_896,
    "gemma3_1b": 999_885_952,
    "phi3_mini_3_8b": 3_821_079_552,
    "phi4_14b": 14_659_507_200,
    "glm4_9b": 9_400_279_040,
    "deepseek_v2_lite": 15_706_484_224,
    "seed_oss_36b": 36_151_104_512,
    "starcoder2_3b": 3_030_371_328,
    "starcoder2_7b": 7_173_923_840,
    "starcoder2_15b": 15_957_889_024,
    "stablelm_3b": 2_795_443_200,
    "stablelm2_1_6b": 1_644_515_328,
    "ernie4_5_0_3b": 360_748_032,
    "smollm2_360m": 361_821_120,
    "falcon_7b": 6_921_720_704,
    "gpt2": 124_439_808,
    "gpt2_medium": 354_823_168,
    "gpt2_large": 774_030_080,
    "gpt2_xl": 1_557_611_200,
    "olmo2_1b": 1_484_916_736,
    "olmo_1b": 1_176_764_416,
}


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_models_have_the_parameters_of_their_publication(name: str, parameters: int) -> None:
    assert total_parameters(described("model", name).model) == parameters


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        *(("deepseek_v3", 37), ("mixtral_8x7b", 13), ("deepseek_v2", 21), ("qwen2_57b_a14b", 14)),
        *(("nemotron_3_super_120b_a12b", 12.7), ("nemotron_3_ultra_550b_a55b", 55)),
    ],
)
def test_active_parameters_are_the_publication_s(name: str, billions: float) -> None:
    assert active_parameters(described("model", name).model) == pytest.approx(billions * 1e9, rel=0.03)
