"""Megatron-LM's arguments -> pattern, indexer, delta_net and mamba of a model: emit/megatron_hybrid.py read backwards.

A pattern of HybridModel that is pairs of a mixer and a feed-forward part all along becomes layers of two parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshwright.imports.literal import literal
from meshwright.imports.megatron_arguments import Arguments
from meshwright.imports.megatron_moe import routed
from meshwright.model.layers import LayerKind
from meshwright.model.layers.part import NONE
from meshwright.model.megatron_parts import HYBRID_MODULE, MODULE, Parts, read_name
from meshwright.model.pattern import symbols, write_pattern

__all__ = ["CARRIED", "hybrid_segments", "layers", "listed_windows", "of_ours", "ours", "split"]

Flat = dict[str, Any]

CARRIED = {
    "model.pattern": "hybrid_layer_pattern linear_attention_freq",
    "model.indexer": (
        "dsa_indexer_n_heads dsa_indexer_head_dim dsa_indexer_topk dsa_indexer_rope_interleaved dsa_indexer_loss_coeff "
        "dsa_indexer_use_sparse_loss"
    ),
    "model.delta_net": (
        "linear_num_key_heads linear_num_value_heads linear_key_head_dim linear_value_head_dim linear_conv_kernel_dim"
    ),
    "model.mamba": "mamba_num_heads mamba_head_dim mamba_num_groups mamba_state_dim",
}


def layers(a: Arguments) -> Flat:
    """What decides the kinds of layers, where it is more than attention and its windows."""
    if a("hybrid_layer_pattern"):
        return _hybrid(a)
    if a("experimental_attention_variant") == "gated_delta_net" and a("num_layers"):
        linear = _linear(a("linear_attention_freq"), int(a("num_layers")))
        return _mixed(a, ["delta_net" if on else "attention" for on in linear]) | _widths(a, "G")
    if (named := ours(a)) and "lightning" in named:
        return of_ours(a, str(named["lightning"]))
    if windowed := listed_windows(a):
        return _mixed(a, ["windowed_attention" if on else "attention" for on in windowed])
    return _widths(a, "D") if a("experimental_attention_variant") == "dsa" else {}


def listed_windows(a: Arguments) -> list[int]:
    """1 for each layer that has the window, where it is listed; empty where it is in none, or each n-th has none."""
    skips = a("window_attn_skip_freq") if a("window_size") else None
    listed = literal(skips) if isinstance(skips, str) else skips
    return listed if isinstance(listed, list) and any(listed) else []


def _hybrid(a: Arguments) -> Flat:
    main, *ahead = str(a("hybrid_layer_pattern")).split("/")
    units = [unit for segment in _units(main) for unit in segment]
    alone = any(NONE in (kind.mixer, kind.ffn) for kind in units)  # then layers ahead are of one part each, too
    further = (_each(ahead[0]) if alone else _units(ahead[0])[0]) if ahead else []
    written = write_pattern(units, further if further != units[-1:] else ())
    flat: Flat = {"model.layers": len(units), "model.pattern": written, "model.mtp": len(ahead)}
    if not alone:
        flat["backend.megatron.model"] = "hybrid"  # gpt could build them, too
    return flat | _widths(a, main + "".join(ahead))


def _units(main: str) -> list[list[LayerKind]]:
    """The layers of each segment: pairs where all of them are, else each symbol one."""
    segments = [_each(part) for part in main.split("|")]
    paired = [_pairs(segment) for segment in segments]
    return segments if None in paired else [pairs for pairs in paired if pairs is not None]


def _each(part: str) -> list[LayerKind]:
    """A layer for each symbol."""
    known = symbols()
    return [known.get(symbol, LayerKind(mixer=symbol)) for symbol in part]


def _pairs(segment: list[LayerKind]) -> list[LayerKind] | None:
    halves = list(zip(segment[::2], segment[1::2], strict=False))
    fits = len(segment) % 2 == 0 and all(first.mixer != NONE != second.ffn for first, second in halves)
    return [LayerKind(first.mixer, second.ffn) for first, second in halves] if fits else None


def ours(a: Arguments) -> Parts | None:
    """The parts of our own layers, where ``--spec`` names them."""
    words = list(a("spec") or [])
    return read_name(words[1]) if len(words) == 2 and words[0] in (MODULE, HYBRID_MODULE) else None


def _mixed(a: Arguments, mixers: list[str]) -> Flat:
    """GPTModel's layers of these mixers, with experts where it says so."""
    has_experts = (a("num_experts") or 1) > 1
    experts = (routed(a("moe_layer_freq"), len(mixers)) if has_experts else None) or [0] * len(mixers)
    kinds = [LayerKind(mixer, "experts" if on else "mlp") for mixer, on in zip(mixers, experts, strict=True)]
    whole = {"model.moe.first_dense": 0, "model.moe.every": 1} if has_experts else {}
    return {"model.pattern": write_pattern(kinds), **whole}


