"""The program that trains with Megatron-core on the nodes: ``python -m meshwright.train.megatron RUN_FOLDER [flags]``.

It reads the command line that ``compile`` wrote (``megatron/args.txt``) and runs Megatron's own ``pretrain``. What
Megatron's wheel leaves to its user is here and in ``megatron_data``, and follows Megatron-LM's pretrain_gpt.py
(core_v0.19.0): one forward step, the loss, the datasets. Checkpoints and ``metrics.jsonl`` lie in the run folder unless
flags say otherwise, and a run that finds a checkpoint goes on from it. SIGTERM and SIGUSR1 save a checkpoint and end
the run with code 75 (EX_TEMPFAIL: start me again).
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from meshwright.train import lifeline

if __name__ == "__main__":
    lifeline.follow_parent(signal.SIGKILL)  # before the imports below, during which torchrun may end, too

import torch
import yaml

if not torch.cuda.is_available():  # must be known before megatron decorates its functions
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))  # ranks share the cores; threads would wait
    from meshwright.train.gpu_packages import hide

    hide()

from megatron.core.enums import ModelType
from megatron.core.rerun_state_machine import get_rerun_state_machine
from megatron.core.transformer.multi_token_prediction import get_mtp_ranks
from megatron.core.utils import StragglerDetector, get_attr_wrapped_model
from megatron.training import get_args, get_timers, pretrain
from megatron.training.argument_utils import (
    gpt_config_from_args,
    hybrid_config_from_args,
    pretrain_cfg_container_from_args,
)
from megatron.training.arguments import core_transformer_config_from_args, parse_and_validate_args

from meshwright.layout.in_folder import in_folder
from meshwright.layout.length import NEVER
from meshwright.train import (
    fsdp2,
    machine,
    metrics,
    profiler,
    pytorch_optimizer,
    resiliency,
    retention,
    slow_rank,
    stages,
    watchdog,
    wheel,
)
from meshwright.train.megatron_data import batch, datasets

__all__ = ["command_line", "main"]

REPORT = StragglerDetector()  # Megatron's own (--log-straggler), off unless asked for


def main(words: Sequence[str]) -> None:
    """Train the run in the folder ``words[0]``; the others are further flags of Megatron's."""
    folder, extra = Path(words[0]), words[1:]
    line = command_line(folder, extra)
    if not torch.cuda.is_available():
        from meshwright.train import cpu

        line = cpu.flags(line)
        cpu.install()
    for name, value in json.loads((folder / "megatron" / "environment.json").read_text()).items():
        os.environ.setdefault(name, value)
    sys.argv = ["megatron", *line]
    signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))  # SLURM's word before the limit
    _install(folder, line)
    _train()


def _install(folder: Path, line: Sequence[str]) -> None:
    """What Megatron's wheel lacks, and what the run folder is told."""
    training, watched = _training(folder), _config(folder)["launch"]["watchdog"]
    machine.write(folder)
    resiliency.note_restart(folder)
    wheel.install()
    pytorch_optimizer.install()
    fsdp2.install()
    metrics.install(folder / "metrics.jsonl")
    metrics.install_validation(folder / "metrics.jsonl", training["evaluation"]["at_end"])
    stages.install(folder, line)
    retention.install(training["logging"])
    profiler.install(folder, training["logging"].get("profile"))
    slow_rank.install(folder / "metrics.jsonl", watched["slow"])
    watchdog.install(folder, watched)


def _train() -> None:
    args = parse_and_validate_args()
    datasets.is_distributed = True  # type: ignore[attr-defined]
    of_model = hybrid_config_from_args if args.hybrid_layer_pattern else gpt_config_from_args
    config = pretrain_cfg_container_from_args(args, of_model(args))
    kind = ModelType.encoder_or_decoder
    try:
        pretrain(config, datasets, kind, forward_step, get_embedding_ranks=_embedding_ranks)
    except SystemExit as end:  # Megatron leaves its loop so, on a signal with code 0
        raise SystemExit(end.code or resiliency.stopped()) from None


