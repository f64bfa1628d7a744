"""Megatron-LM's arguments read back: what ``compile`` wrote gives the same Plan, and every argument has its fate."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from builders import small_model, spec
from meshwright.emit.megatron import flags
from meshwright.imports.former_units import TOKENS
from meshwright.imports.megatron import PATHS, of_flags
from meshwright.imports.megatron_arguments import known
from meshwright.imports.megatron_yaml import of_log
from meshwright.imports.read import imported
from meshwright.layout.length import UNSTATED_STEPS
from meshwright.resolver import resolve
from meshwright.rules.megatron_flags import KEYS
from meshwright.spec import Spec
from read_back import differences, plan_of, words_in, words_of
from samples import stages_for

SAMPLE = 10  # one of as many in `make test`


def cases() -> Iterator[Any]:
    for name, one in stages_for("megatron").items():
        often = zlib.crc32(name.encode()) % SAMPLE == 0
        yield pytest.param(one, id=name, marks=() if often else pytest.mark.slow)  # all of them take a minute


@pytest.mark.parametrize("spec", cases())
def test_what_was_compiled_gives_the_same_plan(spec: Spec, tmp_path: Path) -> None:
    plan = resolve(spec)
    source = of_flags(words_in(tmp_path, plan), "args", plan.grid.world)
    again = plan_of(source, spec)
    assert flags(again) == flags(plan)
    assert (again.grid, again.batch, again.stages) == (plan.grid, plan.batch, plan.stages)
    assert again.total_parameters == plan.total_parameters
    assert again.steps == (plan.steps or UNSTATED_STEPS)
    unstated = {"training.schedule.decay_steps"} if plan.spec.training.schedule.decay_steps is None else set()
    if plan.spec.parallelism.zero >= 2:  # FSDP turns it off, whatever was asked for
        unstated |= {"backend.megatron.gradient_accumulation_fusion"}
    assert differences(plan, again) <= unstated
    assert source.asks == ()
    assert [remark for remark in source.remarks if remark.level == "error"] == []
    assert {found.fate for found in source.found} <= {"mapped", "default", "passed"}


def test_every_argument_of_a_key_of_ours_is_carried_by_it() -> None:
    table = json.loads(files("meshwright").joinpath("data/megatron_arguments.json").read_text("utf-8"))
    names = {flag: name for name, row in table.items() for flag in row["flags"]}
    for flag, key in KEYS.items():
        if names.get(flag, "spec") in PATHS and names[flag] != "spec":
            assert PATHS[names[flag]].split(".")[0] == key.split(".")[0], flag
    logged = {"virtual_pipeline_model_parallel_size", "world_size"}  # by validate_args alone
    forked = {
        "embed_layernorm",
        "glu_activation",
        "zero_stage",
        "pp_partition_method",
        "expert_interval",
        "xielu",
        *TOKENS,
    }  # Megatron-DeepSpeed's
    assert {name for name in PATHS if not known(name)} == logged | forked


LEAST = "--num-layers 4 --hidden-size 64 --num-attention-heads 4 --seq-length 32 --max-position-embeddings 32"
BATCH = "--micro-batch-size 1 --global-batch-size 8 --vocab-size 100 --train-iters 20 --lr 1e-3"


def fates(*flags: str) -> dict[str, tuple[str, str, str]]:
    source = of_flags(words_of(*f"{LEAST} {BATCH}".split(), *flags), "args", 8)
    return {found.key: (found.fate, found.path, found.reason) for found in source.found}


def test_every_flag_has_its_fate() -> None:
    fate = fates(
        *("--tensor-model-parallel-size", "2", "--adam-beta1", "0.9", "--distributed-timeout-seconds-after-init", "60"),
        *("--no-such-flag", "3", "--vocab-file", "vocab.json"),
    )
    assert fate["--tensor-model-parallel-size"] == ("mapped", "parallelism.tp", "")
    assert fate["--adam-beta1"] == ("default", "training.optimizer.beta1", "")
    assert fate["--distributed-timeout-seconds-after-init"][:2] == ("passed", "backend.megatron.extra")
    assert fate["--no-such-flag"] == ("dropped", "", "megatron-core 0.19.2 has no such flag")
    assert fate["--vocab-file"][0] == "dropped"
    assert "token ids already" in fate["--vocab-file"][2]


def test_a_flag_given_twice_is_the_last_and_says_so() -> None:
    source = of_flags(words_of(*f"{LEAST} {BATCH} --num-layers 8".split()), "args", 8)
    assert source.values["model.layers"] == 8
    (lost,) = [found for found in source.found if found.fate == "dropped"]
    assert (lost.key, lost.value, lost.reason) == ("--num-layers", "4", "given again at args.txt:21, which wins")


@pytest.mark.parametrize(
    ("flags", "rule", "said"),
    [
        ("--sequence-parallel", "megatron.sequence_parallel", "turns it off"),
        ("--num-query-groups 2", "megatron.query_groups", "does nothing without --group-query-attention"),
        (
            "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 3",
            "megatron.virtual_stages",
            "4 layers over 2 stages are 2 a stage",
        ),
        ("--train-samples 100", "megatron.length", "two lengths of one run"),
        ("--lr-warmup-samples 100", "megatron.units", "one unit"),
        ("--overlap-param-gather", "megatron.param_gather", "needs --use-distributed-optimizer"),
        ("--save out", "megatron.save_interval", "without --save-interval"),
        ("--fp16 --bf16", "megatron.precision", "together"),
        ("--recompute-granularity full", "megatron.recompute", "needs --recompute-method"),
        ("--num-experts 4 --moe-layer-freq 2", "import.moe_layers", "--moe-layer-freq 2"),
    ],
)
def test_what_megatron_would_refuse_or_change_is_said(flags: str, rule: str, said: str) -> None:
    source = of_flags(words_of(*f"{LEAST} {BATCH} {flags}".split()), "args", 8)
    (remark,) = [remark for remark in source.remarks if remark.rule == rule]
    assert said in remark.message
    assert remark.place.line > 20


def test_what_is_missing_is_asked_for_by_name() -> None:
    source = of_flags(words_of("--hidden-size", "64", "--tokenizer-type", "HuggingFaceTokenizer"), "args", 8)
    asked = {ask.path: ask.problem.message for ask in source.asks}
    assert set(asked) >= {"model.layers", "model.heads", "model.vocab", "training.sequence", "training.micro_batch"}
    assert "HuggingFaceTokenizer does not say how many tokens it has" in asked["model.vocab"]


def test_earlier_names_mean_what_they_meant() -> None:
    words = f"{LEAST} {BATCH} --use-rotary-position-embeddings --use-flash-attn --checkpoint-activations".split()
    values = of_flags(words_of(*words), "args", 8).values
    assert values["model.positions"] == "rope"
    assert values["backend.megatron.attention"] == "flash"
    assert values["parallelism.recompute"] == "full"


def test_the_arguments_that_a_run_prints() -> None:
    block = """
