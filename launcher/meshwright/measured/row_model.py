"""The architecture behind a measured run: sizes from its columns, the rest from the family its name belongs to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from meshwright.library.files import option, options
from meshwright.measured.cells import count, number, said
from meshwright.measured.model_names import bare
from meshwright.measured.row_techniques import capacity_of
from meshwright.model.count import total_parameters
from meshwright.spec.decode import decode
from meshwright.spec.model import Mla, Model, Moe

__all__ = ["known_model", "model_of", "routed"]

_GATED = (
    *("llama", "mixtral", "deepseek", "qwen", "kimi", "gpt-oss", "grok", "gemma", "yi"),
    *("mistral", "internlm", "baichuan", "olmo", "smollm", "minicpm", "glm", "granite", "stablelm", "moonlight"),
    *("vicuna", "exaone", "ernie", "hunyuan", "minimax", "intellect", "apertus", "llm-jp"),
)
"""Families of gated MLPs, RMSNorm and rotary positions, whatever else their sizes say."""
_FAMILIES = (*_GATED, "gpt", "mpt", "nemotron", "opt", "bloom", "bs-", "megatron", "mt-nlg", "pythia", "falcon")
"""Those whose MLPs are known; of others the published parameters say whether they are gated."""
_LLAMA_3_1 = re.compile(r"llama[\W_]*3[\W_]*[13](?=[\W_]|$)")
_SIZES = (r"_a\d+b$", r"_\d+(_\d+)?[bm](_a\d+b)?$")  # of one token, and of all
_HEAD_DIM = {"qwen3": 128}
_DEEPSEEK = Mla(
    q_lora_rank=1536, kv_lora_rank=512, qk_nope_dim=128, qk_rope_dim=64, v_dim=128
)  # arXiv 2405.04434, 2412.19437


def model_of(record: Mapping[str, str], dropout: float, attention_dropout: float) -> Model:
    """The model of one row: as conf/model has one of its name, else as its family does."""
    name = said(record, "model").lower()
    moe = _moe(record, name)
    latent = "deepseek" in name and ("v2" in name or "v3" in name) and moe is not None
    known = known_model(name)
    if known is not None and not latent and _as_wide(known, record):
        return replace(_sized(known, record, moe), attention_dropout=attention_dropout, hidden_dropout=dropout)
    nearest = _nearest(record, name, _routed_as(known, moe), _DEEPSEEK if latent else None)
    return replace(nearest, attention_dropout=attention_dropout, hidden_dropout=dropout)


def _nearest(record: Mapping[str, str], name: str, moe: Moe | None, mla: Mla | None) -> Model:
    """What comes nearest to the published parameters: embeddings tied or not and, of an unknown family, MLPs gated."""
    known = any(word in name for word in _FAMILIES)
    gated = any(word in name for word in _GATED)
    forms = [_of_family(record, name, moe, mla, form) for form in ([gated] if known else [False, True])]
    every = [replace(model, tied_embeddings=tied) for model in forms for tied in (False, True)]
    published = (number(record, "params_b") or 0) * 1e9
    return min(every, key=lambda m: abs(total_parameters(m) - published)) if published else every[0]


def _of_family(record: Mapping[str, str], name: str, moe: Moe | None, mla: Mla | None, gated: bool) -> Model:
    hidden, heads = count(record, "hidden"), count(record, "heads")
    return Model(
        name=name,
        layers=count(record, "layers"),
        hidden=hidden,
        ffn=count(record, "ffn", 4 * hidden),
        heads=heads,
        kv_heads=count(record, "kv_heads", heads),
        head_dim=_HEAD_DIM.get(name.split("-")[0], hidden // heads) if not name.startswith("gpt-oss") else 64,
        vocab=count(record, "vocab", 51200),
        max_positions=count(record, "seq"),
        activation="swiglu" if gated else "squared_relu" if "nemotron" in name else "gelu",
        norm="rmsnorm" if gated else "layernorm",
        positions="rope" if gated or "nemotron" in name else "learned",
        linear_bias=not gated and "nemotron" not in name,
        mla=mla,
        moe=moe,
        mtp=count(record, "mtp", 0, least=0),
    )


def known_model(name: str) -> Model | None:
    """Our own model of that name, as plans have it (soft caps, windows, norms); fewer layers are said by ``-l4``.

    Words may be parted otherwise, and the size left out where one model alone has the rest of the name:
    ``Kimi-K2``, ``llama4-scout``, ``nemotron-3-super-120b`` (our nemotron_3_super_120b_a12b). Llama 3.1 and 3.3 are as
    Llama 3; a size may stand behind a name that needs none, ``DeepSeek-V3-671B``.
    """
    short = re.sub(r"-l\d+$", "", _LLAMA_3_1.sub("llama3", bare(name)))
    found = _known().get(_plain(short))
    return decode(Model, option("model", found)) if found else _by_its_version(short)


def _by_its_version(name: str) -> Model | None:
    """The one of that version, if it has as many parameters as the name says: not a smaller DeepSeek-V3 of 16B."""
    sized = re.fullmatch(r"(.*?)[\W_]+(\d+)b", name)
    found = _known().get(_plain(sized[1])) if sized else None
    if sized is None or found is None:
        return None
    model = decode(Model, option("model", found))
    return model if abs(total_parameters(model) / (1e9 * int(sized[2])) - 1) < 0.1 else None


@cache
def _known() -> Mapping[str, str]:
    """Options of conf/model by their names, and without sizes, where what is left has a version and is one's alone."""
    names = options("model")
    shorter = Counter(_plain(re.sub(form, "", known)) for form in _SIZES for known in names)
    alone = {(_plain(re.sub(form, "", known))): known for form in _SIZES for known in names}
    versioned = {plain: known for plain, known in alone.items() if shorter[plain] == 1 and re.search(r"..\d..", plain)}
    active = {_plain(re.sub(_SIZES[0], "", known)): known for known in names}
    return versioned | active | {_plain(known): known for known in names}


