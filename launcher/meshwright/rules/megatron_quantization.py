"""Products in 8 and 4 bits: which GPUs have them, and in detail. Places: megatron-core 0.19.2, below ``megatron/``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from meshwright.model.kinds import kinds
from meshwright.model.megatron_classes import is_hybrid
from meshwright.model.operations import decoder_layer
from meshwright.rules._megatron_option import off, option_rule, options_of
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import MEGATRON, Layout, Number, Rule, implies
from meshwright.spec import Accelerator
from meshwright.spec.training import FP8_RECIPES

__all__ = ["ON_GPUS", "RULES"]


def _gathered(r: Layout) -> Number:
    quantized = options_of(r).quantization.param_gather
    torch = (r.zero >= 2) & (options_of(r).fsdp == "torch")
    return implies(quantized, (r.training.precision in (*FP8_RECIPES, "nvfp4")) & (r.zero >= 1) & (torch == 0))


def _bf16_layers_fit(r: Layout) -> Number:
    details = options_of(r).quantization
    most = max(details.first_layers_bf16, details.last_layers_bf16)
    return (most == 0) | (
        (r.training.precision in (*FP8_RECIPES.keys() - {"fp8_delayed"}, "nvfp4"))
        & (most <= r.model.layers // r.pp)
        & (min(details.first_layers_bf16, details.last_layers_bf16) >= 0)
    )


def _modules_named(r: Layout) -> Number:
    """Each glob matches a product of the model's; any name of a layer does, for a number counts on its chunk."""
    return not tuple(_unmatched(r))


def _unmatched(r: Layout) -> Iterator[str]:
    model, rules = r.model, options_of(r).quantization.modules
    if not rules:
        return
    from meshwright.model.module_names import names, precision_of

    hybrid = is_hybrid(model, options_of(r))
    there = [name for operation in _operations(r) for name in names(operation, range(model.layers), model.mtp, hybrid)]
    there += [f"mtp.layers.{i}.eh_proj" for i in range(model.mtp)]
    yield from (rule.match for rule in rules if not any(precision_of(name, (rule,)) for name in there))


def _operations(r: Layout) -> set[str]:
    from meshwright.model.module_names import MODULES

    if r.model.measured is not None:
        return set()
    return {one.name for kind in kinds(r.model) for one in decoder_layer(r.model, kind) if one.name in MODULES}


RULES: tuple[Rule, ...] = (
    option_rule(
        "module_precision",
        "quantization.modules",
        lambda r: (
            not options_of(r).quantization.modules
            or (
                r.training.precision in (*FP8_RECIPES.keys() - {"fp8_delayed"}, "nvfp4")
                and options_of(r).transformer == "transformer_engine"
            )
        ),
        "modules have a precision of their own in Transformer Engine's layers, in a run of 8 or 4 bits without delayed "
        "scaling; precision = {training.precision}, transformer = {backend.megatron.transformer}",
        "core/extensions/transformer_engine.py:171, :312",
        any_of(off("quantization.modules", ()), change(training__precision="mxfp8")),
    ),
    option_rule(
        "module_names",
        "quantization.modules",
        _modules_named,
        lambda r: (
            f"{', '.join(_unmatched(r))}: matches none of Megatron's names of this model's products, as "
            "decoder.layers.0.self_attention.linear_proj"
        ),
        "core/quantization/quant_config.py: a glob over named_modules",
        off("quantization.modules", ()),
    ),
    option_rule(
        "param_gather",
        "quantization.param_gather",
        _gathered,
        "weights are gathered in 8 or 4 bits with such a precision ({training.precision}), zero >= 1 (zero = {zero}), "
        "and not by torch's FSDP2",
        "training/arguments.py:1060, :1017; core/transformer/transformer_config.py:1433",
        any_of(off("quantization.param_gather"), change(parallelism__zero=1)),
    ),
    option_rule(
        "reuse_gradient_buffer",
        "quantization.reuse_gradient_buffer",
        lambda r: implies(
            options_of(r).quantization.reuse_gradient_buffer,
            (r.training.precision == "mxfp8") & options_of(r).quantization.param_gather & (r.zero < 2),
        ),
        "the gradients' buffer is reused for mxfp8 weights that are gathered so (param_gather), zero < 2; "
        "precision = {training.precision}, zero = {zero}",
        "core/distributed/distributed_data_parallel_config.py:253; training/arguments.py:1114",
        any_of(off("quantization.reuse_gradient_buffer"), off("quantization.param_gather", True)),
    ),
    option_rule(
        "bf16_layers",
        "quantization.first_layers_bf16",
        _bf16_layers_fit,
        "layers stay in bf16 with a precision below, but for delayed scaling ({training.precision}), and on one stage: "
        "{model.layers} layers over pp = {pp}",
        ":1397-1431",
        change(
            backend__megatron__quantization__first_layers_bf16=0, backend__megatron__quantization__last_layers_bf16=0
        ),
    ),
    option_rule(
        "amax_history",
        "quantization.amax_history",
        lambda r: (
            r.training.precision == "fp8_delayed"
            or (options_of(r).quantization.amax_history == 1 and options_of(r).quantization.amax == "most_recent")
        ),
        "scales of earlier steps' largest values are delayed scaling's (fp8_delayed), not {training.precision}'s",
        "core/fp8_utils.py:733; ours: they would be lost",
        any_of(
            change(
                backend__megatron__quantization__amax_history=1, backend__megatron__quantization__amax="most_recent"
            ),
            change(training__precision="fp8_delayed"),
        ),
    ),
    option_rule(
        "output_projection",
        "quantization.output_projection",
        lambda r: not options_of(r).quantization.output_projection or r.training.precision == "mxfp8",
        "the head is quantized with mxfp8 alone, not {training.precision}",
        ":1436",
        off("quantization.output_projection"),
    ),
)


