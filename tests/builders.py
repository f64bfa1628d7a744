"""Specs to test with, built by hand: no Hydra, no files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from meshwright.layout.plan import Plan
from meshwright.spec import (
    Accelerator,
    Backend,
    Cluster,
    Launch,
    Link,
    Model,
    Parallelism,
    PipelineSplit,
    Spec,
    Training,
)

__all__ = ["H100", "LLAMA_405B", "cluster", "llama_405b", "renamed", "small_model", "spec"]

H100 = Accelerator(
    name="H100",
    memory_gib=80,
    memory_bandwidth_gb_s=3350,
    bf16_tflops=989,
    fp8_tflops=1979,
    fp32_tflops=494,
    capability="9.0",
)

LLAMA_405B = Model(
    name="llama3_405b",
    layers=126,
    hidden=16384,
    ffn=53248,
    heads=128,
    kv_heads=8,
    head_dim=128,
    vocab=128256,
    max_positions=131072,
    activation="swiglu",
    norm="rmsnorm",
    positions="rope",
    transformers="llama",
)


def cluster(gpus: int, gpus_per_node: int = 8) -> Cluster:
    """``gpus`` H100s."""
    return Cluster(
        name="h100",
        gpus=gpus,
        gpus_per_node=gpus_per_node,
        accelerator=H100,
        intra=Link(bandwidth_gb_s=450, latency_us=2),
        inter=Link(bandwidth_gb_s=50, latency_us=5),
    )


def small_model(**changes: Any) -> Model:
    """A little Llama: 8 layers, 8 heads, 4 key/value heads."""
    model = Model(
        name="small",
        layers=8,
        hidden=128,
        ffn=256,
        heads=8,
        kv_heads=4,
        head_dim=16,
        vocab=1000,
        max_positions=4096,
        activation="swiglu",
        norm="rmsnorm",
        positions="rope",
        transformers="llama",
    )
    return replace(model, **changes)


def spec(model: Model, gpus: int, sequence: int = 512, global_batch: int | None = None, **degrees: Any) -> Spec:
    """A Spec of ``model`` on H100s with the given degrees of Parallelism."""
    return Spec(
        name=model.name,
        model=model,
        cluster=cluster(gpus),
        parallelism=Parallelism(**degrees),
        training=Training(sequence=sequence, global_batch=global_batch),
        backend=Backend(),
        launch=Launch(),
    )


def llama_405b() -> Spec:
    """Llama 3 405B at 8K on 16,384 GPUs."""
    split = PipelineSplit(embedding=True, loss=True)
    return spec(LLAMA_405B, 16384, 8192, 2048, tp=8, sp=True, pp=16, zero=1, pipeline_split=split)


def renamed(plan: Plan, name: str) -> Plan:
    """``plan`` under a name, of itself and its model, that ``resolve`` would refuse."""
    return replace(plan, spec=replace(plan.spec, name=name, model=replace(plan.spec.model, name=name)))