def of_ours(a: Arguments, mixers: str) -> Flat:
    """Of our layers, whose name has the symbol of each mixer."""
    known = symbols()
    return _mixed(a, [known[symbol].mixer for symbol in mixers]) | (_widths(a, "M") if "P" in mixers else {})


def _linear(written: Any, count: int) -> Iterable[bool]:
    frequency = literal(written) if isinstance(written, str) else written
    if isinstance(frequency, list) and len(frequency) == count:
        return [bool(on) for on in frequency]
    return [not frequency or (layer + 1) % int(frequency) != 0 for layer in range(count)]


def _widths(a: Arguments, pattern: str) -> Flat:
    """Where nothing is said, Mamba's inner width is twice the model's (core/ssm/mamba_mixer.py:164)."""
    flat: Flat = {}
    if "G" in pattern:
        names = {"key_heads": "num_key_heads", "value_heads": "num_value_heads", "key_dim": "key_head_dim"}
        names |= {"value_dim": "value_head_dim", "kernel": "conv_kernel_dim"}
        flat |= {f"model.delta_net.{ours}": a(f"linear_{theirs}") for ours, theirs in names.items()}
    if "D" in pattern:
        names = {"heads": "n_heads", "head_dim": "head_dim", "topk": "topk", "interleaved": "rope_interleaved"}
        flat |= {f"model.indexer.{ours}": a(f"dsa_indexer_{theirs}") for ours, theirs in names.items()}
        flat["model.indexer.loss"] = a("dsa_indexer_loss_coeff") or 0.0  # null: no loss (dsa.py:1890)
        flat["model.indexer.sparse_loss"] = bool(a("dsa_indexer_use_sparse_loss"))
    if "M" in pattern:
        heads = a("mamba_num_heads") or 2 * (a("hidden_size") or 0) // a("mamba_head_dim")
        flat |= {"model.mamba.heads": heads, "model.mamba.head_dim": a("mamba_head_dim")}
        flat |= {"model.mamba.groups": a("mamba_num_groups"), "model.mamba.state": a("mamba_state_dim")}
    return flat


def hybrid_segments(a: Arguments) -> int:
    """Model chunks that a pattern names; 0 without one."""
    written = a("hybrid_layer_pattern")
    return len(str(written).split("/")[0].split("|")) if written else 0


def split(a: Arguments) -> Flat:
    """How the pattern cuts the pipeline: nothing where evenly, else as a layout."""
    if not a("hybrid_layer_pattern"):
        return {}
    main, *ahead = str(a("hybrid_layer_pattern")).split("/")
    sizes = [len(segment) for segment in _units(main)]
    if len(set(sizes)) == 1:
        return {}
    chunks = ["t" * size for size in sizes]
    return {"parallelism.pipeline_split.layout": "E" + "|".join(chunks) + "m" * len(ahead) + "L"}