def routed(record: Mapping[str, str]) -> bool:
    """Whether the model has experts: its column says so, or that of its name does where the column is empty."""
    stated, known = said(record, "num_experts"), known_model(said(record, "model"))
    return count(record, "num_experts", 0, least=0) > 0 if stated else known is not None and known.moe is not None


def _plain(name: str) -> str:
    """Without what parts its words, but for what stands between two digits."""
    return re.sub(r"[\W_]+", "_", re.sub(r"(?<!\d)[\W_]+|[\W_]+(?!\d)", "", name))


def _as_wide(known: Model, record: Mapping[str, str]) -> bool:
    """Of latent attention the columns say too little to make it wider or narrower."""
    sizes = {name: count(record, name, getattr(known, name)) for name in ("hidden", "heads")}
    return known.mla is None or sizes == {name: getattr(known, name) for name in sizes}


def _sized(known: Model, record: Mapping[str, str], moe: Moe | None) -> Model:
    """``known`` with the sizes of the columns; prediction layers are as the column says."""
    experts = known.moe if moe is None else None
    if known.moe is not None and moe is not None:
        stated = said(record, "moe_ffn") or said(record, "ffn")
        width = moe.ffn if stated else known.moe.ffn
        capacity = moe.capacity_factor
        experts = replace(known.moe, experts=moe.experts, topk=moe.topk, ffn=width, capacity_factor=capacity)
    mtp, _, ahead = said(record, "mtp").partition(":")  # "2:*E": twice by one layer of these kinds
    return replace(
        known,
        pattern=f"{known.pattern}/{ahead}" if ahead else known.pattern,
        mtp_repeated=bool(ahead),
        layers=count(record, "layers", known.layers),
        hidden=count(record, "hidden", known.hidden),
        ffn=count(record, "ffn", known.ffn),
        heads=count(record, "heads", known.heads),
        kv_heads=count(record, "kv_heads", known.kv_heads),
        vocab=count(record, "vocab", known.vocab),
        max_positions=max(known.max_positions, count(record, "seq")),
        moe=experts,
        mtp=count({"mtp": mtp}, "mtp", 0, least=0),
    )


def _routed_as(known: Model | None, moe: Moe | None) -> Moe | None:
    """``moe`` with the router of ``known``: no column says how experts are scored and their load is evened."""
    if known is None or known.moe is None or moe is None:
        return moe
    return replace(moe, **{name: getattr(known.moe, name) for name in _ROUTER})


_ROUTER = (
    *("score", "score_before_topk", "normalize_topk", "router_bias"),
    *("groups", "group_topk", "balancing", "aux_loss"),
)


def _moe(record: Mapping[str, str], name: str) -> Moe | None:
    experts = count(record, "num_experts", 0, least=0)
    if not experts:
        return None
    ffn = count(record, "moe_ffn", count(record, "ffn", 4 * count(record, "hidden")))
    shared = 2 * ffn if "v2" in name and "deepseek" in name else ffn if "deepseek-v3" in name or "v3" in name else 0
    first = 0
    if "deepseek" in name:
        first = 3 if "v3" in name else 1
        first = min(first, 1) if count(record, "layers") <= 8 else first
    return Moe(
        experts=experts,
        topk=count(record, "topk", 2),
        ffn=ffn,
        shared_ffn=shared,
        first_dense=first,
        capacity_factor=capacity_of(record)[0],
    )
