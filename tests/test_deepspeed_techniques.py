"""DeepSpeed's techniques: what is emitted and read back, and what they cost and bring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from meshwright.cost import cost
from meshwright.cost.brought import brought
from meshwright.cost.techniques import of_backend, used
from meshwright.emit.deepspeed import config, program
from meshwright.errors import ConfigError
from meshwright.imports.deepspeed import of_json
from meshwright.imports.documents import Leaves, json_leaves
from meshwright.layout.plan import Plan
from meshwright.loading import load
from meshwright.resolver import override, resolve
from meshwright.rules.deepspeed_techniques import TILED_MLPS
from meshwright.search.techniques import bundles
from meshwright.spec.software import Software

D = "backend.deepspeed."
LONG = (
    *("model=llama3_8b", "cluster=dgx_h100", "cluster.gpus=8", "backend=deepspeed", "parallelism=zero3"),
    *("parallelism.cp=8", "training.sequence=131072", "training.global_batch=1", "model.max_positions=131072"),
)
HOST = (
    *("model=llama2_7b", "cluster=dgx_a100_80gb", "cluster.gpus=4", "backend=deepspeed", "parallelism=zero3"),
    *("training.sequence=2048", "training.global_batch=4", f"{D}offload_optimizer.device=cpu"),
)
EXPERTS = (
    *("model=qwen3_30b_a3b", "cluster=dgx_h100", "cluster.gpus=32", "backend=deepspeed", "parallelism=zero1"),
    *("parallelism.ep=32", "training.sequence=4096", "training.global_batch=256"),
)


def planned(*words: str) -> Plan:
    return resolve(load(list(words)).stages[0])


def test_pieces_free_logits_and_mlps_and_take_their_time_again() -> None:
    plain = cost(planned(*LONG))
    loss = cost(planned(*LONG, f"{D}tiling.loss=16"))
    both = cost(planned(*LONG, f"{D}tiling.loss=16", f"{D}tiling.mlp=4"))
    assert loss.stages[0].logits < 0.2 * plain.stages[0].logits
    assert loss.stages[0].activations == plain.stages[0].activations
    assert both.stages[0].activations < 0.6 * plain.stages[0].activations
    assert plain.step_time < loss.step_time < both.step_time < 1.4 * plain.step_time


def test_our_program_is_told_of_pieces() -> None:
    assert "tiling" not in program(planned(*LONG))
    assert program(planned(*LONG, f"{D}tiling.loss=16"))["tiling"] == {"loss": 16, "mlp": 1}


def test_zenflow_stalls_less_than_offload_and_the_gpu_holds_what_it_steps() -> None:
    plain, flow = (cost(planned(*HOST, *more)) for more in ((), (f"{D}zenflow.topk=0.1",)))
    waits = cost(planned(*HOST, f"{D}zenflow.topk=0.1", f"{D}zenflow.overlap=false"))
    assert flow.step.offload < waits.step.offload < plain.step.offload
    assert 0 < flow.stages[0].optimizer - plain.stages[0].optimizer < 0.2 * 6.8e9 * 12 / 4


def test_offload_idles_as_long_as_zenflows_authors_saw() -> None:
    """Llama 2 7B on four A100: more than 60 % of a step idle (arXiv:2505.12242, figure 2)."""
    step = cost(planned(*HOST)).step
    assert step.offload / step.total > 0.5


def test_superoffload_hides_the_step_behind_the_backward() -> None:
    words = [word.replace("dgx_a100_80gb", "alps_gh200") for word in HOST]
    on, unclipped = f"{D}super_offload=true", "training.optimizer.clip=0"
    plain, hidden, clipped = (cost(planned(*words, *more)) for more in ((), (on, unclipped), (on,)))
    assert 0 < hidden.step.offload < plain.step.offload < clipped.step.offload  # on fewer cores
    assert any("taken back, which takes the CPU" in note for note in hidden.notes)
    assert any("clip=0 lets it step beside" in note for note in clipped.notes)
    groups = cost(planned(*words, on, unclipped, f"{D}sub_group_size=100_000_000"))
    assert groups.step.offload <= hidden.step.offload
    alone = cost(planned(*words, on, f"{D}sub_group_size=10_000_000_000"))
    assert any("only sub-group" in note for note in alone.notes)
    assert not any("only sub-group" in note for note in groups.notes)
    section = config(planned(*words, f"{D}super_offload=true"))["zero_optimization"]["offload_optimizer"]
    assert section["super_offload"] is True
    assert section["cpuadam_cores_perc"] == 0.8


def test_deepep_sends_a_token_to_a_node_once() -> None:
    plain = planned(*EXPERTS)
    newer = override(plain.spec, "software", Software(components={"nccl": "2.30.4", "deep_ep": "2.0"}))
    once = resolve(override(newer, f"{D}moe_dispatcher", "deepep"))
    assert cost(once).step.expert < cost(plain).step.expert
    section = config(once)["expert_parallel"]
    assert (section["comm_backend"], section["comm_num_sm"]) == ("deepep", 12)
    assert section["comm_max_tokens_per_rank"] == 4096 * once.batch.micro_batch


def test_deepep_needs_an_nccl_that_pip_does_not_bring() -> None:
    with pytest.raises(ConfigError, match=r"NCCL 2\.30\.4"):
        planned(*EXPERTS, f"{D}moe_dispatcher=deepep")


def test_deepcompile_is_emitted_and_said_not_to_have_run() -> None:
    plan = planned(*HOST[:-1], f"{D}deep_compile.enabled=true", f"{D}deep_compile.offload=activations")
    assert config(plan)["compile"] == {"deepcompile": True, "offload_activation": True}
    assert program(plan)["compile"] is True
    predicted = cost(plan)
    assert any(f"at most the {predicted.step.data:.3g} s" in note for note in predicted.notes)


def test_muon_keeps_one_momentum_of_matrices_and_stages_it_below_stage_3() -> None:
    words = (*HOST[:-1], "training.optimizer.name=muon")
    adam, third = (cost(planned(*HOST[:-1], *more)).stages[0].optimizer for more in ((), words[-1:]))
    second = cost(planned(*words, "parallelism.zero=2")).stages[0].optimizer
    assert 0.66 < third / adam < 0.7  # 4 + 4 of 4 + 8 bytes, and Adam's for embeddings and head
    assert second == pytest.approx(adam)
    assert config(planned(*words))["zero_optimization"]["reduce_scatter"] is False
    assert config(planned(*words))["optimizer"]["params"]["momentum"] == 0.9
    with pytest.raises(ConfigError, match="whole matrices"):
        planned(*words, "parallelism.tp=2")


def test_muon_at_stage_1_takes_no_experts_whose_weights_are_one_tensor() -> None:
    words = (*EXPERTS, "parallelism.ep=1", "training.optimizer.name=muon")
    with pytest.raises(ConfigError, match="three dimensions"):
        planned(*words)
    assert any("Muon's orthogonalization" in note for note in cost(planned(*words, "parallelism.zero=2")).notes)


def test_what_is_on_is_said_to_bring_something_and_search_tries_the_rest() -> None:
    spec = planned(*HOST, f"{D}zenflow.topk=0.1").spec
    assert {one.name for one in used(spec)} == {"host_optimizer", "zenflow"}
    assert any(said.startswith("zenflow saves") for said in brought(spec))
    found = bundles(planned(*LONG).spec, of_backend("deepspeed"))
    assert {f"{D}tiling.loss": 4} in found
    assert all(key.startswith(D) for change in found for key in change)


def test_the_json_is_read_back() -> None:
    plan = planned(*HOST, f"{D}zenflow.topk=0.1", f"{D}zenflow.update_interval=8")
    values = of_json(leaves(config(plan))).values
    assert (values[f"{D}zenflow.topk"], values[f"{D}zenflow.update_interval"]) == (0.1, 8)
    assert values[f"{D}zenflow.overlap"] is True
    muon = of_json(leaves(config(planned(*HOST[:-1], "training.optimizer.name=muon")))).values
    assert (muon["training.optimizer.name"], muon["training.optimizer.momentum"]) == ("muon", 0.9)


def leaves(section: dict[str, Any]) -> Leaves:
    return json_leaves(json.dumps(section), "ds_config.json")[0]


@pytest.mark.parametrize("kind", TILED_MLPS)
def test_an_mlp_that_is_tiled_takes_the_hidden_states_alone(kind: str) -> None:
    import transformers

    text = (Path(transformers.__file__).parent / "models" / kind / f"modeling_{kind}.py").read_text("utf-8")
    heads = [part.split("def forward(")[1].split(")")[0] for part in text.split("\nclass ") if "MLP(" in part[:60]]
    assert heads
    assert all(head.count(",") == 1 for head in heads)
