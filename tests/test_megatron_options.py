"""Megatron's options beside techniques: prediction layers, balancing, groups, checkpoints; what ``extra`` carries."""

from __future__ import annotations

from typing import Any

import pytest

from builders import small_model, spec
from meshwright.cost import cost
from meshwright.emit.bridge import container
from meshwright.emit.megatron import flags
from meshwright.emit.megatron_groups import prioritised
from meshwright.emit.megatron_kwargs import kwargs
from meshwright.imports.bridge import of_bridge
from meshwright.imports.found import Given, Place
from meshwright.imports.megatron import of_flags
from meshwright.layout.plan import Plan
from meshwright.resolver import layout, override, refusals, resolve
from meshwright.rules.host import save_bytes
from meshwright.spec import Spec
from meshwright.spec.model import Moe

B = "backend.megatron."
MOE = Moe(experts=8, topk=2, ffn=64)
AHEAD = small_model(mtp=2)


def asked(model: Any = None, /, **changes: Any) -> Spec:
    made = spec(model or small_model(), 8, global_batch=16)
    for path, value in changes.items():
        made = override(made, path.replace("__", "."), value)
    return made


def judged(*specs: Spec) -> list[str]:
    """What Megatron's own code finds wrong with each."""
    pytest.importorskip("megatron.training")
    from meshwright.verify import megatron
    from meshwright.verify.pool import Crash, fork_map

    megatron.warm()
    found = fork_map(megatron.check, [(name, resolve(one)) for one in specs for name in megatron.CHECKS])
    crashed = [one.text for one in found if isinstance(one, Crash)]
    return crashed + [one.details for one in found if not isinstance(one, Crash) and not one.passed]


def read(plan: Plan) -> dict[str, Any]:
    """What an import makes of the plan's own command line."""
    words = [(word, Place("args.txt", number)) for number, word in enumerate(flags(plan), 1)]
    return dict(of_flags(words, "args", plan.grid.world).values)


REPEATED = asked(AHEAD, model__mtp_repeated=True, model__mtp_detached=True)
QUANTILE = asked(
    small_model(moe=MOE),
    parallelism__ep=2,
    model__moe__balancing="quantile_balancing",
    model__moe__quantile_ema=0.5,
    model__moe__score="sqrtsoftplus",
)
GLOBAL = asked(small_model(moe=MOE), model__moe__balancing="global_aux_loss", model__moe__aux_loss=0.01)


def test_megatron_builds_and_reads_back_each_of_them() -> None:
    split = override(override(REPEATED, "parallelism.pp", 2), "parallelism.zero", 1)
    assert judged(REPEATED, split, QUANTILE, GLOBAL) == []


@pytest.mark.parametrize("one", [REPEATED, QUANTILE, GLOBAL])
def test_a_command_line_with_them_is_read_back(one: Spec) -> None:
    values, model = read(resolve(one)), one.model
    assert values["model.mtp"] == model.mtp
    if model.mtp:
        assert (values["model.mtp_repeated"], values["model.mtp_detached"]) == (True, True)
    if model.moe:
        names = ("balancing", "quantile_ema", "score")
        assert [values[f"model.moe.{name}"] for name in names] == [getattr(model.moe, name) for name in names]


def test_a_repeated_layer_has_its_weights_once_and_works_as_often() -> None:
    once, two = resolve(REPEATED), resolve(asked(AHEAD))
    one = resolve(asked(small_model(mtp=1)))
    assert once.stages[0].parameters == one.stages[0].parameters < two.stages[0].parameters
    costs = [cost(plan) for plan in (one, once, two)]
    assert costs[0].stages[0].weights == costs[1].stages[0].weights < costs[2].stages[0].weights
    assert costs[0].step.compute < costs[1].step.compute == costs[2].step.compute
    assert costs[1].stages[0].activations == costs[2].stages[0].activations


@pytest.mark.parametrize("name", ["mtp_repeated", "mtp_detached"])
@pytest.mark.parametrize("backend", ["megatron", "deepspeed"])
def test_prediction_layers_that_are_not_there_are_neither_repeated_nor_detached(name: str, backend: str) -> None:
    found = refusals(asked(**{f"model.{name}": True}), backend)
    assert [problem.path for problem in found if problem.rule == "value.mtp"] == [f"model.{name}"]


