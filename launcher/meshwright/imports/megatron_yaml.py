"""Megatron-LM's arguments from YAML, and from the block that a run prints of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from meshwright.imports.documents import Leaves
from meshwright.imports.found import Found, Given, Place, Source, shown
from meshwright.imports.libraries import read_by_libraries
from meshwright.imports.literal import literal
from meshwright.imports.megatron import PATHS, of_arguments, of_flags
from meshwright.imports.megatron_arguments import Word, known
from meshwright.imports.unknown import clean, mark

__all__ = ["ARGUMENT", "argument_of", "flag_words", "of_flag_yaml", "of_log", "of_values", "of_yaml", "printed"]

FIELDS = {
    "num_moe_experts": "num_experts",
    "gated_linear_unit": "swiglu",
    "bias_activation_fusion": "bias_gelu_fusion",
    "virtual_pipeline_model_parallel_size": "num_virtual_stages_per_pipeline_rank",
    "num_layers_in_first_pipeline_stage": "decoder_first_pipeline_num_layers",
    "num_layers_in_last_pipeline_stage": "decoder_last_pipeline_num_layers",
    "overlap_p2p_comm": "overlap_p2p_comm",
    "grad_reduce_in_fp32": "accumulate_allreduce_grads_in_fp32",
    "vocab_size": "vocab_size",
}
"""Fields of Megatron-core's configuration objects whose argument has another name."""


def argument_of(name: str) -> str:
    """The argument that a field of a configuration object is filled from."""
    return FIELDS.get(name, name)


def of_yaml(leaves: Leaves, world: int | None = None) -> Source:
    """A file for ``--yaml-cfg``: fields of the configuration objects in sections, arguments beside them."""
    given: dict[str, Given] = {}
    lost: list[Found] = []
    for path, one in leaves.items():
        name = argument_of(path.rpartition(".")[2].replace("-", "_"))
        if name == "activation_func":
            given |= _activation(one)
        elif known(name) or name in PATHS:
            given[name] = one
        else:
            lost.append(Found(path, shown(one.value), one.place, "dropped", reason="no argument of Megatron-LM 0.19.2"))
    return of_arguments(given, lost, "YAML of Megatron-LM's arguments", world)


def of_flag_yaml(leaves: Leaves, answers: Mapping[str, str], more: Sequence[Word] = (), world: int = 0) -> Source:
    """A file of flags: ``MODEL_ARGS: {--num-layers: 12}``, as Megatron-LM's own tests hold theirs.

    Its launcher puts the environment's values into it (envsubst): ``${TP}`` is what ``answers`` say, else open;
    ``more`` are words that it adds, ``world`` the ranks that it starts.
    """
    source = of_flags([*flag_words(leaves, answers), *more], "YAML of Megatron-LM's flags", world or None)
    others = {path: one for path, one in leaves.items() if not path.rpartition(".")[2].startswith("--")}
    exported = {path.removeprefix(_EXPORTED): one for path, one in others.items() if path.startswith(_EXPORTED)}
    kept = {name: str(one.value) for name, one in exported.items() if read_by_libraries(name)}
    found = (_other(path, one, path.removeprefix(_EXPORTED) in kept) for path, one in others.items())
    environment = {"launch.environment": kept} if kept else {}
    return replace(source, values={**source.values, **environment}, found=(*source.found, *found))


_EXPORTED = "ENV_VARS."


def _other(path: str, one: Given, kept: bool) -> Found:
    if kept and path.startswith(_EXPORTED):
        return Found(one.key, shown(one.value), one.place, "mapped", "launch.environment")
    return Found(one.key, shown(one.value), one.place, "dropped", reason="no flag of Megatron-LM")


def flag_words(leaves: Leaves, answers: Mapping[str, str]) -> Iterator[Word]:
    """The flags with their values; one of ``true`` stands alone, one of ``false`` is left out."""
    for path, one in leaves.items():
        flag = path.rpartition(".")[2]
        values = one.value if isinstance(one.value, list) else [one.value]
        texts = [text for value in values if value is not True for text in _texts(_filled(str(value), answers))]
        if flag.startswith("--") and one.value is not False and texts != ["false"]:
            yield flag, one.place
            yield from ((text, one.place) for text in texts if text != "true")


def _texts(text: str) -> list[str]:
    """Its launcher takes what is in brackets for several words (functional_tests/shell_test_utils/_run_training.sh)."""
    return text[1:-1].split() if re.fullmatch(r"\[[^]]+\]", text) else [text]


def _filled(text: str, answers: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda name: answers.get(name[1], mark(name[1])), text)


def _activation(one: Given) -> dict[str, Given]:
    name = {"swiglu": "swiglu", "silu": "swiglu", "squared_relu": "squared_relu"}.get(str(one.value))
    return {name: Given(one.key, True, one.place)} if name else {}


_BLOCK = re.compile(r"-{5,} (?:end of )?arguments -{5,}")
ARGUMENT = re.compile(r"(?:^|[\s:\]])(\w+) \.* *(\S.*)$")


def printed(text: str) -> bool:
    """Whether a log holds the block of arguments."""
    return _BLOCK.search(text) is not None


def of_log(lines: Iterable[str], file: str) -> Source:
    """The first block of arguments in a run's log: the values after all of Megatron's own changes."""
    given = {name: Given(name, _said(text), Place(file, number)) for number, name, text in _entries(lines)}
    return of_values(given, "log of a Megatron-LM run")


def of_values(given: Mapping[str, Given], kind: str) -> Source:
    """Arguments by their names with the values that a run had."""
    world = given["world_size"].value if "world_size" in given else None
    stated = {name: one for name, one in given.items() if (known(name) or name in PATHS) and not _copied(name, given)}
    lost = [
        Found(name, shown(one.value), one.place, "dropped", reason=_copied(name, given) or _NO_SUCH)
        for name, one in given.items()
        if name not in stated
    ]
    return of_arguments(stated, lost, kind, world if isinstance(world, int) else None)


_NO_SUCH = "megatron-core 0.19.2 has no such argument"


def _copied(name: str, given: Mapping[str, Given]) -> str:
    """Why an argument says nothing that another one does not: Megatron fills it in from that (arguments.py:1267)."""
    same = name == "encoder_num_layers" and "num_layers" in given and given[name].value == given["num_layers"].value
    return "num_layers says it; Megatron fills it in" if same else ""


def _entries(lines: Iterable[str]) -> Iterator[tuple[int, str, str]]:
    inside = False
    for number, line in enumerate(lines, 1):
        if _BLOCK.search(line):
            if inside:
                return
            inside = True
        elif inside and (match := ARGUMENT.search(clean(line.rstrip()))):
            yield number, match[1], match[2]


def _said(text: str) -> Any:
    """As ``print`` shows it."""
    words = {"None": None, "True": True, "False": False, "torch.float32": "fp32", "torch.float16": "fp16"}
    words |= {"torch.bfloat16": "bf16", "torch.uint8": "fp8"}
    if text in words:
        return words[text]
    if choice := re.fullmatch(r"[A-Z]\w+\.(\w+)", text):
        return choice[1]
    try:
        return literal(text)
    except ValueError:
        return text
