"""The layers that stock Megatron-core lacks: same weights, same logits as transformers' models."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from meshwright.emit.megatron_kwargs import kwargs
from meshwright.loading import load
from meshwright.model.huggingface import read
from meshwright.model.megatron_parts import MODULE, parts, read_name, spec_name
from meshwright.resolver import refusals, resolve
from meshwright.spec.decode import decode
from meshwright.spec.model import Mamba, Model, Multipliers, ShortConvolution
from meshwright.verify.megatron_objects import objects
from meshwright.verify.pool import Crash, fork_map
from samples import sample
from test_architectures import default
from weights import megatron_weights

SIZES = {"layers": 2, "hidden": 64, "ffn": 96, "heads": 4, "kv_heads": 2, "head_dim": 16, "vocab": 96}
WHOLE = {**SIZES, "kv_heads": 4}
EXPERTS = {"moe": {"experts": 4, "topk": 2, "ffn": 32}}
TINY: dict[str, dict[str, Any]] = {
    "apertus_8b": SIZES,
    "bloom_1b7": {**WHOLE, "hidden": 48, "ffn": 192, "heads": 6, "kv_heads": 6, "head_dim": 8},
    "exaone4_32b": {**SIZES, "layers": 4, "sliding_window": 8},
    "falcon_7b": {**WHOLE, "ffn": 256, "kv_heads": 1},
    "falcon_180b": {**SIZES, "ffn": 256},
    "gemma2_27b": {**SIZES, "sliding_window": 8, "embedding_scale": 8.0, "attention_scale": 0.5},
    "gemma3_1b": {**SIZES, "layers": 6, "sliding_window": 8, "embedding_scale": 8.0, "attention_scale": 0.5},
    "glm4_9b": SIZES,
    "gpt_neox_20b": {**WHOLE, "ffn": 256},
    "lfm2_8b_a1b": {
        **{**SIZES, "layers": 4, "pattern": "C- CE *E CE"},
        "moe": {"experts": 4, "topk": 2, "ffn": 32},
    },
    "falcon_h1_0_5b": {
        **{**SIZES, "pattern": "2xP-", "attention_scale": 0.125, "logit_scale": 0.5},
        "mamba": Mamba(heads=8, head_dim=16, groups=2, state=16, norm=False),
    },
    "minimax_m2_230b": {**SIZES, **EXPERTS, "ffn": 32},
    "olmo_7b": WHOLE,
    "olmo2_7b": WHOLE,
    "olmo3_7b": {**WHOLE, "layers": 4, "sliding_window": 8},
    "olmoe_1b_7b": {**WHOLE, **EXPERTS, "ffn": 32},
    "opt_125m": WHOLE,
}
SMALL: dict[str, dict[str, Any]] = {
    "afmoe": {
        **{**SIZES, "layers": 4, "sliding_window": 8, "embedding_scale": 8.0},
        "moe": {"experts": 4, "topk": 2, "ffn": 32, "shared_ffn": 64},
    },
    "bart": WHOLE,
    "bigbird_pegasus": {**WHOLE, "embedding_scale": 8.0},
    "biogpt": {**WHOLE, "embedding_scale": 8.0},
    "blenderbot": WHOLE,
    "blenderbot-small": WHOLE,
    "cohere": SIZES,
    "cohere2": {**SIZES, "layers": 4, "sliding_window": 8},
    "cohere2_moe": {**SIZES, **EXPERTS, "ffn": 32, "layers": 4, "sliding_window": 8},
    "ctrl": {**WHOLE, "embedding_scale": 8.0},
    "cwm": {**SIZES, "layers": 4, "sliding_window": 8, "pattern": "*- W- W- *-"},
    "ernie4_5_moe": {**SIZES, "moe": {"experts": 4, "topk": 2, "ffn": 32, "shared_ffn": 64}},
    "exaone_moe": {**SIZES, **EXPERTS, "layers": 4, "sliding_window": 8},
    "falcon_h1": {
        **{**SIZES, "pattern": "2xP-", "embedding_scale": 2.0, "logit_scale": 0.5, "attention_scale": 0.125},
        "mamba": Mamba(heads=8, head_dim=16, groups=2, state=16),
        "multipliers": Multipliers(**{field.name: 0.5 + 0.1 * i for i, field in enumerate(fields(Multipliers))}),
    },
    "flint": {
        **{**SIZES, "layers": 4, "sliding_window": 8, "pattern": "*- W- WE *E"},
        "moe": {"experts": 4, "topk": 2, "ffn": 32, "shared_ffn": 32},
    },
    "glm4_moe": {**SIZES, "mtp": 0, "moe": {"experts": 4, "topk": 2, "ffn": 32, "shared_ffn": 32}},
    "gpt_neo": {**WHOLE, "ffn": 256, "sliding_window": 8, "pattern": "*- W-"},
    "gpt_oss": {**SIZES, **EXPERTS, "ffn": 32, "sliding_window": 8},
    "gptj": {**WHOLE, "ffn": 256, "rope": {"fraction": 0.5}},
    "granite": {**SIZES, "residual_scale": 0.22, "embedding_scale": 12.0, "logit_scale": 0.125},
    "granite_swa": {**SIZES, "sliding_window": 8, "pattern": "*- W-"},
    "granitemoeshared": {**SIZES, "ffn": 32, "moe": {"experts": 4, "topk": 2, "ffn": 32, "shared_ffn": 48}},
    "hy_v3": {**SIZES, "moe": {"experts": 4, "topk": 2, "ffn": 32, "shared_ffn": 32}},
    "hyperclovax": {**SIZES, "residual_scale": 0.5, "logit_scale": 0.5},
    "kolibri1": {
        **{**SIZES, "layers": 4, "sliding_window": 8, "pattern": "WE *E WE *E", "full_attention_every": 0, "ffn": 32},
        "moe": {"experts": 4, "topk": 2, "ffn": 32, "shared_ffn": 32},
    },
    "lfm2": {**SIZES, "layers": 4, "pattern": "2xC- *- C-", "short_convolution": ShortConvolution()},
    "llama4_text": {**SIZES, "layers": 4, "moe": {"experts": 4, "ffn": 32, "shared_ffn": 32}},
    "marian": WHOLE,
    "mbart": WHOLE,
    "minimax": {
        **{**SIZES, **EXPERTS, "ffn": 32, "layers": 4, "pattern": "LE LE *E LE"},
        **{"residual_weight": 3.5, "residual_scale": 0.75},
    },
    "ministral3": SIZES,
    "mpt": {**WHOLE, "ffn": 256},
    "mvp": WHOLE,
    "nanochat": SIZES,
    "openai-gpt": {**WHOLE, "ffn": 256},
    "pegasus": WHOLE,
    "phi": WHOLE,
    "plbart": {**WHOLE, "embedding_scale": 8.0},
    "trocr": WHOLE,
    "xglm": {**WHOLE, "embedding_scale": 8.0},
}
"""Architectures of which no model has a file here: from the class's own defaults."""
LENGTH = 24


