"""Overrides in, a Run out: precedence, stages, and every way the words can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwright.compose import Run, by_hydra, compose, run_of
from meshwright.compose.sweep import expand
from meshwright.errors import ConfigError
from meshwright.jobs.run_folder import folder_name
from meshwright.loading import load
from meshwright.resolver import resolve

BASE = ("model=tiny", "cluster=local_cpu", "cluster.gpus=8")

RECIPE = """# @package _global_
defaults:
  - override /model: tiny
  - override /cluster: dgx_h100
  - override /parallelism: zero1
name: mine
cluster: {gpus: 16}
parallelism: {tp: 2, sp: true, zero: 1}
training: {sequence: 64, global_batch: 16}
variants:
  wide: {}
  narrow: {parallelism: {tp: 1, sp: false}, training: {global_batch: 32}}
stages:
  short: {}
  long: {training: {sequence: 128}, parallelism: {cp: 2}}
"""


@pytest.fixture
def private(tmp_path: Path) -> str:
    """A folder of private options with one recipe."""
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text(RECIPE)
    return str(tmp_path)


def problems(*overrides: str, config_dir: str | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(overrides, config_dir)
    return str(caught.value).splitlines()


def values(run: Run) -> list[tuple[str | None, int, int, int]]:
    return [(s.stage, s.training.sequence, s.parallelism.cp, s.parallelism.zero) for s in run.stages]


def test_a_run_without_stages_is_one_nameless_stage() -> None:
    run = load(BASE)
    assert [stage.stage for stage in run.stages] == [None]
    assert run.name == "tiny"


def test_recipe_then_stage_then_command_line(private: str) -> None:
    assert values(load(["recipe=mine"], private)) == [("short", 64, 1, 1), ("long", 128, 2, 1)]
    assert values(load(["recipe=mine", "training.sequence=256"], private)) == [
        ("short", 256, 1, 1),
        ("long", 256, 2, 1),
    ]


def test_a_group_chosen_on_the_command_line_wins_over_the_recipe(private: str) -> None:
    assert values(load(["recipe=mine", "parallelism=zero2"], private))[0] == ("short", 64, 1, 2)


def test_one_stage_can_be_chosen_and_changed(private: str) -> None:
    assert values(load(["recipe=mine", "stage=long", "stages.long.training.sequence=512"], private)) == [
        ("long", 512, 2, 1)
    ]
    assert problems("recipe=mine", "stage=other", config_dir=private) == [
        "stage: no stage 'other'; there are short, long"
    ]


def shapes(*words: str, folder: str) -> list[tuple[str | None, str | None, int, int | None]]:
    stages = load(["recipe=mine", *words], folder).stages
    return [(s.variant, s.stage, s.parallelism.tp, s.training.global_batch) for s in stages]


def test_a_variant_is_an_alternative_under_the_stages(private: str) -> None:
    assert shapes(folder=private) == [("wide", "short", 2, 16), ("wide", "long", 2, 16)]
    narrow = shapes("variant=narrow", folder=private)
    assert narrow == [("narrow", "short", 1, 32), ("narrow", "long", 1, 32)]
    assert shapes("variant=narrow", "stage=long", "training.global_batch=64", folder=private) == [
        ("narrow", "long", 1, 64)
    ]
    assert shapes("stage=long", "variants.wide.parallelism.tp=4", folder=private) == [("wide", "long", 4, 16)]


def test_a_variant_that_nobody_wrote(private: str) -> None:
    assert problems("recipe=mine", "variant=narow", config_dir=private) == [
        "variant: no variant 'narow'; did you mean narrow?"
    ]
    assert problems("recipe=mine", "variants.tall.parallelism.tp=1", config_dir=private) == [
        "variants.tall: no variant 'tall'; there are wide, narrow"
    ]
    assert problems(*BASE, "variant=x") == ["variant: no variant 'x'; there are none"]


def test_variants_are_swept_and_have_folders_of_their_own(private: str) -> None:
    points = expand(["recipe=mine", "variant=wide,narrow", "stage=long"], private)
    folders = [str(folder_name(load(words, private).stages[0])) for words in points]
    assert [name.rpartition("-")[0] for name in folders] == ["mine/wide/long", "mine/narrow/long"]


def test_all_that_is_wrong_at_once() -> None:
    assert problems(*BASE, "modle=x", "outptu=json", "training.micro_bach=3", "model.layers=x") == [
        "modle: unknown key; did you mean model?",
        "outptu: unknown key; did you mean output?",
        "model.layers: expected a whole number, got 'x'",
        "training.micro_bach: unknown key; did you mean micro_batch?",
    ]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model=llama3_9b", "model: no option 'llama3_9b'; did you mean llama3_8b"),
        ("recipe=nope", "recipe: no option 'nope'"),
        ("a,b", "a,b: not an override; write key=value"),
        ("cluster.gpus=8,16", "cluster.gpus: several values; sweep over them with -m"),
        ("name=../x;$(id)", "name: cannot read the value ../x;$(id); quote it"),
        ("$x=1", "$x: unknown key"),
        ("training.sequence=[1,2", "training.sequence: cannot read the value [1,2"),
        ("+training.sneaky=1", "training.sneaky: unknown key"),
        ("++model.rope.bases=1", "model.rope.bases: unknown key; did you mean base?"),
        ("training.precision=bf15", "training.precision: expected one of fp32, fp16, bf16"),
        ("parallelism.sp=yes", "parallelism.sp: expected true or false, got 'yes'"),
    ],
)
def test_bad_words_are_one_line(override: str, expected: str) -> None:
    lines = problems(*(word for word in BASE if not word.startswith(override.partition("=")[0] + "=")), override)
    assert len(lines) == 1
    assert lines[0].startswith(expected)


def test_malformed_yaml_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "broken.yaml").write_text("layers: [1,\n")
    (line,) = problems("model=broken", config_dir=str(tmp_path))
    assert "broken.yaml" in line


def test_a_value_that_was_never_set() -> None:
    assert problems("model=hf", "cluster.gpus=8") == [
        "model.path: not set; give a folder with a Hugging Face config.json"
    ]


def test_stages_must_be_a_mapping() -> None:
    with pytest.raises(ConfigError, match="stages: expected a mapping"):
        run_of({**load(BASE).composed, "stages": [1]}, ())


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("stages.lung.training.sequence=512", "stages.lung: no stage 'lung'; did you mean long?"),
        ("stages={third: {}}", "stages.third: no stage 'third'; there are short, long"),
        ("stages.long=null", "stages.long: expected a mapping, got null; a stage is the keys it changes, {} for none"),
        ("stages.long=5", "stages.long: expected a mapping, got 5; a stage is the keys it changes, {} for none"),
    ],
)
def test_only_a_recipe_makes_stages(override: str, line: str, private: str) -> None:
    assert problems("recipe=mine", override, config_dir=private) == [line]


def test_a_run_without_a_recipe_has_no_stages() -> None:
    assert problems(*BASE, "stages.a.training.sequence=64") == ["stages.a: no stage 'a'; there are none"]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("model=null", "model: no option 'null'; there are apertus_70b, "),
        ("recipe=", "recipe: no option ''; there are amber_7b, "),
        ("model=7", "model: no option '7'; there are "),
        ("recipe=../../etc/passwd", "recipe: no option '../../etc/passwd'; there are "),
        ("model.path=/x", "model.path: tiny is described without it; choose model=hf"),
        ("model.layers=1e30", "model.layers: expected a number below 9.2e+18, got 1e+30"),
    ],
)
def test_a_choice_that_is_none(override: str, line: str) -> None:
    (said,) = problems(*(word for word in BASE if word.partition("=")[0] != override.partition("=")[0]), override)
    assert said.startswith(line)


def test_private_options_are_proposed(private: str, tmp_path: Path) -> None:
    assert problems("recipe=mines", config_dir=private) == ["recipe: no option 'mines'; did you mean mine?"]
    (tmp_path / "with a space").mkdir()
    (tmp_path / "recipe").rename(tmp_path / "with a space" / "recipe")
    assert load(["recipe=mine"], tmp_path / "with a space").name == "mine"


@pytest.mark.parametrize(("folder", "what"), [("none", "does not exist"), ("file", "is a file")])
def test_private_options_lie_in_a_folder(folder: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    wrong = tmp_path / folder
    assert problems(*BASE, config_dir=str(wrong)) == [f"--config-dir: {wrong} {what}; give a folder of options"]


@pytest.mark.parametrize("words", [None, "model=tiny", 5, ["model=tiny", 5]])
def test_overrides_are_a_list_of_words(words: object) -> None:
    with pytest.raises(TypeError, match=r"such as|not 5"):
        load(words)  # type: ignore[arg-type]


def test_a_run_is_resolved_stage_by_stage() -> None:
    with pytest.raises(TypeError, match=r"resolve takes one Spec, such as load\(...\).stages\[0\], not a Run"):
        resolve(load(BASE))  # type: ignore[arg-type]


WORDS = [
    [],
    ["recipe=llama3_405b", "stages.gpus_16384.training.micro_batch=2"],
    ["recipe=mine", "variant=narrow", "training.sequence=128"],
    ["model=deepseek_v3", "cluster=gb200_nvl72", "~training.data", "++parallelism.tp=8"],
    ["backend=deepspeed", "software=ngc", "+backend.megatron.extra=[--a, b=1]", "launch=slurm"],
    ["model=nosuch"],
    ["training.micro_batch=1,2"],
    ["parallelism=[1"],
    ["model=tiny", "model.activation=${model.nosuch}"],
]


@pytest.mark.parametrize("words", WORDS, ids=lambda words: " ".join(words) or "nothing")
def test_what_is_composed_without_hydras_settings_is_what_hydra_composes(
    words: list[str], private: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def composed() -> object:
        try:
            return compose(words, private)
        except ConfigError as error:
            return str(error)

    ours = composed()
    monkeypatch.setattr(by_hydra, "_ours_alone", by_hydra._with_its_settings)
    assert composed() == ours


@pytest.mark.parametrize("word", ["hydra.verbose=true", "hydra/job_logging=none", "hydra.run.dir=elsewhere"])
def test_hydras_own_settings_are_hydras_to_judge(word: str) -> None:
    assert compose([*BASE, word]) == compose(BASE)
    assert problems(*BASE, "hydra.verboze=true") == ["hydra.verboze: unknown key"]


def test_a_program_that_uses_hydra_itself_goes_on_with_its_own(private: str) -> None:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module, version
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_module("meshwright.conf", version_base="1.2"):
        host = GlobalHydra.instance().hydra
        assert load(BASE, private).name == "tiny"
        assert GlobalHydra.instance().hydra is host
        assert str(version.getbase()) == "1.2"
        assert hydra_compose("config", ["model=tiny"]).model.name == "tiny"
    assert not GlobalHydra.instance().is_initialized()
