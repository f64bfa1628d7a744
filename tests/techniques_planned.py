"""Layouts that tests of techniques add theirs to: a mixture of experts on Blackwell, a dense model on one node."""

from __future__ import annotations

from meshwright.layout.plan import Plan
from meshwright.loading import load
from meshwright.resolver import resolve

B = "backend.megatron."
V3 = (
    "model=deepseek_v3",
    "cluster=gb200_nvl72",
    "cluster.gpus=256",
    "training.sequence=4096",
    "training.global_batch=2048",
    "parallelism=zero1",
    "parallelism.pp=4",
    "parallelism.vpp=4",
    "parallelism.ep=64",
    "parallelism.pipeline_split.layout='Et*4|(t*4|)*14tmL'",
)
DENSE = ("model=llama3_8b", "cluster.gpus=8", "training.global_batch=64", "training.sequence=8192")
AWAY = f"{B}activation_offload.modules=[core_attn,attn_proj,moe_act]"


def planned(*words: str) -> Plan:
    return resolve(load(list(words)).stages[0])
