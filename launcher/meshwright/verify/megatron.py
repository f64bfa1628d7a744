"""*Parsed*: Megatron's own argument parser, validation and configuration objects, at the plan's true world size.

And *read back*: what the parsed arguments hold equals the Plan, and the flags and the keyword arguments give the same
configuration, field by field.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from functools import cache
from importlib.metadata import version
from io import StringIO
from typing import Any

from meshwright.emit.megatron import environment, flags
from meshwright.emit.megatron_kwargs import kwargs
from meshwright.emit.resiliency import megatron_flags
from meshwright.layout.in_folder import in_folder
from meshwright.layout.plan import Plan
from meshwright.model.megatron_parts import parts
from meshwright.verify import megatron_schedule
from meshwright.verify.megatron_build import built
from meshwright.verify.megatron_emulation import arguments_module, emulate_gpu, silence, substitutions
from meshwright.verify.megatron_expected import expected
from meshwright.verify.megatron_files import files_of, read_overlap, unlike_recipe
from meshwright.verify.megatron_objects import objects
from meshwright.verify.megatron_schedule import schedule_differences
from meshwright.verify.verdict import Check

__all__ = ["CHECKS", "check", "parse", "parsed", "versions", "warm"]

SET_LATER = {
    # filled by validate_args from fields we leave to it, the same on both ways once a run starts
    "init_method": "a closure made from init_method_std",
    "output_layer_init_method": "a closure made from init_method_std",
    "embedding_init_method": "a closure made from init_method_std",
    "pipeline_model_parallel_layout": "parsed from the same string into an object without equality",
    "quant_recipe": "read from the same file into an object without equality",
    "use_cpu_initialization": "None and False both mean no",
    "inference_sampling_seed": "inference only; the command line copies --seed",
}
"""Fields of TransformerConfig in which flags and keyword arguments may differ, with the reason."""


def warm() -> None:
    """Import and read what the checks need, once, before forking."""
    silence()
    _parser()
    import megatron.core.optimizer
    import megatron.core.optimizer_param_scheduler
    import megatron.core.transformer.moe.moe_utils  # noqa: F401

    megatron_schedule.warm()


@cache
def _parser() -> Any:
    """Megatron's parser, whose help is read from then on."""
    return arguments_module().add_megatron_arguments(ArgumentParser(allow_abbrev=False))


def versions() -> dict[str, str]:
    """Of what judges. Megatron's own ``__version__`` ends in the commit of whatever repository it is called in."""
    return {name: version(name) for name in ("megatron-core", "torch")}


def parsed(plan: Plan, words: list[str] | None = None) -> Check:
    """Parse ``words`` (default: what we emit) as Megatron does and read everything back. Run it in a fork."""
    arguments, config, microbatches = parse(plan, [*flags(plan), *megatron_flags(plan)] if words is None else words)
    wrong = [
        *_differences(arguments, expected(plan)),
        *_microbatch_difference(plan, microbatches),
        *schedule_differences(arguments, plan),
        *_config_differences(config, plan),
        *unlike_recipe(config.quant_recipe, plan),
        *_other_configs(arguments, plan),
    ]
    fields = f"{len(dataclasses.fields(config))} fields of {type(config).__name__}"
    read = f"{len(expected(plan))} arguments, {fields}, batches and learning rates"
    return Check("parsed", not wrong, "; ".join(wrong) or f"read back {read}", substitutions(plan))


def parse(plan: Plan, words: list[str]) -> tuple[Any, Any, int]:
    """(validated arguments, transformer configuration, micro-batches) by Megatron's own code."""
    module = arguments_module()
    emulate_gpu(plan)
    os.environ.pop("CUDA_DEVICE_MAX_CONNECTIONS", None)
    os.environ.update(_variables(plan), RANK="0", WORLD_SIZE=str(plan.grid.world))
    with files_of(plan) as folder:
        sys.argv = ["pretrain_gpt.py", *in_folder(words, folder)]
        arguments = _in_its_words(module.parse_args)
        arguments = module.validate_args(arguments) or arguments
        config = module.core_transformer_config_from_args(arguments)
        read_overlap(arguments)
    return arguments, config, _microbatches(arguments, config)


