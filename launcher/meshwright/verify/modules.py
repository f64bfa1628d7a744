"""``python -m meshwright.verify.modules``: a config.json on standard input, what its modules are on standard output.

transformers builds the model on the meta device; its layers are the blocks of the longest list of modules. Parameters
are exact. FLOPs and saved tensors come from two runs on the meta device (``meta_run``), which tell what grows with the
sequence; where the model's code cannot run there, from the shapes of its parameters.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

import torch

from meshwright.verify.meta_run import Seen, stand_ins, watch
from meshwright.verify.small_config import small_config

__all__ = ["main", "model_of", "numbers"]

LENGTHS = (1024, 2048)  # tokens; multiples of the chunks in which state-space models work


def main() -> None:
    """Read a request ``{"config": {...}, "remote": folder or null}`` and answer it."""
    request = json.load(sys.stdin)
    with redirect_stdout(sys.stderr):
        config, remote = request["config"], request.get("remote")
        answer = numbers(config, remote)
        answer["measured"]["miniature"] = None if remote else small_config(config, answer["measured"]["cls"])
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)


def model_of(config: Mapping[str, Any], device: str, attention: str | None, remote: str | None = None) -> Any:
    """The model in training mode. ``attention`` None: as transformers chooses."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if remote is not None:
        settings = AutoConfig.from_pretrained(remote, trust_remote_code=True)
    else:
        settings = AutoConfig.for_model(**config)
    named: dict[str, Any] = {"attn_implementation": attention, "dtype": torch.bfloat16}
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(settings, trust_remote_code=remote is not None, **named)
    return model.train()


def numbers(config: Mapping[str, Any], remote: str | None, run: bool = True) -> dict[str, Any]:
    """Everything that a Model with ``measured`` needs of it, as plain data; without a ``run``, from shapes alone."""
    with stand_ins():
        sdpa, model = _built(config, remote)
        layers = _layers(model)
        found, how = _looked_at(model, layers, run)
    sizes = _sizes(model, layers)
    head = _head(model)
    inside = sum(layer["parameters"] for layer in found)
    kinds = [layer for i, layer in enumerate(found) if layer not in found[:i]]
    total = sum(parameter.numel() for parameter in model.parameters())
    tied = head is None or head.weight is getattr(model.get_input_embeddings(), "weight", None)
    own = 0 if tied or head is None else sizes["vocab"] * sizes["hidden"]
    return {
        **sizes,
        "tied_embeddings": tied,
        "measured": {
            "cls": type(model).__name__,
            "kinds": kinds,
            "order": [kinds.index(layer) for layer in found],
            "outside": total - inside - own,
            "how": how,
            "sdpa": sdpa,
            "flash": bool(getattr(model, "_supports_flash_attn", False)),
        },
    }


def _built(config: Mapping[str, Any], remote: str | None) -> tuple[bool, Any]:
    """(whether PyTorch's attention is implemented, the model on the meta device)."""
    try:
        return True, model_of(config, "meta", "sdpa", remote)
    except ValueError:
        return False, model_of(config, "meta", "eager", remote)


