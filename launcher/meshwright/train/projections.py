"""The linear layers of a mixer of ours: those of Megatron's attention, of widths of our own, without biases."""

from __future__ import annotations

from typing import Any

__all__ = ["into", "out_of"]


def into(config: Any, submodules: Any, group: Any, width: int) -> Any:
    """What attention builds for queries, keys and values: the hidden size to ``width``, cut along ``width``."""
    return submodules.linear_qkv(
        config.hidden_size,
        width,
        init_method=config.init_method,
        gather_output=False,
        skip_bias_add=False,
        tp_comm_buffer_name="qkv",
        **_shared(config, group),
    )


def out_of(config: Any, submodules: Any, group: Any, width: int) -> Any:
    """What attention builds for its output: ``width``, which is cut, to the hidden size, summed over the group."""
    return submodules.linear_proj(
        width,
        config.hidden_size,
        init_method=config.output_layer_init_method,
        input_is_parallel=True,
        skip_bias_add=True,
        tp_comm_buffer_name="proj",
        **_shared(config, group),
    )


def _shared(config: Any, group: Any) -> dict[str, Any]:
    return {"config": config, "bias": False, "is_expert": False, "tp_group": group}