def _variables(plan: Plan) -> dict[str, str]:
    return {name: variable.value for name, variable in environment(plan).items()}


def _in_its_words(parse_args: Callable[[], Any]) -> Any:
    """What argparse complains of it prints; a bare exit code would be all that is left of it.

    Raises:
        ValueError: with argparse's own line.

    """
    said = StringIO()
    try:
        with redirect_stderr(said):
            return parse_args()
    except SystemExit:
        raise ValueError(said.getvalue().strip().splitlines()[-1].partition("error: ")[2]) from None


def _microbatches(arguments: Any, config: Any) -> int:
    """Micro-batches of a step at the end of any ramp, with the two rules of the interleaved schedule it checks late."""
    from megatron.core import num_microbatches_calculator as calculator

    calculator.unset_num_microbatches_calculator()
    calculator.init_num_microbatches_calculator(
        arguments.rank,
        arguments.rampup_batch_size,
        arguments.global_batch_size,
        arguments.micro_batch_size,
        arguments.data_parallel_size * arguments.gtp_weight_remat_size,  # as training/global_vars.py:132 does
        arguments.decrease_batch_size_if_needed,
        arguments.step_batch_size_schedule,
        arguments.seq_length,
    )
    if arguments.step_batch_size_schedule:
        calculator.update_num_microbatches(1 << 60, consistency_check=True)
    count = int(calculator.get_num_microbatches())
    if config.virtual_pipeline_model_parallel_size:  # core/pipeline_parallel/schedules.py, at the first step
        pp, group = config.pipeline_model_parallel_size, config.microbatch_group_size_per_vp_stage
        if not pp <= group <= count:
            raise ValueError(f"[schedules.py] {group} contiguous micro-batches should range in [PP={pp}, M={count}]")
        if 0 < count % group < pp:
            raise RuntimeError(f"[schedules.py] the remainder of M={count} by {group} should be 0 or at least PP={pp}")
    return count


def _differences(found: Any, wanted: dict[str, Any]) -> Iterator[str]:
    for name, value in wanted.items():
        actual = getattr(found, name)
        if actual != value:
            yield f"{name} is {actual!r}, the plan says {value!r}"


def _microbatch_difference(plan: Plan, count: int) -> Iterator[str]:
    if count != plan.batch.microbatches:
        yield f"{count} micro-batches a step, the plan says {plan.batch.microbatches}"


def _config_differences(from_flags: Any, plan: Plan) -> Iterator[str]:
    from_kwargs = type(from_flags)(**objects(kwargs(plan)[type(from_flags).__name__]))
    by_our_layers = {"activation_func"} if "activation" in parts(plan.spec.model) else set()  # once they are built
    for field in dataclasses.fields(from_flags):
        ours, theirs = getattr(from_kwargs, field.name), getattr(from_flags, field.name)
        if field.name not in SET_LATER.keys() | by_our_layers and ours != theirs:
            yield f"{field.name} is {theirs!r} by the flags and {ours!r} by the keyword arguments"


def _other_configs(arguments: Any, plan: Plan) -> Iterator[str]:
    """DistributedDataParallelConfig and OptimizerConfig hold what training.py would copy from the arguments."""
    from megatron.core.distributed import DistributedDataParallelConfig
    from megatron.core.optimizer import OptimizerConfig

    renamed = {
        "grad_reduce_in_fp32": "accumulate_allreduce_grads_in_fp32",
        "check_for_nan_in_grad": "check_for_nan_in_loss_and_grad",
    }
    for cls in (DistributedDataParallelConfig, OptimizerConfig):
        wanted = objects(kwargs(plan)[cls.__name__])
        if not plan.spec.backend.megatron.precision_aware_optimizer:
            cls(**wanted)
        for name, value in wanted.items():
            actual = getattr(arguments, renamed.get(name, name), value)
            if actual != value:
                yield f"{cls.__name__}.{name} is {actual!r} by the flags and {value!r} by the keyword arguments"


CHECKS = ("parsed", "built")


def check(job: tuple[str, Plan]) -> Check:
    """Run one of CHECKS on a plan. Run it in a fork."""
    name, plan = job
    return parsed(plan) if name == "parsed" else built(plan)
