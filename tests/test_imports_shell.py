"""Launch scripts are parsed, never run: what bash would make of them, and what only the outside knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwright.errors import ConfigError
from meshwright.imports.found import Source
from meshwright.imports.script import of_script
from meshwright.imports.shell import arithmetic
from meshwright.imports.shell.run import read
from meshwright.imports.shell.scope import Scope
from meshwright.imports.shell.value import place, said
from meshwright.imports.unknown import readable

pytest.importorskip("tree_sitter_bash")


def commands(script: str, **answers: str) -> list[str]:
    """The commands that a script comes to, for people to read."""
    scope = Scope("s.sh", answers=answers)
    read(script, scope)
    return [" ".join(readable(said(word)) for word in one.words) for one in scope.commands]


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("A=1\nrun $A ${A} \"$A\" '$A'", "run 1 1 1 $A"),
        ("run ${A:-3} ${B-4}", "run 3 4"),
        ("A=\nrun ${A:-3} ${A-4} x", "run 3 x"),
        ("A=2\nrun ${A:+yes} ${B:+no} end", "run yes end"),
        ("run ${A:-${B:-$((2 * 3))}}", "run 6"),
        ("A=(--x 1 # why\n --y 2)\nA+=(--z)\nrun ${A[@]} ${#A[@]} ${A[1]}", "run --x 1 --y 2 --z 5 1"),
        ('A="--x 1 \\\n  --y 2\n --z 3"\nrun $A', "run --x 1 --y 2 --z 3"),
        ('A="a b"\nrun x$A "$A"', "run xa b a b"),
        ("N=2 G=8\nrun $((N * G)) $[N+1] $(($N * $G / 3))", "run 16 3 5"),
        ("((N = 3)); ((N += 2)); let M=N*2; run $N $M", "run 5 10"),
        (
            "A=model-7B.tar\nrun ${A%.tar} ${A#*-} ${A/7B/13B} ${A##*.} ${A^^}",
            "run model-7B 7B.tar model-13B.tar tar MODEL-7B.TAR",
        ),
        ("A=7B\ncase $A in 7B|8B) L=32;; *) L=80;; esac\nrun $L", "run 32"),
        (
            'A=fp8\nif [[ $A == "fp8" ]]; then F=(--fp8-format hybrid); else F=(); fi\nrun ${F[@]}',
            "run --fp8-format hybrid",
        ),
        ('if [ -z "$A" ] && [ ! "$B" = yes ]; then N=1; else N=2; fi\nrun $N', "run 1"),
        ("N=4\n[ $N -gt 2 ] && M=8 || M=16\nrun $M", "run 8"),
        ("S=0\nfor i in 1 2 3; do S=$((S + i)); done\nrun $S", "run 6"),
        ("set -- a b c\nshift\nrun $1 $# $@", "run b 2 b c"),
        ("f() { local x=$1; run $x ${2:-d}; }\nf a", "run a d"),
        ("C='run --a $B'\nB=4\neval $C", "run --a 4"),
        ("export OMP=1\nrun $(echo $OMP) $(basename /a/b.sh .sh) `dirname /a/b`", "run 1 b /a"),
        ('D=$(cd "$(dirname "$0")" && pwd)\nrun $D/x', "run ./x"),
        ("D=$(hostname)\nrun $D", "run $(hostname)"),
        ("run $A", "run $A"),
        ("run $((A * 2))", "run $A"),
        ("A=1 B=2\nrun $B", "run 2"),
        ('set --\nE=\nrun "$@" "$E" end', "run  end"),
        ("A=(--x)\nif [ -e f ]; then A+=(--load f); fi\nrun ${A[@]}", "run --x $A"),
        ("exec nohup env X=1 run a 2>&1 | tee log &", "run a"),
        ("for i in 1 2 3; do [ $i = 2 ] && break; L=$i; done\nrun $L", "run 1"),
        ('L=\nfor i in 1 2 3; do if [ $i = 2 ]; then continue; fi; L="$L$i"; done\nrun $L', "run 13"),
        ("N=0\nwhile true; do N=$((N + 1)); if ((N == 3)); then break; fi; done\nrun $N", "run 3"),
        ('if [ -z "$A" ]; then echo no; exit 1; fi\nrun $A', "run $A"),
        ('B=x\nif [ "$B" != y ] && { [ "$B" = z ] || [ "$B" = x ]; }; then C=1; fi\nrun $C', "run 1"),
    ],
)
def test_words_as_bash_makes_them(script: str, command: str) -> None:
    assert commands(script)[-1] == command


def test_what_the_outside_decides_is_walked_both_ways_and_open_afterwards() -> None:
    script = "if [ -f marker ]; then TP=2; PP=4; else TP=8; PP=4; fi\nrun $TP $PP"
    assert commands(script) == ["run $TP 4"]
    assert commands(script, TP="16") == ["run 16 4"]


def test_a_way_that_ends_in_an_error_is_not_gone() -> None:
    assert commands("if [ ! -d data ]; then echo missing; exit 1; fi\nrun") == ["run"]
    assert commands("run a\nexit 0\nrun b") == ["run a"]


def test_every_word_keeps_the_line_where_it_was_written() -> None:
    scope = Scope("s.sh")
    read('A=(\n  --x 1\n  --y 2\n)\nB="\n --z 3"\n\nrun ${A[@]} $B', scope)
    (command,) = scope.commands
    lines = {said(word): place(word, command.place).line for word in command.words}
    assert lines == {"run": 8, "--x": 2, "1": 2, "--y": 3, "2": 3, "--z": 6, "3": 6}


def test_scripts_start_and_source_one_another(tmp_path: Path) -> None:
    (tmp_path / "args.sh").write_text("LAYERS=$1\n")
    (tmp_path / "node.sh").write_text("run $LAYERS $1 $PRIVATE\n")
    main = tmp_path / "main.sh"
    main.write_text('HERE=$(dirname "$0")\nsource $HERE/args.sh 12\nexport LAYERS\nsrun -N 2 bash node.sh a\n')
    scope = Scope(str(main))
    scope.arguments = ()
    read(main.read_text(), scope)
    (command,) = scope.commands
    assert [readable(said(word)) for word in command.words] == ["run", "12", "a", "$PRIVATE"]
    assert command.outer == ("srun", "-N", "2")
    assert command.place.file == str(tmp_path / "node.sh")


def test_nothing_is_executed_and_nothing_is_written(tmp_path: Path) -> None:
    written = f"cat <<E > {tmp_path}/d\nx\nE\nrun > {tmp_path}/e"
    commands(f"touch {tmp_path}/a; $(touch {tmp_path}/b); `touch {tmp_path}/c`; {written}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1+2)*3", 9),
        ("-7 / 2", -3),
        ("2 ** 3 ** 1", 8),
        ("N > 2 ? 4 : 8", 4),
        ("!0 && 3", 1),
        ("0x10", 16),
    ],
)
def test_arithmetic(expression: str, value: int) -> None:
    assert arithmetic.evaluate(expression, {"N": "3"}.__getitem__) == value


@pytest.mark.parametrize("expression", ["1 +", "1 / 0", "9 ** 99", "1 2", "a.b", "(" * 500, "x"])
def test_what_is_no_arithmetic_is_open(expression: str) -> None:
    with pytest.raises(arithmetic.Open):
        arithmetic.evaluate(expression, lambda _: "x")


SIZES = "--num-layers 4 --hidden-size 64 --num-attention-heads 4 --seq-length 32 --max-position-embeddings 32"
GPT = f"{SIZES} --micro-batch-size 1 --global-batch-size 16 --vocab-size 100 --train-iters 20 --lr 1e-3 --bf16"

JOB = f"""#!/bin/bash
#SBATCH --job-name=gpt
#SBATCH -N 2 --ntasks-per-node=1
#SBATCH --gres=gpu:a100:8   # all of them
#SBATCH --time=1-00:00:00
#SBATCH -A proj42
#SBATCH --exclusive
#SBATCH --container-image=nvcr.io#nvidia/pytorch:25.04-py3
#SBATCH --hint=nomultithread
module load cuda/12.4
export NCCL_IB_HCA=mlx5
export RUN=$PWD/run
ARGS="{GPT}"
HOST=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)
srun bash -c "torchrun --nnodes $SLURM_NNODES --nproc_per_node=8 --rdzv_endpoint $HOST:6000 pretrain_gpt.py $ARGS"
"""


def source(script: str, **answers: str) -> Source:
    return of_script(script, "job.sbatch", answers)


def test_a_job_script() -> None:
    job = source(JOB)
    wanted = {
        "cluster.gpus": 16,
        "cluster.gpus_per_node": 8,
        "launch.kind": "slurm",
        "launch.slurm.account": "proj42",
        "launch.slurm.time": "1-00:00:00",
        "launch.slurm.gpus": "gres",
        "launch.slurm.gpu_type": "a100",
        "launch.slurm.exclusive": True,
        "launch.slurm.container": "pyxis",
        "launch.slurm.image": "nvcr.io#nvidia/pytorch:25.04-py3",
        "launch.slurm.modules": ["cuda/12.4"],
        "launch.slurm.extra": ["--hint=nomultithread"],
        "launch.environment": {"NCCL_IB_HCA": "mlx5"},
        "model.layers": 4,
        "training.global_batch": 16,
    }
    assert {path: job.values[path] for path in wanted} == wanted
    assert job.asks == ()
    assert job.remarks == ()
    fates = {found.key: found.fate for found in job.found}
    assert fates["export RUN"] == "dropped"
    assert fates["torchrun --rdzv-endpoint"] == "dropped"
    assert fates["#SBATCH --hint"] == "passed"


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ("--ntasks-per-node=1", "--ntasks-per-node=8", "launch.tasks"),
        ("--nnodes $SLURM_NNODES", "--nnodes 4", "launch.nodes"),
        ("$HOST:6000", "localhost:6000", "launch.master_addr"),
        ("--rdzv_endpoint $HOST:6000", "--master_addr $(hostname)", "launch.master_addr"),
    ],
)
def test_what_the_launcher_gets_wrong(before: str, after: str, rule: str) -> None:
    (remark,) = source(JOB.replace(before, after)).remarks
    assert (remark.level, remark.rule) == ("error", rule)


@pytest.mark.parametrize(
    ("options", "world", "rules"),
    [
        ("--nodes=2 --ntasks-per-node=8", 16, []),
        ("--ntasks=16 --ntasks-per-node=8", 16, []),  # the nodes follow
        ("--ntasks=12 --ntasks-per-node=8", 16, ["launch.partial"]),
        ("--nodes=2 --ntasks=15", 14, ["launch.partial"]),
    ],
)
def test_tasks_that_do_not_fill_the_last_node(options: str, world: int, rules: list[str]) -> None:
    head = f"#!/bin/bash\n#SBATCH {options} --exclusive\n"
    job = source(f"{head}srun python pretrain_gpt.py {GPT}\n")
    assert job.values["cluster.gpus"] == world
    assert [one.rule for one in job.remarks if one.rule.startswith("launch.")] == rules


def test_what_is_open_is_asked_for_by_name() -> None:
    script = (
        f"torchrun --nnodes $NODES --nproc_per_node 8 pretrain_gpt.py {GPT} --tensor-model-parallel-size $TP".replace(
            "\n", " "
        )
    )
    asked = {ask.path: ask.problem.message for ask in source(script).asks}
    assert "--nnodes takes $NODES, which the file leaves open; give set.NODES=VALUE" in asked["cluster.gpus"]
    assert "give set.TP=VALUE" in asked["parallelism.tp"]
    answered = source(script, NODES="4", TP="2")
    assert answered.asks == ()
    assert (answered.values["cluster.gpus"], answered.values["parallelism.tp"]) == (32, 2)


def test_paths_that_are_open_are_left_out_and_said_so() -> None:
    script = f"torchrun pretrain_gpt.py {GPT} --data-path $DATA --save ${{OUT}}/ckpt --save-interval 10".replace(
        "\n", " "
    )
    job = source(script)
    assert job.asks == ()
    assert "training.logging.save" not in job.values
    dropped = {found.key: found.reason for found in job.found if found.fate == "dropped"}
    assert dropped["--data-path"] == "$DATA is left open; give set.DATA=VALUE"


def test_a_script_that_only_sets_arguments() -> None:
    fragment = source("MODEL_ARGS=(\n  --num-layers 4\n  --hidden-size 64\n  --swiglu\n)\n")
    assert (fragment.values["model.layers"], fragment.values["model.activation"]) == (4, "swiglu")


@pytest.mark.parametrize("script", ["echo hello", "python tools/preprocess_data.py --input x", "sbatch job.sh"])
def test_a_script_without_a_training_is_refused(script: str) -> None:
    with pytest.raises(ConfigError, match="no training that is known here"):
        source(script)


def test_other_models_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"pretrain_bert.py trains another kind of model"):
        source("torchrun pretrain_bert.py --num-layers 4 --tensor-model-parallel-size 2")


@pytest.mark.parametrize(
    "script", ["f() { f; }\nf", "bash job.sbatch", "A=x\nwhile true; do A=$A$A; done", "while true; do f; done"]
)
def test_what_has_no_end_ends(script: str, tmp_path: Path) -> None:
    path = tmp_path / "job.sbatch"
    path.write_text(script)
    with pytest.raises(ConfigError):
        of_script(script, str(path), {})


def test_a_job_that_says_nothing_of_cpus_has_the_whole_node_and_is_warned() -> None:
    job = source(f"#!/bin/bash\n#SBATCH --nodes=1 --gpus-per-node=8\ntorchrun --nproc_per_node 8 pretrain_gpt.py {GPT}")
    assert job.values["launch.slurm.exclusive"]
    assert "launch.cpus" in {remark.rule for remark in job.remarks}


def test_words_of_a_text_that_is_put_together_stand_where_they_were_written() -> None:
    scope = Scope("s.sh")
    script = 'A=(\n --x 1\n --y 2\n)\nB="--z 3"\nCMD="run ${A[@]} \\\n  $B"\nsrun bash -c "X=1 nice $CMD"\n'
    read(script, scope)
    placed = {said(word): place(word, scope.commands[-1].place).line for word in scope.commands[-1].words}
    assert (placed["--x"], placed["--y"], placed["--z"]) == (2, 3, 5)


def test_variables_that_ray_hands_to_its_workers() -> None:
    words = '--runtime-env-json="{\\"env_vars\\": {\\"NCCL_DEBUG\\": \\"WARN\\"}}"'
    job = source(f"ray job submit {words} -- python3 pretrain_gpt.py {GPT}".replace("\n", " "))
    assert job.values["launch.environment"] == {"NCCL_DEBUG": "WARN"}


def test_which_gpus_a_script_takes_is_no_variable_of_the_run() -> None:
    job = source(f"CUDA_VISIBLE_DEVICES=0,1 torchrun --nproc_per_node 2 pretrain_gpt.py {GPT}".replace("\n", " "))
    assert "launch.environment" not in job.values


def test_a_program_that_generates_is_named() -> None:
    with pytest.raises(ConfigError, match=r"it starts line 1: generate_text.py"):
        source(f"torchrun generate_text.py {GPT}".replace("\n", " "))