def command_line(folder: Path, extra: Sequence[str] = ()) -> list[str]:
    """The flags ``compile`` wrote, then ``extra``, then where checkpoints lie if neither says so.

    A run that has saved already goes on from there, wherever it started.
    """
    words = shlex.split((folder / "megatron" / "args.txt").read_text())
    line = [*in_folder(words, str(folder.absolute())), *extra]
    steps = {"--save-interval": NEVER, "--eval-interval": NEVER, "--eval-iters": 0}
    if not _saves(folder):
        return [*line, *_unless_given(line, steps), *_loaded(line, stages.source(folder))]
    line += _unless_given(line, {"--save": folder / "checkpoints", **steps})
    own = line[len(line) - line[::-1].index("--save")]
    if own and (Path(own) / stages.SAVED[0]).is_file():
        return [*line, "--load", own]
    return [*line, *_unless_given(line, {"--load": stages.source(folder) or own or folder / "checkpoints"})]


def _saves(folder: Path) -> bool:
    """Whether the run is to write checkpoints at all: training.logging.checkpoints."""
    return bool(_training(folder)["logging"].get("checkpoints", True))


def _training(folder: Path) -> dict[str, Any]:
    """What ``training`` says in the run's configuration."""
    training: dict[str, Any] = _config(folder)["training"]
    return training


def _config(folder: Path) -> dict[str, dict[str, Any]]:
    config: dict[str, dict[str, Any]] = yaml.safe_load((folder / "config.yaml").read_text())
    return config


def _loaded(line: Sequence[str], source: Path | None) -> Iterator[str]:
    if source is not None:
        yield from _unless_given(line, {"--load": source})


def _unless_given(line: Sequence[str], defaults: Mapping[str, object]) -> Iterator[str]:
    for name, value in defaults.items():
        if name not in line:
            yield from (name, str(value))


def forward_step(data: Any, model: Any, return_schedule_plan: bool = False) -> tuple[Any, Any]:
    """One micro-batch through ``model``: its output, and the function that makes a loss of it."""
    timers = get_timers()
    timers("batch-generator", log_level=2).start()
    with REPORT(bdata=True):
        mask, labels, loss_mask, positions, tokens = batch(data, get_attr_wrapped_model(model, "vp_stage"))
    timers("batch-generator").stop()
    run = model.build_schedule_plan if return_schedule_plan else model
    with REPORT, slow_rank.OWN.forward():
        output = run(tokens, positions, mask, labels=labels, loss_mask=loss_mask)
    return output, partial(loss, loss_mask)


def loss(mask: torch.Tensor, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """The summed loss of a micro-batch, its number of tokens, and both for the report."""
    mask = mask.view(-1).float()
    total, tokens = torch.sum(output.view(-1).float() * mask), mask.sum()
    if get_args().check_for_nan_in_loss_and_grad:
        for rejected, kind in ((torch.isnan, "NaN"), (torch.isinf, "Inf")):
            get_rerun_state_machine().validate_result(
                result=total,
                rejection_func=metrics.noted(rejected),
                message=f"found {kind} in local forward loss calculation",
                tolerance=0.0,
                fatal=True,
            )
    report = torch.stack([total.detach(), tokens.detach()])
    return total, tokens.detach().to(torch.int), {"lm loss": report}


def _embedding_ranks(stages: list[int]) -> list[int]:
    """The ranks of a pipeline that hold the embedding's weights: the first, a tied last, those with MTP layers."""
    args = get_args()
    if len(stages) == 1:
        return stages[:1]
    tied = [] if args.untie_embeddings_and_output_weights else stages[-1:]
    return sorted({stages[0], *tied, *get_mtp_ranks(stages, core_transformer_config_from_args(args))})


if __name__ == "__main__":
    lifeline.run(main, sys.argv[1:])
