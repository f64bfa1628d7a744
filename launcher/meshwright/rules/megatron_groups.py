"""How Megatron's groups are made, what its checkpoints hold, when its host collects garbage.

Places: megatron-core 0.19.2, below ``megatron/``.
"""

from __future__ import annotations

from meshwright.rules._megatron_option import off, option_rule, options_of
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import Layout, Number, Rule, implies

__all__ = ["GROUPS", "RULES", "distributed_format"]

GROUPS = (
    "cp",
    "dp",
    "dp_cp",
    "embd",
    "ep",
    "ep_dp",
    "ep_gtp_remat_dp",
    "ep_tp",
    "expt_gtp_remat",
    "gtp_remat",
    "gtp_remat_dp",
    "gtp_remat_dp_cp",
    "hcp",
    "inter_ep_dp",
    "intra_dist_opt_instance",
    "intra_dp_cp",
    "intra_ep_dp",
    "mp",
    "pos_embd",
    "pp",
    "tp",
    "tp_cp",
    "tp_dp",
    "tp_dp_cp",
    "tp_ep_gtp_remat_pp",
    "tp_ep_mp",
    "tp_ep_pp",
)
"""Names by which groups get options of NCCL's (core/parallel_state.py, ``get_nccl_options``)."""


def distributed_format(r: Layout) -> Number:
    """Whether checkpoints are torch_dist's, as emit.megatron.checkpoint_format chooses."""
    megatron = r.backend.megatron
    return megatron.checkpoint_format == "torch_dist" or (
        (megatron.checkpoint_format is None) & ((r.zero < 2) | (megatron.fsdp == "torch"))
    )


def _unknown(r: Layout) -> str:
    names = [name for name in options_of(r).groups.high_priority if name not in GROUPS]
    return f"there is no group {', '.join(names)}; there are {', '.join(GROUPS)}"


RULES: tuple[Rule, ...] = (
    option_rule(
        "high_priority",
        "groups.high_priority",
        lambda r: set(options_of(r).groups.high_priority) <= set(GROUPS),
        _unknown,
        "core/parallel_state.py:854, which ignores others",
        lambda r: (
            {
                "backend.megatron.groups.high_priority": tuple(
                    name for name in options_of(r).groups.high_priority if name in GROUPS
                )
            },
        ),
    ),
    option_rule(
        "sharp_replicas",
        "groups.sharp",
        lambda r: options_of(r).groups.sharp != "dp_replica" or r.spec.parallelism.optimizer_instances > 1,
        "switches sum over replicas of the optimizer where there are some (optimizer_instances > 1, it is "
        "{spec.parallelism.optimizer_instances})",
        "core/parallel_state.py:785",
        any_of(off("groups.sharp", "dp"), change(parallelism__optimizer_instances=2)),
    ),
    option_rule(
        "garbage",
        "garbage.evaluation",
        lambda r: options_of(r).garbage.evaluation or options_of(r).garbage.interval is not None,
        "validations are left out of collections that are asked for (garbage.interval)",
        "training/training.py:4013; ours: it would be lost",
        any_of(off("garbage.evaluation", True), off("garbage.interval", 0)),
    ),
    option_rule(
        "parallel_load",
        "checkpoint_parallel_load",
        lambda r: implies(options_of(r).checkpoint_parallel_load, distributed_format(r)),
        "replicas share the reading of torch_dist checkpoints alone",
        "training/checkpointing.py:1580; of other formats ours: it would be lost",
        any_of(off("checkpoint_parallel_load"), off("checkpoint_format", "torch_dist")),
    ),
    option_rule(
        "reshardable",
        "checkpoint_reshardable",
        lambda r: implies(options_of(r).checkpoint_reshardable, distributed_format(r) & (r.zero == 1)),
        "only a sharded optimizer (zero = 1, it is {zero}) in a torch_dist checkpoint is saved for other layouts",
        "training/checkpointing.py:498; ours: it would be lost",
        any_of(off("checkpoint_reshardable"), change(parallelism__zero=1)),
    ),
)