BROKEN: dict[str, dict[str, Any]] = {
    "megatron.quantile": {"model.moe.balancing": "quantile_balancing", "model.moe.aux_loss": 0.01},
    "megatron.quantile_ema": {"model.moe.quantile_ema": 0.5},
    "megatron.sqrtsoftplus": {
        "model.moe.score": "sqrtsoftplus",
        "model.moe.router_bias": True,
        "model.moe.bias_on": "logits",
    },
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_router_that_megatron_lacks_is_refused_with_a_repair(rule: str) -> None:
    (problem,) = refusals(asked(small_model(moe=MOE), **BROKEN[rule]), "megatron")
    assert problem.rule == rule
    assert problem.repairs


def test_deepspeed_has_no_quantiles() -> None:
    found = refusals(override(QUANTILE, "backend.name", "deepspeed"), "deepspeed")
    assert {"deepspeed.architecture"} <= {problem.rule for problem in found}


def test_keyword_arguments_wait_as_long_as_the_command_line() -> None:
    """Megatron's function waits 30 minutes by default, its command line 10."""
    groups = kwargs(resolve(asked()))["initialize_model_parallel"]
    assert groups["distributed_timeout_minutes"] == 10
    longer = kwargs(resolve(asked(**{f"{B}groups.timeout_minutes": 45})))["initialize_model_parallel"]
    assert longer["distributed_timeout_minutes"] == 45


def test_groups_that_megatron_prioritises_by_itself_stand_in_the_keyword_arguments() -> None:
    torch = asked(parallelism__zero=3, **{f"{B}fsdp": "torch"})
    assert prioritised(resolve(torch)) == ("dp_cp",)
    assert kwargs(resolve(torch))["initialize_model_parallel"]["high_priority_stream_groups"] == ["dp_cp"]
    assert prioritised(resolve(asked(**{f"{B}groups.high_priority": ("ep",)}))) == ("ep",)
    assert judged(torch) == []


def test_switches_that_sum_save_half_of_an_all_reduce() -> None:
    wide = {"cluster.gpus": 64, "training.global_batch": 64}
    plain, summed = (cost(resolve(asked(**wide, **{f"{B}groups.sharp": how}))) for how in ("none", "dp"))
    assert summed.traffic.data.size == plain.traffic.data.size / 2
    assert summed.step.data < plain.step.data


def test_states_gathered_to_be_resharded_take_host_memory() -> None:
    bound, free = (
        float(save_bytes(layout(resolve(asked(parallelism__zero=1, **{f"{B}checkpoint_reshardable": on})).spec)))
        for on in (False, True)
    )
    parameters = resolve(asked()).total_parameters
    assert free - bound == 8 * 12 * parameters  # eight ranks, masters and both moments in fp32


def test_transposes_that_stay_take_a_byte_of_every_weight() -> None:
    sharded = {
        "parallelism.zero": 3,
        "training.precision": "fp8_tensorwise",
        f"{B}quantization.param_gather": True,
    }
    bare, kept = (
        cost(resolve(asked(**sharded, **{f"{B}megatron_fsdp.transpose_cache": on}))).stages[0].weights
        for on in (False, True)
    )
    plan = resolve(asked(**sharded))
    ends = (2 * plan.padded_vocab + 1) * plan.spec.model.hidden  # which stay in 16 bits
    assert kept - bare == plan.stages[0].parameters - ends


SUMMED: dict[str, dict[str, Any]] = {
    "a step's sums": {
        "model.qk_norm": "head",
        f"{B}experimental": True,
        f"{B}per_token_loss": True,
        f"{B}bucket": 134_217_728,
        f"{B}decay_qk_norms": True,
        f"{B}garbage.interval": 100,
        f"{B}garbage.evaluation": False,
    },
    "collections around validations": {f"{B}garbage.interval": 0},
    "delayed scales": {
        "training.precision": "fp8_delayed",
        f"{B}quantization.amax_history": 1024,
        f"{B}quantization.amax": "max",
    },
    "units of Megatron-FSDP": {
        "parallelism.zero": 3,
        f"{B}megatron_fsdp.meta_device": True,
        f"{B}megatron_fsdp.unit_size": 800_000_000,
    },
    "copies behind graphs": {
        "model.moe": MOE,
        f"{B}activation_offload.modules": ("expert_fc1",),
        f"{B}activation_offload.min_elements": 0,
        f"{B}activation_offload.delayed": True,
        f"{B}cuda_graphs.kind": "transformer_engine",
        f"{B}cuda_graphs.modules": ("attn",),
        f"{B}cuda_graphs.warmup": 1,
    },
}


@pytest.mark.parametrize("name", SUMMED)
def test_what_a_step_sums_and_collects_is_read_back(name: str) -> None:
    values = read(resolve(asked(**SUMMED[name])))
    assert {path: values[path] for path in SUMMED[name] if path.startswith(B)} == {
        path: list(value) if isinstance(value, tuple) else value
        for path, value in SUMMED[name].items()
        if path.startswith(B)
    }


@pytest.mark.parametrize("name", ["a step's sums", "collections around validations", "delayed scales"])
def test_megatron_bridges_file_says_it_and_is_read_back(name: str) -> None:
    written = container(resolve(asked(parallelism__zero=1, training__steps=50, **SUMMED[name]), "bridge"))
    leaves = {
        f"{part}.{key}": Given(f"{part}.{key}", value, Place("config.yaml", 1))
        for part, values in written.items()
        if isinstance(values, dict)
        for key, value in values.items()
    }
    values = of_bridge(leaves).values
    assert {path: values[path] for path in SUMMED[name] if path.startswith(B)} == {
        path: value for path, value in SUMMED[name].items() if path.startswith(B)
    }


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--ddp-bucket-size 8", "nothing is reduced in buckets"),
        ("--suggested-communication-unit-size 8", "Megatron-FSDP is off"),
        ("--cuda-graph-warmup-steps 8", "there are no graphs"),
        ("--fp8-amax-history-len 8", "no scale is delayed"),
        ("--manual-gc-interval 8", "manual_gc is off"),
        ("--delay-offload-until-cuda-graph", "nothing is offloaded beside graphs of layers"),
    ],
)
def test_an_argument_that_nothing_reads_is_named_with_the_reason(words: str, reason: str) -> None:
    size = "--num-layers 2 --hidden-size 64 --num-attention-heads 4 --seq-length 64 --micro-batch-size 1 --bf16"
    line = [(word, Place("args.txt", 1)) for word in f"{size} {words}".split()]
    found = [one for one in of_flags(line, "args", 8).found if one.key == words.split()[0]]
    assert [(one.fate, one.reason) for one in found] == [("dropped", reason)]


