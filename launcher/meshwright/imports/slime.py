"""slime's launch scripts: Megatron-LM's arguments among its own (THUDM/slime slime/utils/arguments.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from meshwright.imports.asks import open_ask
from meshwright.imports.former_flags import OTHER_MODELS
from meshwright.imports.found import Given, Source
from meshwright.imports.megatron import of_flags
from meshwright.imports.megatron_arguments import Word

__all__ = ["of_slime", "takes"]

_OWN = "slime's own: rollouts, rewards and inference; only the actor's training is read"
_ALWAYS = ("--use-distributed-optimizer", "--bf16")  # slime/backends/megatron_utils/arguments.py
_LENGTH, _DYNAMIC, _TOKENS = "--rollout-max-response-len", "--use-dynamic-batch-size", "--max-tokens-per-gpu"
_READ = {
    _LENGTH: "read as the length of a sequence",
    **dict.fromkeys((_DYNAMIC, _TOKENS), "read as whole answers of the longest length a micro-batch"),
}


def takes(flags: Sequence[str]) -> bool:
    """Whether these flags are slime's."""
    return "--actor-num-gpus-per-node" in flags


def of_slime(words: Sequence[Word]) -> Source:
    """The actor's training: answers of the longest length, one a micro-batch where it says none."""
    sizes = {text: words[number + 1] for number, (text, _) in enumerate(words[:-1])}
    stated = [*words, *_packed(words, sizes)]
    longest = sizes.get(_LENGTH)
    stated += [(flag, words[0][1]) for flag in _ALWAYS if flag not in sizes]
    given = {text for text, _ in stated}
    for flag, said in (("--seq-length", longest), ("--max-position-embeddings", longest), ("--micro-batch-size", None)):
        if flag not in given and (said or flag == "--micro-batch-size"):
            stated += [(flag, (said or words[0])[1]), said or ("1", words[0][1])]
    gpus = _world(sizes)
    source = of_flags(stated, "slime launch script", gpus)
    found = tuple(
        replace(one, reason=_READ.get(one.key, _OWN))
        if one.reason.endswith("has no such flag") and one.key not in OTHER_MODELS
        else one
        for one in source.found
    )
    text, where = sizes["--actor-num-gpus-per-node"]
    asked = () if gpus else (open_ask("cluster.gpus", Given("--actor-num-gpus-per-node", text, where)),)
    return replace(source, found=found, asks=(*asked, *source.asks))


def _packed(words: Sequence[Word], sizes: dict[str, Word]) -> list[Word]:
    """Batches of so many tokens a GPU, as whole answers of the longest length.

    slime's tokens are those of a rank of context parallelism (slime/backends/megatron_utils, utils/dp_schedule.py), and
    it reads no ``--micro-batch-size`` beside them.
    """
    named = (_TOKENS, _LENGTH, "--context-parallel-size")
    tokens, longest, cp = (sizes.get(flag, ("1" if flag.endswith("size") else "", None))[0] for flag in named)
    if _DYNAMIC not in (text for text, _ in words) or not all(one.isdigit() for one in (tokens, longest, cp)):
        return []
    count = max(1, int(tokens) * int(cp) // int(longest))
    place = sizes[_TOKENS][1]
    return [("--micro-batch-size", place), (str(count), place)]


def _world(sizes: dict[str, Word]) -> int | None:
    counts = [sizes.get(f"--actor-num-{what}", ("", None))[0] for what in ("nodes", "gpus-per-node")]
    return int(counts[0]) * int(counts[1]) if all(count.isdigit() for count in counts) else None
