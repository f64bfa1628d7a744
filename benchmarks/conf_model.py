"""A file of conf/model from a config.json: ``python benchmarks/conf_model.py FOLDER NAME 'What it is' 'Source'``.

Prints the model as ``model=hf`` reads it, with a comment above each key, less what conf/model/_base.yaml says anyway.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from meshwright.compose import CONF
from meshwright.model.huggingface import read
from meshwright.spec.model import DeltaNet, Indexer, Mamba, Mla, Moe, Multipliers, RopeScaling

DEFAULTS = {
    path: {field.name: field.default for field in fields(kind)}
    for path, kind in (
        ("moe", Moe),
        ("mla", Mla),
        ("indexer", Indexer),
        ("delta_net", DeltaNet),
        ("mamba", Mamba),
        ("multipliers", Multipliers),
        ("rope.scaling", RopeScaling),
    )
}
ALWAYS = ("activation", "norm", "positions", "moe.score", "moe.normalize_topk")
COMMENTS = {
    "positions": "Position information.",
    "qk_norm": "Norm on queries and keys.",
    "init_std": "Standard deviation of the initial weights.",
    "full_attention_every": "Layer n, 2n, ... sees everything.",
    "moe": "Mixture of experts.",
    "moe.experts": "Routed experts a layer.",
    "moe.topk": "Experts a token is sent to.",
    "moe.ffn": "Intermediate size of one routed expert.",
    "moe.shared_ffn": "Intermediate size of all shared experts together.",
    "moe.shared_gate": "The shared experts' output is gated.",
    "moe.first_dense": "Dense layers before the first of experts.",
    "moe.every": "Of the others, every so many has experts.",
    "moe.score": "Router score.",
    "moe.score_before_topk": "Softmax over all experts before the choice.",
    "moe.normalize_topk": "The chosen experts' weights sum to 1.",
    "moe.router_bias": "A bias in the choice balances the experts.",
    "moe.groups": "Groups of experts.",
    "moe.group_topk": "Groups a token is sent to.",
    "moe.scaling": "Factor on the routed experts' output.",
    "moe.aux_loss": "Weight of the balancing loss.",
    "moe.latent": "Channels that routed experts see.",
    "moe.output_norm": "A norm stands behind the experts.",
    "moe.weights_on_input": "A token is multiplied by its weight before the expert, not behind it.",
    "mla": "Multi-head latent attention.",
    "mla.kv_lora_rank": "Width of the compressed keys and values.",
    "mla.q_lora_rank": "Width of the compressed queries. null: they are not compressed.",
    "mla.qk_nope_dim": "Channels of a head without positions.",
    "mla.qk_rope_dim": "Channels of a head with rotary positions.",
    "mla.v_dim": "Channels of a head's values.",
    "indexer": "Attention to the tokens that an indexer chooses.",
    "indexer.heads": "Its heads.",
    "indexer.head_dim": "Channels of one.",
    "indexer.topk": "Tokens that each one attends to.",
    "indexer.interleaved": "Its rotary positions turn neighbours.",
    "pattern": "The kind of every layer in symbols; see docs/models.md.",
    "delta_net": "Gated delta nets.",
    "delta_net.key_heads": "Heads of queries and keys.",
    "delta_net.value_heads": "Heads of values.",
    "delta_net.key_dim": "Channels of a head's queries and keys.",
    "delta_net.value_dim": "Channels of a head's values.",
    "mamba": "Mamba-2.",
    "mamba.heads": "Heads.",
    "mamba.head_dim": "Channels of a head.",
    "mamba.groups": "Groups of heads that share what goes in and out of a state.",
    "mamba.state": "Channels of a state.",
    "mamba.norm": "A norm stands behind the scan.",
    "multipliers": "Fixed factors inside the layers.",
    "multipliers.attention_in": "On what attention reads.",
    "multipliers.attention_out": "On what it gives.",
    "multipliers.mamba_in": "On what Mamba reads.",
    "multipliers.mamba_out": "On what it gives.",
    "multipliers.mamba_gate": "On its projection that gates the scan's output.",
    "multipliers.mamba_x": "On the one that is scanned.",
    "multipliers.mamba_write": "On what goes into a state.",
    "multipliers.mamba_read": "On what is read from it.",
    "multipliers.mamba_step": "On how far a token moves it.",
    "multipliers.mlp_gate": "On the MLP's gate, before its activation.",
    "multipliers.mlp_down": "On what the MLP gives.",
    "short_convolution": "Gated convolutions over a few tokens.",
    "short_convolution.kernel": "Tokens that each one sees.",
    "rope.scaling": "Stretching beyond the trained length.",
    "rope.scaling.kind": "How.",
    "rope.scaling.factor": "By how much.",
    "rope.scaling.original_positions": "Positions trained on before.",
    "rope.scaling.low_freq_factor": "Wavelengths longer than the trained length by this are stretched whole.",
    "rope.scaling.high_freq_factor": "Wavelengths shorter than the trained length by this are left.",
    "rope.scaling.beta_fast": "Turns in the trained length from which on nothing is stretched.",
    "rope.scaling.beta_slow": "Turns in the trained length up to which all is stretched.",
    "rope.scaling.truncate": "The channels between which it blends are whole numbers.",
    "rope.scaling.mscale": "Scale of attention's temperature.",
    "rope.scaling.mscale_all_dim": "The same for the channels without positions.",
}


def main(folder: str, name: str, title: str, source: str) -> None:
    print("\n".join(lines(Path(folder), name, title, source)))


def lines(folder: Path, name: str, title: str, source: str) -> Iterator[str]:
    """The file, line by line."""
    yield f"# {title}."
    yield f"# Source of every number: {source}."
    yield from ("defaults:", "  - _base", "  - _self_", "")
    yield from _mapping({**read(folder), "name": name}, _base(), "", _comments())


def _base() -> dict[str, Any]:
    base: dict[str, Any] = yaml.safe_load((CONF / "model" / "_base.yaml").read_text("utf-8"))
    return base


def _comments() -> Mapping[str, str]:
    """By path: the comment of _base.yaml above each key of its first two levels."""
    found, parent, comment = dict(COMMENTS), "", ""
    for line in (CONF / "model" / "_base.yaml").read_text("utf-8").splitlines():
        if line.lstrip().startswith("#"):
            first = re.split(r"[:;] ", line.lstrip("# "))[0].rstrip(".") + "."
            comment = re.sub(r"\. (null|0)\.$", ".", first)
        elif match := re.match(r"( *)(\w+):", line):
            parent = parent if match[1] else match[2]
            found.setdefault(f"{parent}.{match[2]}" if match[1] else match[2], comment)
    return found


def _mapping(
    values: Mapping[str, Any], base: Mapping[str, Any], root: str, comments: Mapping[str, str]
) -> Iterator[str]:
    depth = "  " * (root.count(".") if root else 0)
    order = [*(key for key in base if key in values), *(key for key in values if key not in base)]
    for key in order:
        path, value = f"{root}{key}", values[key]
        if value == base.get(key, ...) and path not in ALWAYS:
            continue
        if isinstance(value, Mapping):
            usual = base.get(key) or DEFAULTS.get(path, {})
            inside = list(_mapping(value, usual, f"{path}.", comments))
            yield from [f"{depth}# {comments[path]}", f"{depth}{key}:", *inside] if inside else []
        else:
            yield f"{depth}# {comments[path]}"
            yield f"{depth}{key}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    if isinstance(value, float):
        return re.sub(r"^(-?\d+)e", r"\1.0e", repr(value))  # YAML wants a dot
    return yaml.safe_dump(value).splitlines()[0]


if __name__ == "__main__":
    main(*sys.argv[1:5])