def test_the_former_word_for_decay_of_norms_is_read() -> None:
    words = ["--qk-layernorm", "--no-weight-decay-cond-type", "apply_wd_to_qk_layernorm"]
    source = of_flags([(word, Place("args.txt", 1)) for word in words], "args", 8)
    assert source.values[f"{B}decay_qk_norms"] is True


def test_keyword_arguments_carry_what_a_step_sums() -> None:
    made = kwargs(resolve(asked(parallelism__zero=1, **SUMMED["a step's sums"])))
    assert made["TransformerConfig"]["calculate_per_token_loss"] is True
    assert made["DistributedDataParallelConfig"]["bucket_size"] == 134_217_728
    assert made["OptimizerConfig"]["apply_wd_to_qk_layernorm"] is True


LEFT = [
    "--distributed-timeout-seconds-after-init 60",
    "--ckpt-fully-parallel-load-exchange-algo gather_rounds",
    "--lion-beta1 0.9",
    "--moe-pad-experts-for-cuda-graph-inference",
    "--ddp-average-in-collective",
    "--fp8-margin 1",
    "--flight-recorder-trace-buffer-size 4000",
]
"""What stays to be passed through, and is nobody's key."""


def test_what_is_left_to_extra_is_carried_by_flags_and_keyword_arguments() -> None:
    specs = [asked(small_model(moe=MOE), **{f"{B}extra": tuple(one.split())}) for one in LEFT]
    assert judged(*specs) == []
    padded = specs[LEFT.index("--moe-pad-experts-for-cuda-graph-inference")]
    assert kwargs(resolve(padded))["TransformerConfig"]["moe_pad_experts_for_cuda_graph_inference"] is True


@pytest.mark.parametrize("words", ["--perform-rl-step", "--rl-partial-rollouts", "--grpo-iterations 2"])
def test_reinforcement_learning_is_refused_with_a_reason(words: str) -> None:
    (problem,) = refusals(asked(**{f"{B}extra": tuple(words.split())}), "megatron")
    assert problem.rule == "megatron.reinforcement"
    assert "rewards" in problem.message