def tiny(name: str) -> Model:
    whole = default_model(name) if name in SMALL else load([f"model={name}"]).stages[0].model
    changes = {"max_positions": 64, "attention_dropout": 0.0, "hidden_dropout": 0.0, **(TINY | SMALL)[name]}
    for part in ("moe", "mla", "rope"):
        if part in changes:
            changes[part] = replace(getattr(whole, part), **changes[part])
    return replace(whole, **changes)


def default_model(model_type: str) -> Model:
    with TemporaryDirectory() as folder:
        return decode(Model, read(default(model_type, Path(folder))))


def largest_difference(name: str) -> tuple[float, float]:
    """Between the logits of transformers' model and of Megatron's with our layers, and the logits' spread."""
    import torch

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1", TORCHDYNAMO_DISABLE="1")
    from meshwright.train import cpu

    import_module("megatron.training")  # it decorates functions that the next line replaces
    torch.compiler.set_stance("force_eager")
    import_module("torch._dynamo.trace_rules").get_torch_obj_rule_map()  # which lists them, too
    cpu.install()
    model = tiny(name)
    torch.manual_seed(0)
    theirs = transformers_model(model)
    ours = megatron_model(model)
    lacking = ours.load_state_dict(megatron_weights(model, theirs.state_dict()), strict=False).missing_keys
    assert not [name for name in lacking if "_extra_state" not in name], lacking
    tokens = torch.randint(0, model.vocab, (2, LENGTH))
    places = torch.arange(LENGTH).expand(2, -1)
    with torch.no_grad():
        reference, found = theirs(tokens).logits, ours(tokens, places, None)
    return float((reference - found).abs().max()), float(reference.std())


def transformers_model(model: Model) -> Any:
    from meshwright.emit.huggingface import config
    from meshwright.verify.transformers import build

    made = build(config(model), "cpu", "eager").eval()
    for parameter in made.parameters():  # norms and biases start at one and zero: they would hide a swap
        parameter.data.add_(0.3 * parameter.new_empty(parameter.shape).normal_())
    return made


