"""One way of writing a run: two Specs that say the same become equal, as far as what follows can be filled in."""

from __future__ import annotations

from dataclasses import replace

from meshwright.emit.megatron import checkpoint_format
from meshwright.layout.length import decay_steps
from meshwright.layout.plan import Plan
from meshwright.spec import Cluster, Parallelism, Spec, Training

__all__ = ["canonical"]


def canonical(plan: Plan) -> Spec:
    """The Spec of ``plan`` with every value stated that follows from others: the length in steps alone."""
    spec = plan.spec
    megatron = replace(spec.backend.megatron, checkpoint_format=checkpoint_format(plan))
    return replace(
        spec,
        cluster=_cluster(spec.cluster),
        parallelism=_parallelism(spec.parallelism),
        training=_training(spec.training, plan),
        backend=replace(spec.backend, megatron=megatron),
        # a folder of the stage before, which is compared itself
        after=replace(spec.after, checkpoints="") if spec.after else None,
    )


def _cluster(cluster: Cluster) -> Cluster:
    """A reason for a variable is a comment."""
    return replace(
        cluster,
        nvlink_domain=cluster.nvlink_domain or cluster.gpus_per_node,
        pod=cluster.pod or cluster.gpus,
        environment={name: replace(variable, why="") for name, variable in cluster.environment.items()},
    )


def _parallelism(parallelism: Parallelism) -> Parallelism:
    """Megatron's defaults: groups of pp micro-batches, and the attention core is recomputed."""
    interleaved, selective = parallelism.vpp > 1, parallelism.recompute == "selective"
    group = parallelism.microbatch_group or parallelism.pp
    modules = tuple(sorted(parallelism.recompute_modules or ("core_attn",)))
    return replace(
        parallelism,
        microbatch_group=group if interleaved else parallelism.microbatch_group,
        recompute_modules=modules if selective else parallelism.recompute_modules,
    )


def _training(training: Training, plan: Plan) -> Training:
    decay = training.schedule.decay_steps if plan.steps is None else decay_steps(training, plan.batch.global_batch)
    return replace(
        training,
        microbatches=plan.batch.microbatches,
        steps=plan.steps,
        tokens=None,
        schedule=replace(training.schedule, decay_steps=decay),
    )
