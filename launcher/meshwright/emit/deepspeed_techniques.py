"""Keys of DeepSpeed's JSON that say more than a layout: what is offloaded and how, compiled, dispatched.

Names: DeepSpeed 0.19.8, below ``deepspeed/``.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from meshwright.layout.plan import Plan
from meshwright.spec import DeepSpeedOptions, Offload, Spec
from meshwright.spec.techniques import DeepCompile, Tiling, ZenFlow

__all__ = ["autotp", "checkpoint", "compiled", "dispatcher", "for_program", "offload", "offload_optimizer", "zenflow"]


def for_program(options: DeepSpeedOptions) -> dict[str, Any]:
    """What the JSON has no keys for, or what needs a call beside them."""
    tiling = {"tiling": asdict(options.tiling)} if options.tiling != Tiling() else {}
    compiled = {"compile": True} if options.deep_compile.enabled else {}
    return {**tiling, **compiled, **({"zenflow": True} if options.zenflow.topk else {})}


def offload(name: str, state: Offload, stage: int) -> dict[str, Any]:
    """The section ``name``, where the state leaves the GPU."""
    if state.device == "none":
        return {}
    section: dict[str, Any] = {"device": state.device, "pin_memory": state.pin_memory}
    if state.device == "nvme":
        section["nvme_path"] = state.nvme_path
    if name == "offload_optimizer" and stage == 3:
        section["ratio"] = state.ratio
    return {name: section}


def offload_optimizer(options: DeepSpeedOptions, stage: int) -> dict[str, Any]:
    """SuperOffload's keys stand among those of the optimizer that is offloaded (runtime/zero/offload_config.py:102)."""
    section = offload("offload_optimizer", options.offload_optimizer, stage)
    if options.super_offload and section:
        section["offload_optimizer"] |= {"super_offload": True, "cpuadam_cores_perc": options.super_offload_cores}
    return section


def zenflow(said: ZenFlow) -> dict[str, Any]:
    """With a strategy of its own, because "auto" counts the steps of a loader that our program does not have."""
    if said.topk is None:
        return {}
    return {
        "zenflow": {
            "topk_ratio": said.topk,
            "select_strategy": "step",
            "select_interval": said.select_interval,
            "update_interval": said.update_interval,
            "overlap_step": said.overlap,
            "full_warm_up_rounds": said.warmup,
        }
    }


def compiled(said: DeepCompile) -> dict[str, Any]:
    """Sections of DeepCompile (deepspeed/compile/config.py)."""
    key = {"none": None, "activations": "offload_activation", "optimizer": "offload_opt_states"}[said.offload]
    return {"compile": {"deepcompile": True, **({key: True} if key else {})}} if said.enabled else {}


def autotp(spec: Spec) -> dict[str, Any]:
    """Of the section tensor_parallel, beside its degree."""
    said = spec.backend.deepspeed.autotp
    cut = {} if said.vocabulary is None else {"vocab_parallel_lm_head": said.vocabulary}
    return {**cut, **({"tp_overlap_comm": True} if said.overlap else {})}


def checkpoint(spec: Spec) -> dict[str, Any]:
    """A writer other than torch's (runtime/model_checkpointing/config.py); what is read (runtime/engine.py:4428)."""
    said = spec.backend.deepspeed.checkpoint
    section: dict[str, Any] = {}
    if said.writer != "torch":
        decoupled = {"decoupled": True} if spec.training.logging.async_save else {}
        section["writer"] = {"type": said.writer, **decoupled}
    if said.node_local:
        section["use_node_local_storage"] = True
    if said.load_universal:
        section["load_universal"] = True
    return {"checkpoint": section} if section else {}


def dispatcher(plan: Plan) -> dict[str, Any]:
    """DeepEP's buffers take what one rank can route: a micro-batch's tokens (module_inject/auto_ep_config.py:263)."""
    options = plan.spec.backend.deepspeed
    if options.moe_dispatcher != "deepep":
        return {}
    most = plan.batch.micro_batch * plan.batch.sequence // plan.grid.cp
    said = {"comm_backend": "deepep", "comm_num_sm": options.moe_dispatcher_sms}
    return {**said, "comm_max_tokens_per_rank": most}