def _scales_by_block(gpu: Accelerator) -> bool:
    """Whether its matrix units take one scale for 32 values: Blackwell's do, and of AMD's those that have fp4."""
    if gpu.platform == "rocm":
        return gpu.fp4_tflops is not None
    return 10 <= float(gpu.capability) < 12


def _takes_nvfp4(gpu: Accelerator) -> bool:
    """Whether Transformer Engine does; on AMD's GPUs, whose fp8 units gfx94x and gfx95x have, it multiplies in bf16."""
    if gpu.platform == "rocm":
        return gpu.fp8_tflops is not None
    return float(gpu.capability) >= 10


def _scaled(precision: str, fits: Callable[[Accelerator], bool], needed: str, check: str, coarser: str) -> Rule:
    """Scales that not all GPUs with fp8 have; ``coarser``: the precision that does with less."""
    return Rule(
        id=f"megatron.{precision}",
        path="training.precision",
        backends=MEGATRON,
        holds=lambda r: r.training.precision != precision or fits(r.cluster.accelerator),
        message=f"{precision} needs {needed}, {{cluster.accelerator.name}} has {{cluster.accelerator.capability}}",
        source=f"transformer_engine/pytorch/quantization.py {check}",
        repairs=any_of(change(training__precision=coarser), change(training__precision="bf16")),
    )


ON_GPUS: tuple[Rule, ...] = (
    Rule(
        id="megatron.fp8",
        path="training.precision",
        backends=MEGATRON,
        holds=lambda r: (
            r.training.precision in ("fp32", "fp16", "bf16") or r.cluster.accelerator.fp8_tflops is not None
        ),
        message="{cluster.accelerator.name} has no fp8 matrix units for {training.precision}",
        source="transformer_engine/pytorch/quantization.py check_fp8_support",
        repairs=change(training__precision="bf16"),
    ),
    _scaled(
        "mxfp8",
        _scales_by_block,
        "compute capability 10.x (Blackwell) or gfx950 (MI355X)",
        "check_mxfp8_support, NVIDIA's and ROCm's",
        "fp8_blockwise",
    ),
    _scaled(
        "fp8_blockwise",
        lambda gpu: float(gpu.capability) >= 9,
        "compute capability 9 (Hopper)",
        "check_fp8_block_scaling_support, NVIDIA's and ROCm's",
        "fp8_tensorwise",
    ),
    _scaled(
        "nvfp4",
        _takes_nvfp4,
        "compute capability 10 (Blackwell) or gfx942 and gfx950 (MI300X to MI355X)",
        "check_nvfp4_support, NVIDIA's and ROCm's (ROCm@030b792); training/arguments.py:1073",
        "fp8_blockwise",
    ),
)
"""Which precision a GPU has products of."""
