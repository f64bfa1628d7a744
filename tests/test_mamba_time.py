"""The scan of Mamba-2 against what others measured of its kernels."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.cost.compute import operation
from meshwright.cost.inputs import scene
from meshwright.library.files import option
from meshwright.measured.rows import cluster_named, layout_of
from meshwright.resolver import normalise
from meshwright.spec import Backend, Launch, Model, Spec, Training
from meshwright.spec.decode import decode
from meshwright.spec.parallelism import Parallelism


def test_a_scan_takes_what_its_kernels_were_measured_to_take() -> None:
    """8,192 tokens, 128 heads of 64 channels, one group, 128 states on an H100: 1.262e7 tokens a second forward.

    vllm-project/vllm#27299, the kernels that training runs ("Original").
    """
    model = decode(Model, option("model", "nemotron_3_super_120b_a12b"))
    assert model.mamba is not None
    one = replace(model, mamba=replace(model.mamba, groups=1))
    cluster = replace(cluster_named("dgx_h100"), gpus=8)
    training = Training(sequence=8192, micro_batch=1, global_batch=8)
    spec = Spec(
        name="scan",
        model=one,
        cluster=cluster,
        parallelism=Parallelism(dp=8),
        training=training,
        backend=Backend(name="megatron"),
        launch=Launch(),
    )
    s = scene(layout_of(normalise(spec)))
    (core,) = {o for layer in s.layers for o in layer if o.name == "mamba.core"}
    took = operation(s, core)
    assert float(took.forward) == pytest.approx(8192 / 1.262e7, rel=0.1)
    assert float(took.backward) > 2.5 * float(took.forward)  # it makes the states again before its own gradients
