"""Megatron-FSDP's buffers, what gradients are summed in, and the precision of what the sharded optimizer keeps.

Places: megatron-core 0.19.2, below ``megatron/``.
"""

from __future__ import annotations

from meshwright.rules._megatron_option import by_megatron_fsdp, off, option_rule, options_of
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import Layout, Rule, implies

__all__ = ["RULES"]


def _pools(r: Layout) -> bool:
    fsdp = options_of(r).megatron_fsdp
    return fsdp.pooled_buffers or fsdp.persistent_fallback


RULES: tuple[Rule, ...] = (
    option_rule(
        "symmetric_buffers",
        "megatron_fsdp.symmetric_buffers",
        lambda r: options_of(r).megatron_fsdp.symmetric_buffers or options_of(r).megatron_fsdp.nccl_buffers,
        "buffers are registered otherwise where they are registered: nccl_buffers is off",
        "training/arguments.py:3014",
        any_of(off("megatron_fsdp.symmetric_buffers", True), off("megatron_fsdp.nccl_buffers", True)),
    ),
    option_rule(
        "pooled_buffers",
        "megatron_fsdp.double_buffer",
        lambda r: options_of(r).megatron_fsdp.double_buffer or not _pools(r),
        "pooled_buffers and persistent_fallback are ways of double_buffer, which is off",
        "training/arguments.py:1157, :3550",
        any_of(
            off("megatron_fsdp.double_buffer", True),
            change(
                backend__megatron__megatron_fsdp__pooled_buffers=False,
                backend__megatron__megatron_fsdp__persistent_fallback=False,
            ),
        ),
    ),
    option_rule(
        "double_buffer",
        "megatron_fsdp.double_buffer",
        lambda r: implies(options_of(r).megatron_fsdp.double_buffer, by_megatron_fsdp(r, 2)),
        "Megatron-FSDP buffers twice, which realises zero = 2 and 3 (zero = {zero}, fsdp={backend.megatron.fsdp})",
        "training/arguments.py:1129; below it ours: it would be lost",
        any_of(
            change(
                backend__megatron__megatron_fsdp__double_buffer=False,
                backend__megatron__megatron_fsdp__nccl_buffers=False,
            ),
            change(parallelism__zero=3),
        ),
    ),
    option_rule(
        "nccl_buffers",
        "megatron_fsdp.nccl_buffers",
        lambda r: not options_of(r).megatron_fsdp.nccl_buffers or options_of(r).megatron_fsdp.double_buffer,
        "what NCCL registers are the double buffers (double_buffer=true)",
        "training/arguments.py:1149 turns them on",
        any_of(off("megatron_fsdp.double_buffer", True), off("megatron_fsdp.nccl_buffers")),
    ),
    option_rule(
        "transpose_cache",
        "megatron_fsdp.transpose_cache",
        lambda r: implies(
            options_of(r).megatron_fsdp.transpose_cache,
            by_megatron_fsdp(r, 2)
            & (options_of(r).quantization.param_gather and r.training.precision in ("fp8_tensorwise", "fp8_delayed")),
        ),
        "Megatron-FSDP (zero = 2 or 3, it is {zero}) keeps transposes of weights that are gathered in 8 bits "
        "(quantization.param_gather=true) with one scale each (fp8_tensorwise, fp8_delayed), not {training.precision}",
        "core/distributed/fsdp/src/megatron_fsdp/megatron_fsdp.py:625; ours: it would be lost",
        any_of(off("megatron_fsdp.transpose_cache"), off("quantization.param_gather", True)),
    ),
    option_rule(
        "outer_optimizer",
        "megatron_fsdp.outer_optimizer",
        lambda r: implies(
            options_of(r).megatron_fsdp.outer_optimizer,
            by_megatron_fsdp(r, 3) & (r.spec.parallelism.optimizer_instances > 1),
        ),
        "replicas share optimizer states where there are some (optimizer_instances > 1, it is "
        "{spec.parallelism.optimizer_instances}) and Megatron-FSDP shards everything (zero = 3, it is {zero})",
        "training/arguments.py:3026; core/distributed/fsdp/src/megatron_fsdp/fully_shard.py:347",
        any_of(off("megatron_fsdp.outer_optimizer"), change(parallelism__zero=3, parallelism__optimizer_instances=2)),
    ),
    option_rule(
        "meta_device",
        "megatron_fsdp.meta_device",
        lambda r: implies(options_of(r).megatron_fsdp.meta_device, by_megatron_fsdp(r, 2)),
        "Megatron-FSDP draws weights where it shards them (zero = 2 or 3, it is {zero}, fsdp={backend.megatron.fsdp}); "
        "elsewhere they would be what the memory holds",
        "training/training.py:1826 (to_empty_if_meta_device); training/arguments.py:1160",
        any_of(off("megatron_fsdp.meta_device"), change(parallelism__zero=3)),
    ),
    option_rule(
        "unit_size",
        "megatron_fsdp.unit_size",
        lambda r: implies(options_of(r).megatron_fsdp.unit_size is not None, by_megatron_fsdp(r, 2)),
        "Megatron-FSDP communicates in units, which realises zero = 2 and 3 (zero = {zero}, "
        "fsdp={backend.megatron.fsdp})",
        "core/distributed/fsdp/src/megatron_fsdp/megatron_fsdp.py:420; ours: it would be lost",
        any_of(off("megatron_fsdp.unit_size", None), change(parallelism__zero=3)),
    ),
    option_rule(
        "bucket",
        "bucket",
        lambda r: (
            options_of(r).bucket is None
            or (r.spec.parallelism.overlap_grad_reduce & ((r.zero < 2) | (options_of(r).fsdp == "megatron")))
        ),
        "gradients are reduced in buckets beside the backward pass (overlap_grad_reduce, it is "
        "{spec.parallelism.overlap_grad_reduce}), and by torch's FSDP2 layer by layer",
        "training/training.py:1552; ours: it would be lost",
        any_of(off("bucket", None), change(parallelism__overlap_grad_reduce=True)),
    ),
    option_rule(
        "per_token_loss",
        "per_token_loss",
        lambda r: implies(options_of(r).per_token_loss, (r.zero < 2) | (options_of(r).fsdp == "megatron")),
        "torch's FSDP2 (zero = {zero}) divides by its ranks while it sums, and has no gradients to divide again",
        "core/distributed/finalize_model_grads.py:696; data_parallel_base.py:45 does nothing",
        any_of(off("per_token_loss"), off("fsdp", "megatron")),
    ),
    option_rule(
        "decay_qk_norms",
        "decay_qk_norms",
        lambda r: not options_of(r).decay_qk_norms or r.model.qk_norm not in ("none", "l2"),
        "queries and keys have no norms with weights to decay (model.qk_norm={model.qk_norm})",
        "core/optimizer/__init__.py:105; ours: it would be lost",
        off("decay_qk_norms"),
    ),
    option_rule(
        "master",
        "optimizer_master",
        lambda r: implies(
            options_of(r).optimizer_master != "fp32", options_of(r).precision_aware_optimizer & (r.zero == 1)
        ),
        "master weights in {backend.megatron.optimizer_master} are the precision-aware distributed optimizer's "
        "(precision_aware_optimizer=true, zero = 1, not {zero})",
        "core/optimizer/optimizer_config.py:474; Megatron-FSDP has a flag of its own, training/arguments.py:3520",
        any_of(off("optimizer_master", "fp32"), off("precision_aware_optimizer", True)),
    ),
    option_rule(
        "main_gradients",
        "optimizer_gradients",
        lambda r: implies(
            options_of(r).optimizer_gradients != "fp32",
            options_of(r).precision_aware_optimizer & (r.zero == 1) & (r.training.grad_reduce == "bf16"),
        ),
        "a step on {backend.megatron.optimizer_gradients} gradients is the precision-aware distributed optimizer's "
        "(precision_aware_optimizer=true, zero = 1, not {zero}), of gradients that were reduced so, not in "
        "{training.grad_reduce}",
        "core/optimizer/optimizer_config.py:471; training/arguments.py:1187",
        any_of(
            off("optimizer_gradients", "fp32"),
            change(backend__megatron__precision_aware_optimizer=True, training__grad_reduce="bf16"),
        ),
    ),
)
