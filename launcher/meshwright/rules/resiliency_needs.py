"""What restarts by nvidia-resiliency-ext need on the nodes. Places: megatron-core 0.19.2, below ``megatron/``."""

from __future__ import annotations

from meshwright.rules._requirement import Requirement

__all__ = ["NEEDS"]

_EXTENSION = "pip install 'nvidia-resiliency-ext>=0.6.0', whose wheels need glibc 2.39 (Ubuntu 24.04)"

NEEDS: tuple[Requirement, ...] = (
    Requirement(
        component="resiliency",
        backend="megatron",
        option="launch.resiliency.launcher=ft_launcher",
        asked=lambda spec: spec.launch.resiliency.launcher == "ft_launcher",
        install=_EXTENSION,
        instead="launch.resiliency.launcher=torchrun",
        source="megatron-core 0.19.2, training/ft_integration.py:126 passes num_warmup_iters, which "
        "nvidia-resiliency-ext 0.6.0 takes (fault_tolerance/rank_monitor_client.py:399) and 0.5.0 does not (:325)",
        least="0.6.0",
    ),
    Requirement(
        component="resiliency",
        backend="megatron",
        option="backend.megatron.extra=[--inprocess-restart]",
        asked=lambda spec: "--inprocess-restart" in spec.backend.megatron.extra,
        install=_EXTENSION,
        instead="backend.megatron.extra=[]",
        source="megatron-core 0.19.2, training/inprocess_restart.py:18, which without it warns and goes on; 0.4.1 has "
        "all that it names (inprocess/nested_restarter.py:62)",
        least="0.4.1",
    ),
)
