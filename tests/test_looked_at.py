"""A config.json beyond any Model: transformers builds it once, its modules are read, DeepSpeed trains it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builders import small_model
from meshwright.compose import looked_at as module
from meshwright.cost import cost
from meshwright.cost.counts import forward_by_operation
from meshwright.emit.huggingface import config
from meshwright.errors import ConfigError
from meshwright.loading import load
from meshwright.model.count import active_parameters, total_parameters
from meshwright.model.huggingface import read
from meshwright.resolver import refusals, resolve
from meshwright.spec import Spec
from meshwright.spec.decode import decode
from meshwright.spec.model import Model

pytest.importorskip("transformers")

JAMBA: dict[str, Any] = {  # Mamba, attention and experts in one
    **{"model_type": "jamba", "architectures": ["JambaForCausalLM"], "vocab_size": 512, "hidden_size": 128},
    **{"intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2},
    **{"num_experts": 4, "num_experts_per_tok": 2, "attn_layer_period": 4, "attn_layer_offset": 2},
    **{"expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 16, "mamba_d_conv": 4},
    **{"mamba_expand": 2, "mamba_dt_rank": 8, "use_mamba_kernels": False, "max_position_embeddings": 2048},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def jamba(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("jamba"), JAMBA)


def written(folder: Path, settings: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def spec(folder: Path, *words: str) -> Spec:
    described = load(
        [
            *("model=hf", f"model.path={folder}", "cluster.gpus=8", "backend=deepspeed", "parallelism.zero=3"),
            *("training.sequence=1024", *words),
        ]
    )
    return described.stages[0]


def test_its_parameters_are_transformers_own(jamba: Path) -> None:
    from meshwright.verify.transformers import count

    model = spec(jamba).model
    assert model.measured is not None
    assert total_parameters(model) == resolve(spec(jamba)).total_parameters == count(JAMBA)
    assert active_parameters(model) == total_parameters(model) - 2 * 2 * 3 * 128 * 256  # 2 layers, 2 of 4 experts idle
    assert len(set(model.measured.order)) > 1, "Mamba and attention differ"
    assert json.loads(model.measured.config) == config(model) == JAMBA


def test_it_is_built_once(jamba: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = spec(jamba).model
    monkeypatch.setattr(module, "WORKER", "meshwright.no_such_module")
    assert spec(jamba).model == before
    (kept,) = (cache / "meshwright" / "modules").glob("*.json")
    kept.write_text("cut off")
    with pytest.raises(ConfigError, match=r"transformers cannot build it: .*no_such_module"):
        spec(jamba)
    monkeypatch.undo()
    assert spec(jamba).model == before


def test_its_cost_says_how_it_was_come_by(jamba: Path) -> None:
    found = cost(resolve(spec(jamba)))
    assert any("JambaForCausalLM are read from" in note for note in found.notes)
    narrow = spec(jamba).cluster.efficiency.spread
    assert found.interval[1] / found.step_time > 2.7182**narrow


def test_the_other_backend_is_refused_by_name(jamba: Path) -> None:
    (problem,) = refusals(spec(jamba), "megatron")
    assert "model_type 'jamba' has parts that no model here has" in str(problem)
    assert "set backend.name=deepspeed" in str(problem)


def test_what_the_file_says_is_changed_in_the_file(jamba: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.layers: .* change layers there"):
        spec(jamba, "model.layers=8")


def test_remote_code_is_not_run_unasked(cache: Path, tmp_path: Path) -> None:
    settings = {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}
    (tmp_path / "configuration_own.py").write_text("raise SystemExit('run')")
    with pytest.raises(ConfigError, match=r"runs only with model\.trust_remote_code=true"):
        spec(written(tmp_path, settings))


REMOTE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_remote_code_is_run_when_asked(cache: Path, tmp_path: Path) -> None:
    own = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    (tmp_path / "modeling_own.py").write_text(REMOTE)
    settings = {**config(small_model(transformers="llama")), "model_type": "own", "auto_map": own}
    model = spec(written(tmp_path, settings), "model.trust_remote_code=true").model
    assert model.measured is not None
    assert (model.measured.cls, model.measured.remote) == ("OwnForCausalLM", str(tmp_path))
    assert total_parameters(model) == total_parameters(small_model(transformers="llama"))


@pytest.mark.parametrize("name", ["llama3_8b", "qwen3_30b_a3b", "deepseek_v2"])
def test_a_model_that_we_know_is_seen_as_we_say_it(name: str) -> None:
    """Parameters, FLOPs and attention's width of a layer, from the modules and from our table."""
    from meshwright.verify.modules import numbers
    from meshwright.verify.pool import fork_map

    known = load([f"model={name}", "cluster.gpus=8"]).stages[0].model
    (found,) = fork_map(lambda settings: numbers(settings, None), [config(known)])
    assert isinstance(found, dict), found
    found["measured"] |= {"config": "{}", "lacks": ""}
    seen = decode(Model, {**found, "name": name, "activation": "swiglu", "norm": "rmsnorm", "positions": "rope"})
    assert seen.measured is not None
    assert seen.measured.how == "run"
    assert total_parameters(seen) == total_parameters(known)
    for sequence in (1024, 8192):
        ours, theirs = (sum(forward_by_operation(m, sequence).values()) for m in (known, seen))
        assert theirs == pytest.approx(ours, rel=2e-3)


def test_a_file_that_is_broken_is_not_built(cache: Path, tmp_path: Path) -> None:
    settings = {**config(small_model(transformers="llama")), "vocab_size": None, "new_part": 3}
    with pytest.raises(ConfigError, match="vocab_size is null") as caught:
        read(written(tmp_path, settings))
    assert "new_part" in str(caught.value)
