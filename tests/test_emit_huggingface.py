"""Our Model and config.json of transformers say the same, in both directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builders import small_model
from meshwright.emit.huggingface import config, mismatches
from meshwright.errors import ConfigError
from meshwright.loading import load
from meshwright.model.architecture_table import ARCHITECTURES
from meshwright.model.architectures import UNWRITTEN, flatten
from meshwright.model.count import total_parameters
from meshwright.model.huggingface import read
from meshwright.resolver import override
from meshwright.spec.decode import decode
from meshwright.spec.model import Model, Rope, RopeScaling
from samples import sample

MODELS = sorted(
    p.stem for p in (Path(__file__).parents[1] / "conf" / "model").glob("*.yaml") if p.stem not in ("_base", "hf")
)
NOT_IN_TRANSFORMERS = {
    *("bigscience_104b", "bigscience_13b", "codegeex_13b", "gpt3_5b"),  # GPT-2's layers with another activation or size
    *("mpt_13b", "mpt_30b", "mpt_70b", "mpt_7b"),  # learned positions and biases; transformers' MPT has neither
    *("salamandra_2b", "salamandra_7b"),  # norms around one, which Llama's code lacks
    *("deepseek_moe_16b", "ernie4_5_300b_a47b", "glm_130b", "k2_v2_70b", "pangu_ultra_135b"),
    *("skywork_moe_146b", "yi_lightning"),
}
OTHERWISE_IN_TRANSFORMERS = {"mixtral_8x22b_g8t8": "model.ffn"}  # a fine-grained variant that Mixtral's code cannot be


def model_of(name: str) -> Model:
    return load([f"model={name}", "cluster.gpus=8"]).stages[0].model


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(sample(MODELS, 50), id="sample"),
        pytest.param(MODELS, id="all", marks=pytest.mark.slow(reason="each is composed, written, and built on meta")),
    ],
)
def models(request: pytest.FixtureRequest) -> dict[str, Model]:
    return {name: model_of(name) for name in request.param}


@pytest.fixture(scope="module")
def expressible(models: dict[str, Model]) -> dict[str, Model]:
    return {name: model for name, model in models.items() if not mismatches(model)}


def written(folder: Path, settings: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_which_models_transformers_lacks(models: dict[str, Model], expressible: dict[str, Model]) -> None:
    lacking = NOT_IN_TRANSFORMERS | set(OTHERWISE_IN_TRANSFORMERS)
    assert set(models) - set(expressible) == lacking & set(models)
    assert lacking <= set(MODELS)


@pytest.mark.parametrize("name", sorted(OTHERWISE_IN_TRANSFORMERS))
def test_an_architecture_that_computes_something_else_is_refused(name: str) -> None:
    assert OTHERWISE_IN_TRANSFORMERS[name] in [problem.path for problem in mismatches(model_of(name))]


def test_reading_gives_back_what_was_written(expressible: dict[str, Model], tmp_path: Path) -> None:
    for name, model in expressible.items():
        back = decode(Model, read(written(tmp_path / name, config(model))))
        ours, theirs = flatten(model), flatten(back)
        differ = {path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path)}
        assert differ <= set(UNWRITTEN), name


def test_transformers_counts_the_same_parameters(expressible: dict[str, Model]) -> None:
    pytest.importorskip("transformers")
    from meshwright.verify.pool import fork_map
    from meshwright.verify.transformers import count, warm

    warm()
    names = list(expressible)
    counts = fork_map(lambda name: count(config(expressible[name])), names)
    ours = {name: total_parameters(model) for name, model in expressible.items()}
    assert dict(zip(names, counts, strict=True)) == ours


def test_transformers_reads_every_key_we_write(expressible: dict[str, Model]) -> None:
    """A key that the architecture's code does not mention would be kept and never looked at."""
    transformers = pytest.importorskip("transformers")
    common = {"architectures", "model_type", "use_cache", "tie_word_embeddings", "output_router_logits"}
    unread = {
        "use_qk_norm",
        "use_sliding_window",
        "seq_length",
        "topk_method",
        "scoring_func",
        "moe_layer_freq",
        "rope_interleave",
    }  # published configs say them
    for name, model in expressible.items():
        settings = config(model)
        home = Path(transformers.__file__).parent / "models" / settings["model_type"].removesuffix("_text")
        code = "".join(path.read_text() for path in home.glob("*.py"))
        assert {key for key in settings if key not in code} <= common | unread, name


