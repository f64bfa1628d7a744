"""``meshwright diff``: what differs in effect, what is equal though written otherwise, and the mark of each field."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import llama_405b, small_model, spec
from meshwright.cli import main
from meshwright.compare import Comparison, Pair, Side, Stage, compare
from meshwright.compare.canonical import canonical
from meshwright.compare.fields import READ_ELSEWHERE, differences, written
from meshwright.errors import ConfigError
from meshwright.jobs.run_folder import compile
from meshwright.library import files as library
from meshwright.loading import load
from meshwright.report.diff import document, markdown
from meshwright.resolver import holds, override, resolve
from meshwright.spec import Spec
from meshwright.spec.effect import EFFECTS, effect_of, effect_of_flags
from meshwright.train import metrics
from test_emit_mutation import BASES, leaves, others

LLAMA = ["model=llama3_8b", "cluster=dgx_h100", "cluster.gpus=16", "parallelism=zero1", "training.steps=100"]


def side(*specs: Spec) -> Side:
    return Side("one", tuple(Stage(one) for one in specs))


def pair(a: Spec, b: Spec) -> Pair:
    (found,) = compare(side(a), side(b)).pairs
    return found


def paths(a: Spec, b: Spec) -> dict[str, str]:
    return {one.path: one.effect for one in pair(a, b).fields}


def changed(*words: str) -> Spec:
    return load([*LLAMA, *words]).stages[0]


# --- the table of effects ---


def all_fields(cls: Any, path: str = "") -> Iterator[str]:
    """Every field of a dataclass and of those within it, parts left out."""
    hints = get_type_hints(cls)
    for field in fields(cls):
        inner, here = hints[field.name], f"{path}.{field.name}".lstrip(".")
        plain = [a for a in get_args(inner) if a is not type(None)] if get_origin(inner) in UNIONS else [inner]
        if is_dataclass(plain[0]):
            yield from all_fields(plain[0], here)
        else:
            yield here


UNIONS = (Union, types.UnionType)


def test_every_field_of_a_spec_has_an_effect() -> None:
    known = set(all_fields(Spec))
    unmarked = {path for path in known if not any(path == row or path.startswith(f"{row}.") for row in EFFECTS)}
    assert unmarked == set()
    stale = {row for row in EFFECTS if not any(path == row or path.startswith(f"{row}.") for path in known)}
    assert stale == set()


@pytest.mark.parametrize(
    ("path", "effect"),
    [
        ("model.rope.base", "learned"),
        ("training.optimizer.lr", "learned"),
        ("training.micro_batch", "runs"),
        ("training.logging.save", "runs"),
        ("training.data.tokenizer.kind", "learned"),
        ("parallelism.pipeline_split.first", "runs"),
        ("cluster.efficiency.matmul", "described"),
        ("training.data", "learned"),  # the strongest of what it holds
        ("backend.deepspeed.offload_param.device", "runs"),
    ],
)
def test_the_effect_of_a_path(path: str, effect: str) -> None:
    assert effect_of(path) == effect


def test_flags_that_are_passed_through_are_suspected_unless_they_keep_house() -> None:
    assert effect_of_flags(["--log-params-norm"]) == "runs"
    assert effect_of_flags(["--ckpt-fully-parallel-load", "--qk-clip"]) == "learned"
    assert paths(changed(), changed("backend.megatron.extra=[--log-params-norm]")) == {"backend.megatron.extra": "runs"}


# --- equal though written otherwise ---


@pytest.mark.parametrize(
    "words",
    [
        ["parallelism.dp=16"],
        ["cluster.nodes=2"],
        ["training.global_batch=16"],
        ["training.microbatches=1"],
        [f"training.tokens={100 * 16 * 4096}"],
        ["training.steps=null", f"training.tokens={100 * 16 * 4096}"],
        ["training.schedule.decay_steps=100"],
        ["training.schedule.wsd_decay_style=cosine"],  # the style is cosine: there is no last phase
        ["training.optimizer.momentum=0.5"],
        ["backend.deepspeed.hpz=4"],
        ["backend.megatron.checkpoint_format=torch_dist"],
        ["backend.megatron.fsdp=torch"],
        ["cluster.nvlink_domain=8"],
        ["launch.slurm.partition=gpu"],
    ],
)
def test_written_otherwise_but_equal_in_effect(words: list[str]) -> None:
    found = pair(changed(), changed(*words))
    assert (found.fields, found.derived, found.emitted, found.predicted) == ((), (), (), ())


def test_a_full_recompute_layer_by_layer_is_what_full_means() -> None:
    explicit = ["parallelism.recompute_method=uniform", "parallelism.recompute_layers=1"]
    assert paths(changed("parallelism.recompute=full"), changed("parallelism.recompute=full", *explicit)) == {}


@pytest.mark.parametrize("backend", BASES)
def test_a_field_differs_where_something_else_is_written(backend: str) -> None:
    """Change every field in turn: fields differ if and only if files do, but for those that are read elsewhere."""
    for base in BASES[backend].values():
        one = replace(base, backend=replace(base.backend, name=backend))  # type: ignore[arg-type]
        before = canonical(resolve(one))
        for path, hint, value in leaves(one):
            for other in others(hint, value)[:1]:
                mutated = override(one, path, other)
                if path.startswith(READ_ELSEWHERE) or effect_of(path) == "described" or not resolves(mutated):
                    continue
                after = canonical(resolve(mutated))
                assert bool(differences(before, after)) == (written(before) != written(after)), path


# --- what differs ---


def test_each_difference_is_marked() -> None:
    found = paths(changed(), changed("training.optimizer.lr=1e-4", "parallelism.recompute=full", "name=other"))
    assert found == {
        "training.optimizer.lr": "learned",
        "parallelism.recompute": "runs",
        "parallelism.recompute_layers": "runs",
        "parallelism.recompute_method": "runs",
        "name": "described",
    }


def test_what_follows_is_shown_with_its_change() -> None:
    found = pair(changed(), changed("cluster.gpus=32", "training.global_batch=32"))
    derived = {one.name: (one.a, one.b) for one in found.derived}
    assert derived["world"] == (16, 32)
    assert derived["batch.tokens"] == (16 * 4096, 32 * 4096)
    predicted = {one.name: one for one in found.predicted}
    assert predicted["tokens_per_second"].change is not None
    assert predicted["memory_bytes.optimizer"].change == pytest.approx(-0.5, abs=0.01)


def test_flags_and_keys_that_are_written_differently() -> None:
    tp = pair(changed(), changed("parallelism.tp=2"))
    assert ("--tensor-model-parallel-size", None, "2") in [(one.name, one.a, one.b) for one in tp.emitted]
    zero = pair(changed("backend=deepspeed"), changed("backend=deepspeed", "parallelism.zero=2"))
    assert ("ds_config.json: zero_optimization.stage", 1, 2) in [(one.name, one.a, one.b) for one in zero.emitted]


def test_a_backend_that_refuses_one_side_says_so() -> None:
    found = pair(changed("backend=deepspeed"), changed("parallelism.pp=2"))
    refused = next(one for one in found.emitted if one.name == "deepspeed refuses")
    assert refused.a is None
    assert str(refused.b).startswith("parallelism.pp: pp = 2")


def test_stages_are_paired_by_name_else_in_order() -> None:
    run = load(["recipe=llama3_405b"]).stages
    whole, some = side(*run), side(run[4], run[1])
    by_name = compare(whole, some)
    assert [(p.a.spec.stage, p.b.spec.stage) for p in by_name.pairs] == [(s.stage, s.stage) for s in (run[1], run[4])]
    assert len(by_name.only_a) == len(run) - 2
    in_order = compare(side(changed()), whole)
    assert [p.b.spec.stage for p in in_order.pairs] == [run[0].stage]
    assert len(in_order.only_b) == in_order.count("learned") - learned(in_order.pairs[0])


def learned(found: Pair) -> int:
    return sum(one.effect == "learned" for one in found.fields)


@pytest.mark.parametrize("name", ["llama3_405b", "apertus_70b"])
def test_neighbouring_stages_of_a_recipe_differ_and_each_equals_itself(name: str) -> None:
    run = library.run(name).stages
    for before, after in pairwise(run):
        assert paths(before, before) == {}
        assert paths(before, after).keys() - {"stage"}


# --- on any Spec ---


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    one = draw(st.sampled_from([base for bases in BASES.values() for base in bases.values()] + [llama_405b()]))
    for _ in range(draw(st.integers(0, 4))):
        path, hint, value = draw(st.sampled_from(list(leaves(one))))
        candidates = others(hint, value)
        if candidates:
            one = override(one, path, draw(st.sampled_from(candidates)))
    return one


def resolves(candidate: Spec) -> bool:
    try:
        return holds(candidate, candidate.backend.name)
    except (ConfigError, ArithmeticError):
        return False


@settings(max_examples=25, deadline=None)
@given(specs().filter(resolves))
def test_nothing_differs_from_itself(one: Spec) -> None:
    found = compare(side(one), side(one))
    (same,) = found.pairs
    assert (same.fields, same.derived, same.emitted, same.predicted) == ((), (), (), ())
    assert document(found)["differences"] == {"learned": 0, "runs": 0, "described": 0}


@settings(max_examples=15, deadline=None)
@given(specs().filter(resolves), specs().filter(resolves))
def test_the_other_way_round_is_the_same_with_sides_exchanged(a: Spec, b: Spec) -> None:
    forth, back = pair(a, b), pair(b, a)
    assert {(d.path, repr(d.a), repr(d.b), d.effect) for d in forth.fields} == {
        (d.path, repr(d.b), repr(d.a), d.effect) for d in back.fields
    }
    for part in ("derived", "emitted", "predicted"):
        assert {(n.name, repr(n.a), repr(n.b)) for n in getattr(forth, part)} == {
            (n.name, repr(n.b), repr(n.a)) for n in getattr(back, part)
        }


@settings(max_examples=6, deadline=None)
@given(specs().filter(resolves), specs().filter(resolves))
def test_where_no_field_differs_nothing_else_does(a: Spec, b: Spec) -> None:
    found = pair(a, b)
    if not found.fields:
        assert (found.emitted, found.derived, found.predicted) == ((), (), ())


# --- the verb ---


def run(*words: str) -> int:
    return main(["diff", *words])


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> Mapping[str, Any]:
    run(*words, "output=json")
    found: Mapping[str, Any] = json.loads(capsys.readouterr().out)
    return found


WORDS = " ".join(LLAMA)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ("parallelism.dp=16", 0),
        ("name=other", 0),
        ("parallelism.recompute=full", 1),
        ("training.seed=7", 3),
        ("nope=1", 2),
    ],
)
def test_the_exit_code_says_what_differs(more: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(WORDS, f"{WORDS} {more}") == code
    assert "Traceback" not in capsys.readouterr().err


def test_values_of_a_recipe_carry_their_status_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = "recipe=llama3_405b stage=gpus_16384"
    found = as_json(capsys, recipe, f"{recipe} training.optimizer.lr=1e-4")
    (lr,) = [one for one in found["stages"][0]["fields"] if one["path"] == "training.optimizer.lr"]
    assert lr["origin_a"].startswith("published (paper, ")
    assert lr["origin_b"] == "said here"


def test_a_run_folder_equals_the_words_it_was_compiled_from(tmp_path: Path) -> None:
    assert main(["compile", *LLAMA, f"runs={tmp_path}", "verify=false"]) == 0
    (folder,) = tmp_path.iterdir()
    assert run(str(folder), WORDS) == 0
    assert main(["compile", "recipe=llama3_405b", f"runs={tmp_path / 'stages'}", "verify=false"]) == 0
    assert run("recipe=llama3_405b", str(tmp_path / "stages" / "llama3_405b")) == 0


def test_two_run_folders_add_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, loss, seconds in (("a", 2.0, 1.0), ("b", 2.5, 2.0)):
        compile(resolve(changed(f"name={name}")), tmp_path / name, verify=False)
        for step in range(1, 5):
            at = loss if step > 2 else 3.0
            metrics.write(tmp_path / name / "metrics.jsonl", step=step, loss=at, step_time_s=seconds, tokens_per_s=8.0)
    found = as_json(capsys, str(tmp_path / "a"), str(tmp_path / "b"))
    rows = {one["name"]: (one["a"], one["b"]) for one in found["stages"][0]["measured"]}
    assert rows["step_time_s"] == (1.0, 2.0)
    assert rows["loss of step 3 (first unequal)"] == (2.0, 2.5)
    assert found["differences"] == {"learned": 0, "runs": 0, "described": 1}


def test_a_file_of_another_program_is_an_operand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tree_sitter_bash")
    flags = "--num-layers 4 --hidden-size 64 --num-attention-heads 4 --seq-length 32 --max-position-embeddings 32 "
    flags += "--micro-batch-size 1 --global-batch-size 8 --vocab-size 100 --train-iters 20 --lr 1e-3 --bf16"
    for name, lr in (("a.sh", "1e-3"), ("b.sh", "2e-3")):
        (tmp_path / name).write_text(f"torchrun --nproc_per_node 8 pretrain_gpt.py {flags.replace('1e-3', lr)}\n")
    assert run(str(tmp_path / "a.sh"), str(tmp_path / "a.sh")) == 0
    capsys.readouterr()
    found = as_json(capsys, str(tmp_path / "a.sh"), str(tmp_path / "b.sh"))
    changed = {one["path"]: one for one in found["stages"][0]["fields"]}
    assert (changed["training.optimizer.lr"]["a"], changed["training.optimizer.lr"]["b"]) == (1e-3, 2e-3)
    assert changed["training.optimizer.lr"]["origin_b"] == f"{tmp_path / 'b.sh'}:1"


def test_markdown_is_one_table_a_section(capsys: pytest.CaptureFixture[str]) -> None:
    run(WORDS, f"{WORDS} training.seed=7 parallelism.tp=2", "output=markdown")
    lines = capsys.readouterr().out.splitlines()
    assert "### changes what is learned" in lines
    assert "| training.seed | 1,234 | 7 | said here |" in [line.replace("not said → ", "") for line in lines]
    assert all(line.count("|") - line.count("\\|") == 5 for line in lines if line.startswith("|"))


HOSTILE = ["a|b", "<script>", "`x`", "new\nline", "tab\there", "\x1b[31mred", "**bold**", "| x | y |", "ünïcode", "'"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_breaks_no_output(name: str) -> None:
    plain = spec(small_model(), 8)
    one = override(plain, "training.logging.wandb_project", name)
    comparison: Comparison = compare(Side(name, (Stage(one),)), Side("b", (Stage(plain),)))
    assert json.loads(json.dumps(document(comparison)))["a"] == name
    for line in markdown(comparison):
        assert "\n" not in line
        assert "\x1b" not in line
        assert "<" not in line
        assert not line.startswith("|") or line.count("|") - line.count("\\|") == 5


@pytest.mark.parametrize(
    ("operand", "said"),
    [
        ("llama3_405b", "did you mean recipe=llama3_405b?"),
        ("no/such/folder", "no such folder"),
        ("'open", "No closing quotation"),
        ("", "give a run folder"),
        ("a" * 5000, "no such folder"),
        ("x\0y", "no such folder"),
        ("recipe=nope", "A: recipe: no option 'nope'"),
        ("tests/test_diff.py", "no kind of file that is known"),
        ("tests", "holds no run"),
        (f"{WORDS} parallelism.vpp=2", "A: parallelism.vpp: "),
    ],
)
def test_what_names_no_run_is_one_line(operand: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(operand, WORDS) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert len(shown.err.splitlines()) == 1
    assert shown.out == ""


def test_both_sides_problems_are_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("nope", "neither") == 2
    assert [line[0] for line in capsys.readouterr().err.splitlines()] == ["A", "B"]


@pytest.mark.parametrize("words", [[], ["a"], ["a", "b", "c"], ["a", "b", "output=html"]])
def test_diff_takes_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_folder_whose_name_looks_like_a_word_is_named_as_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    compile(resolve(changed()), tmp_path / "recipe=x", verify=False)
    assert run("./recipe=x", WORDS) == 0
    assert run("recipe=x", WORDS) == 2
    assert "no option 'x'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "- a", "model: {", "a: &a [*a]", "!!python/object:os.system {}", "\x00"])
def test_a_damaged_run_folder_is_said_in_a_line_or_more(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert run(str(tmp_path), WORDS) == 2
    shown = capsys.readouterr().err
    assert all(line.startswith("A: ") for line in shown.splitlines())
    assert "Traceback" not in shown
