"""What Megatron's parsed arguments must hold for a plan, said a second time on purpose: that is the proof.

Nothing here is taken from the emitters.
"""

from __future__ import annotations

from typing import Any

from meshwright.layout.plan import Plan
from meshwright.verify.megatron_expected_model import of_model
from meshwright.verify.megatron_expected_techniques import expected_techniques

__all__ = ["expected"]


def expected(plan: Plan) -> dict[str, Any]:
    """Values by the name of the argument: layout, sharding, model, training."""
    return {
        **_degrees(plan),
        **_sharding(plan),
        **of_model(plan),
        **_training(plan),
        **expected_techniques(plan),
        **_evaluation(plan),
        **_resiliency(plan),
    }


def _resiliency(plan: Plan) -> dict[str, Any]:
    """Under ft_launcher alone."""
    asked = plan.spec.launch.resiliency
    if asked.launcher == "torchrun":
        return {}
    return {"enable_ft_package": True, "calc_ft_timeouts": asked.learn_timeouts}


def _evaluation(plan: Plan) -> dict[str, Any]:
    """In the validation loop a batch is the training's, after any ramp."""
    asked = plan.spec.training.evaluation
    if asked.interval is None and not asked.at_end:
        return {}
    often = {"eval_interval": asked.interval} if asked.interval else {}
    return {**often, "eval_iters": asked.steps, "eval_global_batch_size": plan.batch.global_batch}


def _degrees(plan: Plan) -> dict[str, Any]:
    grid, p = plan.grid, plan.spec.parallelism
    return {
        "world_size": grid.world,
        "tensor_model_parallel_size": grid.tp,
        "pipeline_model_parallel_size": grid.pp,
        "virtual_pipeline_model_parallel_size": p.vpp if p.vpp > 1 else None,
        "context_parallel_size": grid.cp,
        "hierarchical_context_parallel_sizes": list(p.cp_levels) or None,
        "tensor_parallel_num_weight_shards": grid.tp * grid.gtp,
        "gtp_weight_remat_size": grid.gtp,
        "expert_gtp_weight_remat_size": grid.egtp,
        "data_parallel_size": grid.dp,
        "sequence_parallel": p.sp,
        "expert_model_parallel_size": grid.ep,
        "expert_tensor_parallel_size": grid.etp if plan.spec.model.moe else grid.tp,
        "use_tp_pp_dp_mapping": p.order == "tp-cp-ep-pp-dp",
    }


def _sharding(plan: Plan) -> dict[str, Any]:
    """FSDP of one kind or the other realises ZeRO 2 and 3; Megatron's own keeps its distributed optimizer on."""
    p, kind = plan.spec.parallelism, plan.spec.backend.megatron.fsdp
    dealt = plan.spec.training.optimizer.name in ("muon", "lion", "soap")  # whose states go out layer by layer
    return {
        "use_layer_wise_distributed_optimizer": dealt and p.zero >= 1,
        "num_distributed_optimizer_instances": p.optimizer_instances,
        "use_distributed_optimizer": not dealt and (p.zero == 1 or (p.zero >= 2 and kind == "megatron")),
        "use_megatron_fsdp": p.zero >= 2 and kind == "megatron",
        "use_torch_fsdp2": p.zero >= 2 and kind == "torch",
        "recompute_granularity": None if p.recompute == "none" else p.recompute,
        "recompute_method": p.recompute_method,
        "recompute_num_layers": p.recompute_layers,
    }


def _training(plan: Plan) -> dict[str, Any]:
    """A ramp ends at the global batch, of which Megatron is told by its schedule."""
    training, optimizer = plan.spec.training, plan.spec.training.optimizer
    values: dict[str, Any] = {
        "seq_length": training.sequence,
        "micro_batch_size": training.micro_batch,
        "bf16": training.precision not in ("fp16", "fp32"),
        "fp16": training.precision == "fp16",
        "lr": optimizer.lr,
        "weight_decay": optimizer.weight_decay,
        "clip_grad": optimizer.clip,
        "qk_clip": optimizer.qk_clip is not None,
        "qk_clip_threshold": 100 if optimizer.qk_clip is None else optimizer.qk_clip,
        "seed": training.seed,
    }
    if not training.ramp:
        values["global_batch_size"] = plan.batch.global_batch
    if optimizer.name in ("adam", "adamw"):
        values |= {"adam_beta1": optimizer.beta1, "adam_beta2": optimizer.beta2, "adam_eps": optimizer.eps}
    return values
