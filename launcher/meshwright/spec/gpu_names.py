"""Which cluster has a GPU, by whatever name people, published rows or nvidia-smi call it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import yaml

__all__ = ["cluster_with", "known_gpus", "names_of", "unknown_gpu"]

_MAKERS = r"nvidia|amd|instinct|tesla|geforce|gpus?|class|graphics|accelerator|blackwell|server|edition"
_FORM = r"sxm\d*|oam|ac|hbm\d\w*|gddr\d\w*"  # of a socket or of memory chips; a PCIe card is another GPU
_SPELLINGS = (
    (r"\(uuid: [^)]*\)|^gpu \d+:", " "),  # what nvidia-smi -L adds
    (r"^\s*\d+\s*(x|\*|×)\s*(?=[a-z])", " "),  # how many of them
    (r"(\d+)\s*(gib|gb|g)\b", r"\1gb"),
    (r"\b(g?[avhbl]\d+[a-z]?)(sxm|pcie|nvl)", r"\1 \2"),
    (r"\bmi[ -](\d{3})", r"mi\1"),
    (r"\brtx(\d)", r"rtx \1"),
)
"""(pattern, what it means) of a name in small letters."""
_SAYS_NOTHING = re.compile(f"{_MAKERS}|{_FORM}")


def cluster_with(gpu: str) -> str | None:
    """The option of conf/cluster whose nodes have ``gpu``, such as ``NVIDIA H100 80GB HBM3``; None: no table knows it.

    A question mark or brackets say that a source left its GPU to be guessed; they do not count.
    """
    return _clusters().get(_words(gpu))


def known_gpus() -> tuple[str, ...]:
    """The first name of every GPU of the table, in its order."""
    return tuple(names[0] for names in _table().values())


def names_of(cluster: str) -> tuple[str, ...]:
    """What the GPU of a cluster is called, where the table has it."""
    return _table().get(cluster, ())


_ELSEWHERE = re.compile(r"gaudi|\bhl-?\d|\btpu|ascend|\bnpu|trainium|\btrn\d", re.IGNORECASE)
"""Accelerators that torch reaches by other devices than CUDA's. DeepSpeed knows some (deepspeed/accelerator/), our
programs on the nodes ask for CUDA or ROCm, as Megatron-core does."""


def unknown_gpu(gpu: str) -> str:
    """What to say of a GPU that no table knows."""
    if _ELSEWHERE.search(gpu):
        return f"{gpu!r} is no GPU: what runs on the nodes asks for CUDA or ROCm"
    return f"no cluster describes the GPU {gpu!r}; known are {', '.join(known_gpus())}"


@cache
def _table() -> Mapping[str, tuple[str, ...]]:
    text = files("meshwright").joinpath("data", "gpus.yaml").read_text("utf-8")
    return {cluster: tuple(names) for cluster, names in yaml.safe_load(text).items()}


@cache
def _clusters() -> Mapping[frozenset[str], str]:
    return {_words(name): cluster for cluster, names in _table().items() for name in names}


def _words(name: str) -> frozenset[str]:
    text = name.lower().replace("_", " ")
    for written, meant in _SPELLINGS:
        text = re.sub(written, meant, text)
    words = re.findall(r"[a-z0-9.]+", text)
    return frozenset(word for word in words if not _SAYS_NOTHING.fullmatch(word))