def test_a_published_config_of_an_older_version_is_read(tmp_path: Path) -> None:
    """Llama 3.1's form: rope_theta and rope_scaling at the top, token ids and dtypes beside."""
    settings = {
        **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16"},
        **{"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
        **{"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072, "hidden_act": "silu"},
        **{"rms_norm_eps": 1e-5, "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False},
        **{"rope_theta": 500000.0, "bos_token_id": 128000, "eos_token_id": 128001, "pretraining_tp": 1},
        "rope_scaling": {
            **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
            "original_max_position_embeddings": 8192,
        },
    }
    model = decode(Model, read(written(tmp_path / "llama", settings)))
    assert model.rope == Rope(
        base=500000.0,
        scaling=RopeScaling(
            kind="llama3", factor=8.0, original_positions=8192, low_freq_factor=1.0, high_freq_factor=4.0
        ),
    )
    assert (model.name, model.head_dim, total_parameters(model)) == ("llama", 128, 8_030_261_248)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "rwkv"}, "'rwkv' has parts that no model here has"),
        ({"model_type": "t5"}, "'t5' is no causal language model of transformers"),
        ({"hidden_size": None}, "hidden_size is null, and the model needs a value"),
        ({"hidden_act": "tanh"}, "hidden_act: 'tanh' has no counterpart"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4}}, "rope_type: dynamic has no counterpart"),
        ({"a_new_feature": 3}, "a_new_feature: 3 has no counterpart"),
        ({"attention_bias": True}, "contradicts"),
    ],
)
def test_what_would_be_lost_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = written(tmp_path, {**config(small_model()), **change})
    with pytest.raises(ConfigError, match=said):
        read(folder)


def test_files_that_are_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        read(tmp_path)


def test_model_hf_is_the_model_of_the_file(tmp_path: Path) -> None:
    folder = written(tmp_path / "mine", config(small_model()))
    found = load(["model=hf", f"model.path={folder}", "model.layers=4", "cluster.gpus=8"]).stages[0].model
    assert found == small_model(name="mine", layers=4)


@pytest.mark.parametrize(
    "change", [{"norm": "layernorm"}, {"qk_norm": "head"}, {"parallel_residual": True}, {"mtp": 1}]
)
def test_what_an_architecture_lacks_is_refused_by_name(change: dict[str, Any]) -> None:
    (problem,) = mismatches(small_model(**change))
    assert problem.path == f"model.{next(iter(change))}"


def test_every_changed_field_is_written_or_refused() -> None:
    """No field of a Model is lost on the way to transformers, but those that say how it is trained."""
    model = small_model()
    before = config(model)
    for path, value in flatten(model).items():
        if path in UNWRITTEN or "." in path or path in ("rope", "mla", "moe"):
            continue
        other = not value if isinstance(value, bool) else {"rmsnorm": "layernorm", "swiglu": "geglu"}.get(str(value))
        other = _another(value) if other is None else other
        changed = override(model, path, other)
        assert mismatches(changed) or config(changed) != before, path


def _another(value: Any) -> Any:
    words = {"rope": "alibi", "pre": "output", "none": "head", "all": "projections"}
    if value is None:
        return 8
    return words[value] if isinstance(value, str) else value * 2 + 1


def test_the_table_names_each_architecture_once() -> None:
    assert all(name == architecture.model_type for name, architecture in ARCHITECTURES.items())


def test_what_transformers_does_not_build_is_not_asked_of_it(tmp_path: Path) -> None:
    """A file that speaks of multi-token prediction and a balancing bias loads for DeepSpeed as it is."""
    (tmp_path / "config.json").write_text(json.dumps(config(model_of("glm4_5_air_106b"))))
    words = ["model=hf", f"model.path={tmp_path}", "cluster.gpus=64"]
    models = {name: load([*words, f"backend={name}"]).stages[0].model for name in ("megatron", "deepspeed")}
    rates = {name: model.moe and (model.mtp, model.moe.bias_update_rate) for name, model in models.items()}
    assert rates == {"megatron": (1, 1.0e-3), "deepspeed": (0, 0.0)}
    assert load([*words, "backend=deepspeed", "model.mtp=1"]).stages[0].model.mtp == 1
