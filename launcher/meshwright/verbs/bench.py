"""``meshwright bench [cluster=NAME] [out=FILE]``: this machine measured, and a cluster file of what it reaches."""

from __future__ import annotations

import platform
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from meshwright.compose import Options
from meshwright.errors import ConfigError, Problem
from meshwright.layout.plan import Plan
from meshwright.loading import load
from meshwright.resolver import resolve
from meshwright.spec import Cluster, Spec
from meshwright.verbs import Words

if TYPE_CHECKING:
    from meshwright.bench.constants import Machine

__all__ = ["run"]


def run(words: Words) -> int:
    """Measure with the shapes of the plan's layers; print roof and reached, write the cluster where ``out`` says."""
    if "layer" in words.overrides:
        return _layer(replace(words, overrides=tuple(word for word in words.overrides if word != "layer")))
    from meshwright.bench.constants import machine
    from meshwright.bench.run import measure
    from meshwright.report.bench import document, show
    from meshwright.report.print_json import print_json

    options, plan = _asked(words)
    found = measure(plan, Path(options.links) if options.links else None)
    cluster = plan.spec.cluster
    result = machine(cluster, found, _source(cluster))
    if options.output == "json":
        print_json(document(found, result))
    else:
        show(found, result)
    if options.out is not None:
        _write(Path(options.out), cluster.name, result)
    return 0


def _layer(words: Words) -> int:
    """One layer and the head of the plan's shard, measured beside predicted, module by module."""
    from meshwright.bench.run import measure_layer
    from meshwright.bench.shard import shard
    from meshwright.report.bench import layer_document, show_layer
    from meshwright.report.print_json import print_json

    options, plan = _asked(words)
    rows = measure_layer(shard(plan.spec, plan.spec.cluster.accelerator.capability != "0.0"))
    if options.output == "json":
        print_json(layer_document(rows))
    else:
        show_layer(rows)
    return 0


def _asked(words: Words) -> tuple[Options, Plan]:
    """The options, and the plan of the first stage; without a number of GPUs it is one replica.

    Raises:
        ConfigError: where this machine is another than the cluster is made of.

    """
    asked = load(words.overrides, words.config_dir)
    spec = asked.stages[0]
    _refuse_other_machine(spec.cluster)
    return asked.options, resolve(_with_gpus(spec))


def _with_gpus(spec: Spec) -> Spec:
    p = spec.parallelism
    if spec.cluster.gpus or spec.cluster.nodes or p.dp:
        return spec
    return replace(spec, cluster=replace(spec.cluster, gpus=p.tp * p.cp * p.pp * max(1, p.ep // (p.tp * p.cp))))


def _refuse_other_machine(cluster: Cluster) -> None:
    from meshwright.measured.gpu_names import same_gpu
    from meshwright.train.installed import gpus

    here = next((gpu["name"] for gpu in gpus()), None)
    if here is None and cluster.accelerator.capability != "0.0":
        has = f"{cluster.name} has {cluster.accelerator.name}"
        message = f"{has}, and no GPU is visible here; bench there, or cluster=local_cpu"
    elif here is not None and not same_gpu(here, cluster):
        message = f"{cluster.name} has {cluster.accelerator.name}, here is {here}; choose the cluster that has it"
    else:
        return
    raise ConfigError([Problem("cluster", message, "bench.cluster")])


def _source(cluster: Cluster) -> str:
    kept = f"overlap, step_ms, spread and links without several ranks are {cluster.name}'s"
    return f"measured by meshwright bench on {platform.node()}, {date.today().isoformat()}; {kept}"


def _write(path: Path, base: str, result: Machine) -> None:
    from meshwright.bench.file import text

    try:
        path.write_text(text(path.stem, base, result))
    except OSError as error:
        raise ConfigError([Problem("out", f"cannot write {path}: {error.strerror}; name another file")]) from None
    print(f"{path}: put it in the folder cluster/ of a --config-dir and choose cluster={path.stem}")
