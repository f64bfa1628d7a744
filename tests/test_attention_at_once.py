"""What unfused attention takes while it runs: counted in PyTorch's own modules, and in a layout's workspace."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import small_model, spec
from meshwright.cost.estimate import estimate
from meshwright.cost.framework import Framework, framework_of
from meshwright.resolver import layout, normalise
from meshwright.rules import Layout

HEADS, BATCH = 16, 2
MODEL = small_model(
    layers=2,
    hidden=256,
    ffn=512,
    heads=HEADS,
    kv_heads=HEADS,
    vocab=512,
    max_positions=8192,
    activation="gelu",
    norm="layernorm",
)


def of(sequence: int, attention: Any = "unfused", heads: int = HEADS, **parallelism: Any) -> Layout:
    one = spec(replace(MODEL, heads=heads, kv_heads=heads), 1, sequence, BATCH, **parallelism)
    own = replace(one.backend.megatron, transformer="local", attention=attention)
    training = replace(one.training, micro_batch=BATCH)
    return layout(normalise(replace(one, training=training, backend=replace(one.backend, megatron=own))))


def bytes_of(numbers: Layout, field: str) -> float:
    return float(getattr(estimate(numbers, framework_of(numbers)).stages[0], field))


@pytest.fixture(scope="module")
def found() -> dict[str, tuple[float, float]]:
    pytest.importorskip("megatron.core")
    pytest.importorskip("transformers")
    program = Path(__file__).with_name("attention_at_once.py")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: tuple(each) for name, each in json.loads(done.stdout.splitlines()[-1]).items()}


def test_transformers_attention_has_as_much_at_once(found: dict[str, tuple[float, float]]) -> None:
    assert found["transformers"] == (6.0, Framework().score_bytes)


def test_megatron_s_attention_has_as_much_at_once_without_its_kernel(found: dict[str, tuple[float, float]]) -> None:
    framework = framework_of(of(8192))
    assert framework.softmax_in_pieces
    buffer = framework.score_buffer
    assert found["megatron"] == (2.0 + buffer, framework.score_bytes + buffer)


@pytest.mark.parametrize(("sequence", "heads", "pieces"), [(4096, 16, False), (4096, 1, True), (8192, 16, True)])
def test_one_kernel_takes_short_sequences_of_four_heads(sequence: int, heads: int, pieces: bool) -> None:
    """megatron/core/fusions/fused_softmax.py:238."""
    assert framework_of(of(sequence, heads=heads)).softmax_in_pieces == pieces


@pytest.mark.parametrize(("sequence", "gradients"), [(4096, 2), (8192, 6)])
def test_its_backward_holds_gradients_of_scores(sequence: int, gradients: int) -> None:
    """Beside 2 bytes that are kept, where the feed-forward part behind it is gone; recomputed, these 2 as well."""
    scores, tokens = BATCH * HEADS * sequence**2, BATCH * sequence
    behind = tokens * (4 * MODEL.hidden + 4 * MODEL.ffn)  # the norm's input and output, and GELU's
    numbers, again = of(sequence), of(sequence, recompute="selective")
    assert bytes_of(numbers, "workspace") == gradients * scores - behind + 2 * tokens * MODEL.hidden - head(numbers)
    assert bytes_of(again, "workspace") == bytes_of(numbers, "workspace") + 2 * scores


def head(numbers: Layout) -> float:
    """What is at the loss is gone then."""
    return bytes_of(numbers, "logits")


def test_megatron_keeps_a_buffer_of_scores() -> None:
    assert bytes_of(of(4096), "framework") == 2 * BATCH * HEADS * 4096**2
