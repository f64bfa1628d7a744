"""Flags passed through reach the keyword arguments, and Megatron's own code finds both ways of saying them equal."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

import meshwright
from builders import small_model, spec
from meshwright.emit.megatron_extra import overlaid
from meshwright.emit.megatron_kwargs import kwargs
from meshwright.resolver import override, resolve
from meshwright.spec import Spec
from meshwright.spec.model import Moe

EXPERTS = small_model(moe=Moe(experts=4, topk=2, ffn=256))

PASSED = [
    "--disable-bf16-reduced-precision-matmul",
    "--moe-paged-stash-page-size 128",
    "--moe-input-jitter-eps 0.01",
    "--no-bias-dropout-fusion",
    "--no-bias-swiglu-fusion",
    "--no-persist-layer-norm",
    "--apply-query-key-layer-scaling",
    "--moe-pad-experts-for-cuda-graph-inference",
    "--ddp-average-in-collective",
]


def extra(words: str) -> Spec:
    return override(spec(EXPERTS, 8), "backend.megatron.extra", tuple(words.split()))


def judged(*asked: str) -> list[str]:
    """What is wrong with each, by Megatron's own code; nothing where it passed."""
    pytest.importorskip("megatron.training")
    from meshwright.verify import megatron
    from meshwright.verify.pool import Crash, fork_map

    megatron.warm()
    checks = fork_map(megatron.parsed, [resolve(extra(words)) for words in asked])
    return [check.text if isinstance(check, Crash) else "" if check.passed else check.details for check in checks]


def test_what_is_passed_through_is_read_back_from_both() -> None:
    assert dict(zip(PASSED, judged(*PASSED), strict=True)) == dict.fromkeys(PASSED, "")


def test_a_head_whose_weight_gradients_wait_is_parsed_and_built() -> None:
    """As in Megatron-Bridge's recipes of Llama 3.1 405B; what is built on the meta device has no fused gradients."""
    pytest.importorskip("megatron.training")
    from meshwright.verify import megatron
    from meshwright.verify.pool import Crash, fork_map

    waits = ("--defer-embedding-wgrad-compute", "--wgrad-deferral-limit=22")
    one = override(spec(small_model(), 8, global_batch=16, pp=2), "backend.megatron.extra", waits)
    plan = resolve(override(one, "backend.megatron.gradient_accumulation_fusion", True))
    assert kwargs(plan)["TransformerConfig"]["defer_embedding_wgrad_compute"] is True
    megatron.warm()
    found = fork_map(megatron.check, [(name, plan) for name in megatron.CHECKS])
    assert [one for one in found if isinstance(one, Crash) or not one.passed] == []


def test_what_megatron_refuses_is_said_in_its_words() -> None:
    unknown, alone = judged("--no-such-flag", "--moe-hybridep-pad-uneven-dispatch-inputs --moe-enable-deepep")
    assert "unrecognized arguments: --no-such-flag" in unknown
    assert "DeepEP backend is only supported with flex token dispatcher" in alone


@pytest.mark.parametrize(
    ("words", "kind", "field", "value"),
    [
        ("--fp8-margin 1", "TransformerConfig", "fp8_margin", 1),
        ("--moe-input-jitter-eps=0.01", "TransformerConfig", "moe_input_jitter_eps", 0.01),
        ("--no-masked-softmax-fusion", "TransformerConfig", "masked_softmax_fusion", False),
        ("--check-for-large-grads", "DistributedDataParallelConfig", "check_for_large_grads", True),
        ("--min-loss-scale 2", "OptimizerConfig", "min_loss_scale", 2.0),
    ],
)
def test_the_keyword_arguments_have_it(words: str, kind: str, field: str, value: object) -> None:
    assert kwargs(resolve(extra(words)))[kind][field] == value


@pytest.mark.parametrize(("gated", "kept"), [(True, True), (False, False)])
def test_a_fusion_of_another_activation_is_left(gated: bool, kept: bool) -> None:
    """Megatron reads this flag only where the MLP is no SwiGLU (training/argument_utils.py)."""
    mlp = {"activation_func": "silu", "gated_linear_unit": gated, "bias_activation_fusion": True}
    made = overlaid({"TransformerConfig": mlp}, ("--no-bias-gelu-fusion",))
    assert made["TransformerConfig"]["bias_activation_fusion"] is kept


def test_nothing_passed_changes_nothing() -> None:
    made = {"TransformerConfig": {"num_layers": 2}}
    assert overlaid(made, ()) == made
    assert overlaid(made, ("--no-such-flag", "3")) == made
    assert overlaid(made, ("--kv-lora-rank", "3")) == made  # MLA's alone


def test_the_table_is_megatrons_own() -> None:
    pytest.importorskip("megatron.training")
    path = Path(__file__).parents[1] / "benchmarks" / "megatron_flags.py"
    module = importlib.util.spec_from_file_location("megatron_flags", path)
    assert module is not None
    assert module.loader is not None
    written = importlib.util.module_from_spec(module)
    module.loader.exec_module(written)
    data = Path(meshwright.__file__).parent / "data"
    assert written.table() == json.loads((data / "megatron_flags.json").read_text("utf-8"))
    assert written.arguments() == json.loads((data / "megatron_arguments.json").read_text("utf-8"))
