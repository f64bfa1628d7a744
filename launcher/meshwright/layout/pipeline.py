"""How layers fall on pipeline stages and their chunks, as Megatron-core deals them out.

Chunks are walked in the order of the model: chunk ``v`` of stage ``p`` comes before chunk ``v`` of stage ``p + 1``,
and all chunks ``v`` before chunks ``v + 1`` (megatron/core/transformer/transformer_block.py
``get_num_layers_to_build``, transformer_layer.py ``get_transformer_layer_offset``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from meshwright.layout.plan import Chunk
from meshwright.spec import PipelineSplit
from meshwright.spec.model import Model

__all__ = ["chunk_layers", "parse_layout", "split"]


def split(model: Model, pp: int, vpp: int, division: PipelineSplit) -> tuple[tuple[Chunk, ...], ...]:
    """The chunks of every stage: ``result[stage][chunk]``. The rules of the pipeline must hold."""
    slots = (
        [parse_layout(division.layout)[v * pp + p] for v in range(vpp) for p in range(pp)]
        if division.layout
        else [_slot(model, pp, vpp, division, p, v) for v in range(vpp) for p in range(pp)]
    )
    chunks = list(_chunks(model, slots))
    return tuple(tuple(chunks[v * pp + p] for v in range(vpp)) for p in range(pp))


def parse_layout(layout: str) -> list[str]:
    """Megatron's layout string unrolled: one string of E, t, m, L for each chunk in model order.

    ``x*n`` repeats a character, ``(...)*n`` a group, ``|`` ends a chunk, commas are cosmetic
    (megatron/core/transformer/pipeline_parallel_layer_layout.py ``parse_str_to_list``).
    """
    layout = layout.replace(",", "")
    for pattern in (r"\(([^)]+)\)\*(\d+)", r"(.)\*(\d+)"):
        layout = re.sub(pattern, lambda match: match.group(1) * int(match.group(2)), layout)
    return layout.split("|")


def chunk_layers(layers: int, pp: int, vpp: int, division: PipelineSplit, stage: int) -> int:
    """Layer slots of one chunk of ``stage``; the embedding and the loss may take one each."""
    if division.first is None and division.last is None:
        return (layers + division.embedding + division.loss) // (pp * vpp)
    if stage == 0 and division.first is not None:
        return division.first // vpp
    if stage == pp - 1 and division.last is not None:
        return division.last // vpp
    middle_stages = pp - (division.first is not None) - (division.last is not None)
    return (layers - (division.first or 0) - (division.last or 0)) // middle_stages // vpp


def _slot(model: Model, pp: int, vpp: int, division: PipelineSplit, stage: int, chunk: int) -> str:
    """What one chunk holds, in the letters of the layout string."""
    layers = chunk_layers(model.layers, pp, vpp, division, stage)
    first, last = stage == chunk == 0, stage == pp - 1 and chunk == vpp - 1
    layers -= (first and division.embedding) + (last and division.loss)
    return "E" * first + "t" * layers + ("m" * model.mtp + "L") * last


def _chunks(model: Model, slots: list[str]) -> Iterator[Chunk]:
    """With MTP the final norm follows the last decoder layer, else it stands with the loss (transformer_block.py)."""
    done = 0
    for slot in slots:
        layers = slot.count("t")
        last_layer = layers > 0 and done + layers == model.layers
        yield Chunk(
            first=done,
            layers=layers,
            embedding="E" in slot,
            mtp=slot.count("m"),
            final_norm=last_layer if model.mtp else "L" in slot,
            loss="L" in slot,
        )
        done += layers
