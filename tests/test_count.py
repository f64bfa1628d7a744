"""Exact parameters. The numbers are those of megatron-core's own GPTModel, built rank by rank on the meta device."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import LLAMA_405B, llama_405b, spec
from meshwright.loading import load
from meshwright.model.count import active_parameters, total_parameters
from meshwright.resolver import resolve
from meshwright.spec import PipelineSplit, Spec

LAYOUT = "Et*3|(tt|)*29m|L"


def model_spec(model: str, *overrides: str) -> Spec:
    return load([f"model={model}", "cluster=dgx_h100", *overrides]).stages[0]


def stages(candidate: Spec) -> list[tuple[int, int]]:
    return [(stage.parameters, stage.expert_parameters) for stage in resolve(candidate).stages]


@pytest.mark.parametrize("division", [PipelineSplit(embedding=True, loss=True), PipelineSplit(first=7, last=7)])
def test_llama_405b_first_middle_and_last_stage(division: PipelineSplit) -> None:
    base = llama_405b()
    counted = stages(replace(base, parallelism=replace(base.parallelism, pipeline_split=division)))
    assert counted == [(3_053_682_688, 0), *[(3_187_933_184, 0)] * 14, (3_053_699_072, 0)]


def test_chunks_do_not_change_what_a_stage_holds() -> None:
    base = llama_405b()
    assert stages(replace(base, parallelism=replace(base.parallelism, vpp=8))) == stages(base)


def test_fewer_key_value_heads_than_tp_copies_nothing() -> None:
    assert stages(spec(LLAMA_405B, 16384, 8192, 2048, tp=16, sp=True)) == [(25_371_295_744, 0)]


def test_tied_embeddings_are_held_twice_by_a_pipeline() -> None:
    layout = ("cluster.gpus=1536", "parallelism.tp=8", "parallelism.pp=8", "training.sequence=2048")
    counted = stages(model_spec("gpt3_175b", *layout, "training.global_batch=1536"))
    assert [counted[0], counted[1], counted[-1]] == [(2_822_731_776, 0), (2_718_922_752, 0), (2_797_590_528, 0)]


@pytest.mark.parametrize(
    ("etp", "expected"),
    [
        (1, [(1_642_921_984, 1_409_286_144), (1_577_385_984, 1_409_286_144), (1_642_926_080, 1_409_286_144)]),
        (2, [(938_278_912, 704_643_072), (872_742_912, 704_643_072), (938_283_008, 704_643_072)]),
    ],
)
def test_mixtral_experts_are_cut_over_etp_and_dealt_over_ep(etp: int, expected: list[tuple[int, int]]) -> None:
    layout = ("cluster.gpus=64", "parallelism.tp=2", "parallelism.sp=true", "parallelism.pp=4", "parallelism.ep=8")
    counted = stages(model_spec("mixtral_8x7b", *layout, f"parallelism.etp={etp}", "training.global_batch=256"))
    assert [counted[0], counted[1], counted[-1]] == expected


def deepseek_v3(*overrides: str) -> list[tuple[int, int]]:
    layout = ("cluster.gpus=2048", "parallelism.pp=16", "parallelism.ep=64", "training.global_batch=8192")
    return stages(model_spec("deepseek_v3", *layout, "training.sequence=4096", *overrides))


def test_deepseek_v3_first_four_last_one() -> None:
    division = ("parallelism.pipeline_split.first=4", "parallelism.pipeline_split.last=1", "model.mtp=0")
    counted = deepseek_v3(*division)
    assert counted[0] == (3_086_286_848, 176_160_768)
    assert counted[1] == (1_636_630_528, 704_643_072)
    assert counted[-1] == (1_335_843_840, 176_160_768)


def test_deepseek_v3_mtp_on_a_stage_of_its_own_copies_the_embedding() -> None:
    division = (f"parallelism.pipeline_split.layout='{LAYOUT}'", "parallelism.vpp=2", "model.mtp=1")
    counted = [count for count, _ in deepseek_v3(*division)]
    assert counted[0] == 3_495_444_480
    assert set(counted[1:13]) == {1_636_630_528}
    assert counted[13:] == [1_636_630_528 + 7_168, 2_256_933_888, 1_744_994_304]  # 7,168: the final norm


@pytest.mark.parametrize(
    ("model", "total"),
    [
        ("llama3_8b", 8_030_261_248),
        ("llama3_405b", 405_853_388_800),
        ("mixtral_8x7b", 46_702_792_704),
        ("deepseek_v3", 671_026_404_352),
        # Megatron's count is of a vocabulary of 51,200; GPT-3's own has 50,257 tokens
        ("gpt3_175b", 174_615_846_912 - (51_200 - 50_257) * 12_288),
    ],
)
def test_whole_models(model: str, total: int) -> None:
    assert total_parameters(model_spec(model, "cluster.gpus=8").model) == total


def test_a_token_of_deepseek_v3_passes_37_billion_parameters() -> None:
    active = active_parameters(model_spec("deepseek_v3", "cluster.gpus=8").model)
    assert active == pytest.approx(37.5e9, rel=0.01)  # DeepSeek-V3, abstract: 37B activated for each token