def _layers(model: Any) -> Sequence[Any]:
    """The blocks: of all lists of modules the one with most parameters."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module)]
    outermost = [one for one in lists if not any(one is not other and _within(one, other) for other in lists)]
    if not outermost:
        raise ValueError("its modules hold no list of layers")
    return list(max(outermost, key=_parameters))


def _within(one: Any, other: Any) -> bool:
    return any(module is one for module in other.modules())


def _parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _looked_at(model: Any, layers: Sequence[Any], run: bool) -> tuple[list[dict[str, Any]], str]:
    """One mapping a layer, and how it was come by."""
    topk = _size(model, "num_experts_per_tok", "moe_topk", "top_k_experts", "moe_k", "num_experts_per_token") or 1
    seen: set[int] = set()
    shapes = [_shapes(layer, topk, seen) for layer in layers]
    if run:
        try:
            (_, short), (_, long) = (watch(model, layers, tokens) for tokens in LENGTHS)
            return [{**shape, **_fitted(*pair)} for shape, *pair in zip(shapes, short, long, strict=True)], "run"
        except Exception as error:  # whatever a model's code does with values that are not there
            print(f"not run on the meta device: {type(error).__name__}: {error}", file=sys.stderr)
    return [{**shape, **_reckoned(model, layer, shape)} for shape, layer in zip(shapes, layers, strict=True)], "shapes"


def _shapes(layer: Any, topk: int, seen: set[int]) -> dict[str, Any]:
    """Parameters, each once in the whole model; those of experts are stacked as (experts, outputs, inputs)."""
    own = [p for p in layer.parameters() if id(p) not in seen]
    seen.update(map(id, own))
    stacked = [p for p in own if p.dim() == 3 and p.shape[0] > 1 and min(p.shape[1:]) > 16]
    experts = stacked[0].shape[0] if stacked else 1
    stacked = [p for p in stacked if p.shape[0] == experts]
    return {
        "parameters": sum(p.numel() for p in own),
        "expert_parameters": sum(p.numel() for p in stacked),
        "experts": experts,
        "topk": min(topk, experts),
    }


def _fitted(short: Seen, long: Seen) -> dict[str, Any]:
    """Per token: ``flops + 2*scores*sequence`` and ``saved + saved_squared*sequence`` through both runs."""
    first, second = LENGTHS

    def line(name: str) -> tuple[float, float]:
        low, high = getattr(short, name) / first, getattr(long, name) / second
        slope = max(0.0, (high - low) / (second - first))
        return low - slope * first, slope

    (flops, scores), (saved, saved_squared), (moved, moved_squared) = map(line, ("flops", "saved", "moved"))
    return {
        **{"flops": round(flops), "scores": round(scores / 2), "kernels": max(1, short.kernels)},
        **{"saved": saved, "saved_squared": saved_squared, "moved": moved, "moved_squared": moved_squared},
    }


def _reckoned(model: Any, layer: Any, shape: Mapping[str, int]) -> dict[str, Any]:
    """Each matrix times each token; every linear layer keeps its input and passes its output on."""
    linear = [m for m in layer.modules() if isinstance(m, torch.nn.Linear)]
    width = _size(model, "num_attention_heads") or 1
    size = _size(model, "head_dim") or (_size(model, "hidden_size") or 0) // width
    kept = sum(2 * m.in_features + 2 * m.out_features for m in linear)
    products = sum(2 * m.weight.numel() for m in linear)
    products += 2 * shape["topk"] * shape["expert_parameters"] // shape["experts"]
    return {"flops": products, "scores": 2 * width * size, "saved": float(kept), "moved": 2.0 * kept, "kernels": 60}


def _sizes(model: Any, layers: Sequence[Any]) -> dict[str, Any]:
    head = _head(model)
    hidden = head.in_features if head is not None else _size(model, "hidden_size", "d_model", "n_embd") or 1
    heads = _size(model, "num_attention_heads", "n_head", "num_heads") or 1
    return {
        "layers": len(layers),
        "hidden": hidden,
        "vocab": head.out_features if head is not None else _size(model, "vocab_size") or 1,
        "heads": heads,
        "kv_heads": _size(model, "num_key_value_heads") or heads,
        "head_dim": _size(model, "head_dim") or max(1, hidden // heads),
        "ffn": _size(model, "intermediate_size", "ffn_dim", "n_inner") or 4 * hidden,
        "max_positions": _size(model, "max_position_embeddings", "n_positions", "max_seq_len") or 2**20,
    }


def _size(model: Any, *names: str) -> int | None:
    """The first of these that the text configuration states as a positive whole number."""
    config = model.config.get_text_config()
    stated = (_stated(config, name) for name in names)
    return next((value for value in stated if isinstance(value, int) and value > 0), None)


def _stated(config: Any, name: str) -> Any:
    """None where layers differ: transformers refuses to name one value for all."""
    try:
        return getattr(config, name, None)
    except Exception:
        return None


def _head(model: Any) -> Any:
    head = model.get_output_embeddings()
    return head if isinstance(head, torch.nn.Linear) else None


if __name__ == "__main__":
    main()