def megatron_model(model: Model) -> Any:
    """GPTModel as the keyword arguments we emit describe it, but for kernels that only GPUs have."""
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.transformer_config import TransformerConfig

    from meshwright.train.layers import amend, install

    dist.init_process_group("gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    settings = TransformerConfig(**{**emitted(model), **ON_CPU})
    stretch(settings, model)
    block = get_gpt_decoder_block_spec(
        settings, False, normalization=settings.normalization, qk_l2_norm=settings.qk_l2_norm
    )
    install(parts(model))
    amend(block, parts(model))
    return GPTModel(
        settings,
        block,
        vocab_size=model.vocab,
        max_sequence_length=model.position_rows,
        share_embeddings_and_output_weights=model.tied_embeddings,
        position_embedding_type=positions(model),
        rope_scaling=model.rope.scaling is not None and model.rope.scaling.kind == "llama3",
        rope_scaling_factor=model.rope.scaling.factor if model.rope.scaling else 1.0,
        rotary_percent=model.rope.fraction,
        rotary_base=int(model.rope.base),
        parallel_output=False,
    ).eval()


def positions(model: Model) -> str:
    yarn = model.rope.scaling is not None and model.rope.scaling.kind == "yarn"
    rope = "yarn" if yarn and not model.mla else "rope"
    return "learned_absolute" if model.looks_up_positions else rope if model.positions == "rope" else "none"


def stretch(settings: Any, model: Model) -> None:
    """As megatron/training/argument_utils.py does with YaRN's flags."""
    scaling = model.rope.scaling
    if positions(model) == "yarn" and scaling:
        values = (scaling.factor, scaling.original_positions, scaling.beta_fast, scaling.beta_slow, scaling.mscale)
        names = ("rotary_scaling_factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale")
        for name, value in zip(names, values, strict=True):
            setattr(settings, f"yarn_{name}", value)
        settings.yarn_mscale_all_dim = scaling.mscale_all_dim
        settings.yarn_correction_range_round_to_int = scaling.truncate


ON_CPU: dict[str, Any] = {
    "transformer_impl": "local",
    "use_cpu_initialization": True,
    "bias_activation_fusion": False,
    "bias_dropout_fusion": False,
    "masked_softmax_fusion": False,
    "apply_rope_fusion": False,
    "persist_layer_norm": False,
    "gradient_accumulation_fusion": False,
}


def emitted(model: Model) -> dict[str, Any]:
    """Of one GPU's plan in fp32; the fused bias-GELU kernel is what makes Megatron's GELU the tanh approximation."""
    (spec,) = load(["cluster.gpus=1", "training.precision=fp32", "training.sequence=64"]).stages
    made = objects(kwargs(resolve(replace(spec, model=model)))["TransformerConfig"])
    return {**made, "activation_func": tanh_gelu} if model.activation == "gelu_tanh" else made


def tanh_gelu(x: Any) -> Any:
    import torch

    return torch.nn.functional.gelu(x, approximate="tanh")


def _sampled() -> list[str]:
    return sample([*TINY, *SMALL], 20)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(_sampled(), id="sample"),
        pytest.param([name for name in (*TINY, *SMALL) if name not in _sampled()], id="rest", marks=pytest.mark.slow),
    ],
)  # a second for each architecture
def test_same_weights_same_logits(names: list[str]) -> None:
    pytest.importorskip("megatron.core")
    pytest.importorskip("transformers")
    found = dict(zip(names, fork_map(largest_difference, names), strict=True))
    assert {name: one for name, one in found.items() if isinstance(one, Crash)} == {}
    logits = {name: one for name, one in found.items() if not isinstance(one, Crash)}
    assert {name: one for name, one in logits.items() if not one[0] < 1e-4 * one[1] or one[1] < 0.1} == {}


def test_a_name_carries_the_parts() -> None:
    """Megatron imports the specification by ``__import__``, and reads it from the module's dictionary."""
    pytest.importorskip("megatron.core")
    from megatron.core.transformer.spec_utils import import_module

    for name in TINY:
        written = spec_name(tiny(name))
        assert written is not None
        assert read_name(written) == parts(tiny(name))
        assert callable(import_module((MODULE, written)))
    assert read_name("gemma2") is None


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        ("bloom_176b", "alibi,embedding_norm"),
        ("gemma2_9b", "activation=geglu_tanh,attention_softcap=50.0,final_softcap=30.0,norms=sandwich"),
        ("gpt_neox_20b", "parallel_residual=two_norms"),
    ],
)
def test_a_flags_only_file_that_would_drop_a_part_is_refused(recipe: str, name: str) -> None:
    specs = load([f"recipe={recipe}"]).stages
    assert spec_name(specs[0].model) == name
    assert not refusals(specs[0], "megatron")
    (without,) = load([f"recipe={recipe}", "backend.megatron.spec=false"]).stages[:1]
    assert [problem.rule for problem in refusals(without, "megatron")] == ["megatron.parts"]
