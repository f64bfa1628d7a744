"""*Parsed*, *read back* and *scheduled*: the Trainer's arguments by transformers, the launch file by accelerate.

accelerate's own launcher makes of the file the environment it would start the ranks with; in that environment
transformers parses its arguments. No rank is started, so what asks for a GPU or for other ranks is told they are there.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from meshwright.layout.plan import Plan
from meshwright.train.schedule import learning_rate
from meshwright.verify.schedule import compared as rates_compared
from meshwright.verify.verdict import Check

__all__ = [
    "SUBSTITUTED",
    "compared",
    "expected",
    "launched",
    "parsed_arguments",
    "scheduled",
    "versions",
]

SUBSTITUTED = ("a GPU that computes in bf16", "ranks of the whole world")


def versions() -> dict[str, str]:
    """Of what judges."""
    import accelerate
    import torch
    import transformers

    modules = {"accelerate": accelerate, "torch": torch, "transformers": transformers}
    return {name: str(module.__version__) for name, module in modules.items()}


@contextmanager
def launched(files: Mapping[str, str]) -> Iterator[Path]:
    """A folder with ``files``, worked in with the environment that ``accelerate launch`` would give its ranks."""
    with tempfile.TemporaryDirectory() as name:
        folder, before = Path(name), Path.cwd()
        for path, text in files.items():
            (folder / path).write_text(text)
        os.chdir(folder)
        try:
            with mock.patch.dict(os.environ, _environment("accelerate.yaml")):
                yield folder
        finally:
            os.chdir(before)


def _environment(path: str) -> dict[str, str]:
    """The variables that accelerate's launcher sets for the launch file at ``path``."""
    from accelerate.commands import launch
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    args = launch.launch_command_parser().parse_args(["--config_file", path, "script.py"])
    args, defaults, said = launch._validate_launch_command(args)
    if not args.use_deepspeed:
        made: dict[str, str] = prepare_multi_gpu_env(args)
        return made
    fields = [*defaults.deepspeed_config, *(["mixed_precision"] if said else [])]
    args.deepspeed_fields_from_accelerate_config = ",".join(fields)
    return dict(prepare_deepspeed_cmd_env(args)[1])


def parsed_arguments(plan: Plan) -> Any:
    """TrainingArguments from the file in the working folder, on a rank of the plan's world."""
    import torch
    from transformers import HfArgumentParser, TrainingArguments

    with (
        mock.patch("transformers.training_args.is_torch_bf16_gpu_available", return_value=True),
        mock.patch.object(TrainingArguments, "_setup_devices", torch.device("cpu")),
        mock.patch.object(TrainingArguments, "world_size", plan.grid.world),
    ):
        (arguments,) = HfArgumentParser([TrainingArguments]).parse_json_file("training_arguments.json")
    return arguments


def expected(plan: Plan) -> dict[str, Any]:
    """What the Trainer must have understood, by the names of its arguments."""
    training, optimizer = plan.spec.training, plan.spec.training.optimizer
    return {
        "per_device_train_batch_size": plan.batch.micro_batch,
        "gradient_accumulation_steps": plan.batch.microbatches,
        "max_steps": plan.steps,
        "learning_rate": optimizer.lr,
        "adam_beta1": optimizer.beta1,
        "adam_beta2": optimizer.beta2,
        "adam_epsilon": optimizer.eps,
        "weight_decay": optimizer.weight_decay,
        "max_grad_norm": optimizer.clip,
        "mixed_precision": {"fp32": "no"}.get(training.precision, training.precision),
        "seed": training.seed,
    }


def compared(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """A line for each value that was understood otherwise."""
    wrong = {name: value for name, value in wanted.items() if found.get(name) != value}
    return [f"{name}: {found.get(name)!r}, the plan has {value!r}" for name, value in wrong.items()]


def scheduled(plan: Plan, files: Mapping[str, str]) -> Check:
    """Whether transformers' own schedule gives steps the rates that Megatron's formulas do."""
    from transformers import get_scheduler

    said = json.loads(files["training_arguments.json"])
    steps, peak = int(said["max_steps"]), plan.spec.training.optimizer.lr
    rates = get_scheduler(
        said["lr_scheduler_type"],
        optimizer=_optimizer(peak),
        num_warmup_steps=said["warmup_steps"],
        num_training_steps=steps,
        scheduler_specific_kwargs=dict(said["lr_scheduler_kwargs"]),
    ).lr_lambdas[0]
    schedule = {**vars(plan.spec.training.schedule), "lr": peak}
    return rates_compared(plan, lambda step: peak * rates(step), lambda step: learning_rate(step, steps, schedule))


def _optimizer(peak: float) -> Any:
    import torch

    return torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=peak)
