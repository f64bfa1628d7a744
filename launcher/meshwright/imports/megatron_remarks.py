"""What Megatron's own validate_args would refuse or change in the arguments as they stand, where our values lose it.

Places: megatron-core 0.19.2, training/arguments.py. What a layout as a whole breaks, the rules say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshwright.imports.found import Place, Remark
from meshwright.imports.megatron_arguments import Arguments
from meshwright.imports.megatron_files import FILES, modules, overlapped
from meshwright.imports.megatron_model import grouped
from meshwright.imports.megatron_moe import frequency

__all__ = ["remarks"]


def remarks(a: Arguments) -> list[Remark]:
    """Errors and warnings, each at the argument that causes it."""
    said = [_judged(check, a) for check in _CHECKS]
    return [remark for remark in said if remark is not None]


class _Read(Arguments):
    """Arguments that remember which of them were asked for."""

    def __init__(self, a: Arguments) -> None:
        super().__init__(a.given, a.world, a.opened)
        self.names: set[str] = set()

    def __call__(self, name: str) -> Any:
        self.names.add(name)
        return super().__call__(name)


def _judged(check: Callable[[Arguments], Remark | None], a: Arguments) -> Remark | None:
    """Nothing where the check asks for what the source leaves open: the default is not what will be said."""
    read = _Read(a)
    remark = check(read)
    return None if read.names & set(a.opened) else remark


def _at(a: Arguments, *names: str) -> Place:
    return next(a.given[name].place for name in names if name in a.given)


def _sequence_parallel(a: Arguments) -> Remark | None:
    if a("tensor_model_parallel_size") > 1 or not a("sequence_parallel") or not a.given["sequence_parallel"].key:
        return None
    message = "--sequence-parallel without tensor parallelism: Megatron turns it off (arguments.py:1394)"
    return Remark("warning", "megatron.sequence_parallel", message, _at(a, "sequence_parallel"))


def _query_groups(a: Arguments) -> Remark | None:
    if "num_query_groups" not in a.given or grouped(a):
        return None
    message = (
        f"--num-query-groups {a('num_query_groups')} does nothing without --group-query-attention: "
        f"every one of the {a('num_attention_heads')} heads keeps its own keys and values"
    )
    return Remark("warning", "megatron.query_groups", message, _at(a, "num_query_groups"))


def _virtual_stages(a: Arguments) -> Remark | None:
    """The layers of a stage must divide into chunks; what is left over would be dropped."""
    each, layers, pp = a("num_layers_per_virtual_pipeline_stage"), a("num_layers"), a("pipeline_model_parallel_size")
    if not each or not layers:
        return None
    whole = layers + a("account_for_embedding_in_pipeline_split") + a("account_for_loss_in_pipeline_split")
    of_stage = whole / pp
    if of_stage.is_integer() and of_stage % each == 0:
        return None
    message = (
        f"--num-layers-per-virtual-pipeline-stage {each}: {whole} layers over {pp} stages are {of_stage:g} a stage, "
        f"which does not divide into chunks of {each}; layers would be dropped, and Megatron stops "
        f"(arguments.py:934-941)"
    )
    return Remark("error", "megatron.virtual_stages", message, _at(a, "num_layers_per_virtual_pipeline_stage"))


def _two_lengths(a: Arguments) -> Remark | None:
    if not (a("train_iters") and a("train_samples")):
        return None
    message = "--train-iters and --train-samples are two lengths of one run: Megatron stops (arguments.py:1240)"
    return Remark("error", "megatron.length", message, _at(a, "train_samples"))


def _mixed_units(a: Arguments) -> Remark | None:
    """A run in iterations decays and warms up in iterations."""
    unit, other = ("iters", "samples") if a("train_iters") else ("samples", "iters")
    wrong = [name for name in (f"lr_decay_{other}", f"lr_warmup_{other}") if a(name)]
    if not wrong or not a(f"train_{unit}"):
        return None
    message = f"--train-{unit} with --{wrong[0].replace('_', '-')}: Megatron wants one unit (arguments.py:1242-1268)"
    return Remark("error", "megatron.units", message, _at(a, wrong[0]))


def _param_gather(a: Arguments) -> Remark | None:
    if not a("overlap_param_gather"):
        return None
    sharded = a("use_distributed_optimizer") or a("use_megatron_fsdp") or a("optimizer") == "dist_muon"
    lacks = "--overlap-grad-reduce" if sharded else "--use-distributed-optimizer"
    if sharded and a("overlap_grad_reduce"):
        return None
    message = f"--overlap-param-gather needs {lacks}: Megatron stops (arguments.py:989-994)"
    return Remark("error", "megatron.param_gather", message, _at(a, "overlap_param_gather"))


def _save_interval(a: Arguments) -> Remark | None:
    if not a("save") or a("save_interval"):
        return None
    message = "--save without --save-interval: Megatron stops (arguments.py:1319)"
    return Remark("error", "megatron.save_interval", message, _at(a, "save"))


def _both_halves(a: Arguments) -> Remark | None:
    if not (a("fp16") and a("bf16")):
        return None
    return Remark("error", "megatron.precision", "--fp16 and --bf16 together: Megatron stops", _at(a, "fp16"))


def _half_sums(a: Arguments) -> Remark | None:
    """An fp16 run keeps its sums in fp16 unless told otherwise; bf16 alone turns fp32 on (arguments.py:1192)."""
    stated = "fp16" in a.given and a.given["fp16"].key
    if not stated or not a("fp16") or a("accumulate_allreduce_grads_in_fp32"):
        return None
    message = (
        f"{stated} without --accumulate-allreduce-grads-in-fp32: gradients are summed and sent in fp16, which "
        f"training.grad_reduce cannot say: read as fp32, with 4 bytes a parameter instead of 2"
    )
    return Remark("warning", "import.grad_reduce", message, _at(a, "fp16"))


def _recompute_method(a: Arguments) -> Remark | None:
    kind, method = a("recompute_granularity"), a("recompute_method")
    if kind == "selective" and method:
        message = "--recompute-method belongs to full granularity: Megatron stops (arguments.py:1386)"
        return Remark("error", "megatron.recompute", message, _at(a, "recompute_method"))
    if kind == "full" and not method and a.given["recompute_granularity"].key.endswith("granularity"):
        message = "full granularity needs --recompute-method (core/transformer/transformer_config.py:1752)"
        return Remark("error", "megatron.recompute", message, _at(a, "recompute_granularity"))
    return None


def _layer_pattern(a: Arguments) -> Remark | None:
    if (a("num_experts") or 1) == 1 or frequency(a("moe_layer_freq"), a("num_layers")) is not None:
        return None
    message = f"--moe-layer-freq {a('moe_layer_freq')}: no model here mixes dense and expert layers so"
    return Remark("error", "import.moe_layers", message, _at(a, "moe_layer_freq", "num_experts"))


def _several_chunks(a: Arguments) -> Remark | None:
    names = ("num_layers_per_virtual_pipeline_stage", "num_virtual_stages_per_pipeline_rank")
    stated = [name for name in (*names, "pipeline_model_parallel_layout") if a(name)]
    if len(stated) < 2:
        return None
    said = " and ".join(f"--{name.replace('_', '-')}" for name in stated)
    return Remark(
        "error", "megatron.virtual_stages", f"{said} exclude one another (arguments.py:893)", _at(a, stated[1])
    )


def _files(a: Arguments) -> Remark | None:
    """What stands in files that are not beside the script."""
    for (name, what), read in zip(FILES.items(), (modules, overlapped), strict=True):
        if name in a.given and read(a) is None:
            words = f"{a.given[name].key} {a(name)}: {what} is said there, not beside the script in words known here"
            return Remark("warning", "megatron.file", words, _at(a, name))
    return None


def _old_ramp(a: Arguments) -> Remark | None:
    if "rampup_batch_size" not in a.given or not a("rampup_batch_size"):
        return None
    message = "--rampup-batch-size is deprecated; --step-batch-size-schedule says it in tokens"
    return Remark("warning", "megatron.ramp", message, _at(a, "rampup_batch_size"))


def _two_batches(a: Arguments) -> Remark | None:
    if not (a("step_batch_size_schedule") and a("global_batch_size")):
        return None
    message = (
        "--step-batch-size-schedule and --global-batch-size exclude one another: Megatron stops (arguments.py:681)"
    )
    return Remark("error", "megatron.batch", message, _at(a, "global_batch_size"))


_CHECKS: tuple[Callable[[Arguments], Remark | None], ...] = (
    _sequence_parallel,
    _query_groups,
    _virtual_stages,
    _several_chunks,
    _two_lengths,
    _mixed_units,
    _param_gather,
    _save_interval,
    _both_halves,
    _half_sums,
    _recompute_method,
    _layer_pattern,
    _old_ramp,
    _files,
    _two_batches,
)