[rank0] ------------------------ arguments ------------------------
[rank0]   bf16 ............................................ True
[rank0]   exp_avg_dtype ................................... torch.float32
[rank0]   hidden_size ..................................... 64
[rank0]   max_position_embeddings ......................... 32
[rank0]   micro_batch_size ................................ 2
[rank0]   num_attention_heads ............................. 4
[rank0]   num_layers ...................................... 4
[rank0]   padded_vocab_size ............................... 128
[rank0]   pipeline_model_parallel_size .................... 2
[rank0]   seq_length ...................................... 32
[rank0]   some_fork_s_own ................................. 3
[rank0]   virtual_pipeline_model_parallel_size ............ 2
[rank0]   world_size ...................................... 16
[rank0] -------------------- end of arguments ---------------------
[rank0]   num_layers ...................................... 99
"""
    source = of_log(block.splitlines(), "run.log")
    wanted = {"model.layers": 4, "model.vocab": 128, "parallelism.vpp": 2, "cluster.gpus": 16}
    assert {path: source.values[path] for path in wanted} == wanted
    (lost,) = [found for found in source.found if found.fate == "dropped"]
    assert (lost.key, lost.place.line) == ("some_fork_s_own", 13)


def test_yaml_of_sections_and_of_flags(tmp_path: Path) -> None:
    sections = tmp_path / "gpt.yaml"
    sections.write_text(
        "language_model:\n  num_layers: 4\n  hidden_size: 64\n  num_attention_heads: 4\n  activation_func: swiglu\n"
        "model_parallel:\n  tensor_model_parallel_size: 2\nseq_length: 32\nmax_position_embeddings: 32\n"
        "micro_batch_size: 1\nvocab_size: 100\nlr: 1e-4\n"
    )
    values = imported([sections]).values
    assert (values["model.activation"], values["parallelism.tp"], values["training.optimizer.lr"]) == (
        "swiglu",
        2,
        1e-4,
    )
    flagged = tmp_path / "model_config.yaml"
    flagged.write_text("ENV_VARS:\n  A: 1\nMODEL_ARGS:\n  --num-layers: 12\n  --bf16: true\n  --fp16: false\n")
    found = {one.key: one.fate for one in imported([flagged]).found}
    assert found == {"--num-layers": "mapped", "--bf16": "mapped", "ENV_VARS.A": "dropped"}


def test_a_text_in_brackets_is_several_words_as_megatrons_launcher_has_it(tmp_path: Path) -> None:
    file = tmp_path / "model_config.yaml"
    file.write_text('MODEL_ARGS:\n  --recompute-granularity: selective\n  --recompute-modules: "[layernorm moe_act]"\n')
    assert imported([file]).values["parallelism.recompute_modules"] == ["layernorm", "moe_act"]


def test_flags_that_megatron_takes_and_does_not_read_are_dropped_with_the_reason() -> None:
    flags = "--dist-ckpt-optim-fully-reshardable --ckpt-fully-parallel-load"
    plain = of_flags(words_of(*f"{LEAST} {BATCH} {flags} --ckpt-format torch".split()), "args", 8)
    fates = {one.key: (one.fate, one.reason) for one in plain.found}
    assert fates["--ckpt-fully-parallel-load"] == ("dropped", "only torch_dist checkpoints are read in parts")
    assert fates["--dist-ckpt-optim-fully-reshardable"][0] == "dropped"
    sharded = of_flags(words_of(*f"{LEAST} {BATCH} {flags} --use-distributed-optimizer".split()), "args", 8)
    assert sharded.values["backend.megatron.checkpoint_reshardable"] is True
    assert sharded.values["backend.megatron.checkpoint_parallel_load"] is True


def test_what_torchs_profiler_records_and_nsys_does_not() -> None:
    steps = ("--profile-step-start", "7", "--profile-step-end", "9")
    source = of_flags(words_of(*f"{LEAST} {BATCH} --profile --use-pytorch-profiler".split(), *steps), "args", 8)
    fate = {found.key: (found.fate, found.path) for found in source.found}
    assert source.values["training.logging.profile"] == 7
    assert fate["--profile-step-start"] == ("mapped", "training.logging.profile")
    assert fate["--profile-step-end"] == ("dropped", "")
    nsys = of_flags(words_of(*f"{LEAST} {BATCH} --profile".split(), *steps), "args", 8)
    assert "training.logging.profile" not in nsys.values
    assert nsys.values["backend.megatron.extra"] == ["--profile", *steps]


@pytest.mark.parametrize(
    ("skips", "window", "every", "pattern"),
    [("6", 512, 6, None), ("([1]*5+[0])*2", 512, 0, "2x(5xW- *-)"), ("[0]*12", None, 0, None)],
)
def test_which_layers_have_the_window(skips: str, window: int | None, every: int, pattern: str | None) -> None:
    plan = resolve(spec(small_model(layers=12), 8))
    values = of_flags(
        words_of(*flags(plan), "--window-size=511,0", f"--window-attn-skip-freq={skips}"), "args", 8
    ).values
    said = [values.get(f"model.{name}") for name in ("sliding_window", "full_attention_every", "pattern")]
    assert said == [window, every, pattern]
