"""The program that trains with DeepSpeed on the nodes: ``python -m meshwright.train.deepspeed RUN_FOLDER``.

It reads ``deepspeed/`` of a run folder, goes on from the last checkpoint if there is one, writes ``metrics.jsonl``, and
on SIGTERM or SIGUSR1 saves a checkpoint and ends with code 75 (EX_TEMPFAIL: start me again). It runs on CPUs, too.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meshwright.train import lifeline

if __name__ == "__main__":
    lifeline.follow_parent(signal.SIGKILL)  # before the imports below, during which torchrun may end, too

import torch

if not torch.cuda.is_available():  # before DeepSpeed looks for an accelerator
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

import torch.distributed as dist

from meshwright.train import deepspeed_checkpoints as checkpoints
from meshwright.train import deepspeed_patches as patches
from meshwright.train import deepspeed_validation as validation
from meshwright.train import machine, metrics, retention, slow_rank, stages
from meshwright.train.deepspeed_engine import Job, engine, loss_of, read
from meshwright.train.profiler import profiled
from meshwright.train.samples import Samples, dataset
from meshwright.train.schedule import batches, rates
from meshwright.train.watchdog import Watchdog

__all__ = ["main"]


def main(words: Sequence[str]) -> None:
    """Train the run in the folder ``words[0]``. Ends the process."""
    folder = Path(words[0])
    if not torch.cuda.is_available():
        patches.without_compiler()
    signals = _listen()
    machine.write(folder)
    job = read(folder)
    _name_wandb(job)
    saved = (_checkpoints(folder, job.program) / "latest").is_file()
    job = job.from_saved() if saved else checkpoints.prepared(job, folder)
    runner = engine(job)
    code = _train(runner, job, folder, signals)
    _end(runner, code)


def _listen() -> list[int]:
    """Signals received so far."""
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda caught, _: received.append(caught))
    return received


def _name_wandb(job: Job) -> None:
    """DeepSpeed has no key for a run's name at Weights & Biases."""
    if job.program["logging"]["wandb_project"]:
        os.environ.setdefault("WANDB_NAME", job.program["logging"]["wandb_name"] or job.program["name"])


def _datasets(job: Job) -> tuple[Samples, Samples | None]:
    """What is trained on, and what is held back for validation where that is asked for."""
    program = job.program
    if program["steps"] is None:
        raise SystemExit("training.steps and training.tokens are not set: the length of the run is unknown")
    of_data = program["data"], job.vocab, program["sequence"], program["seed"]
    return dataset(*of_data), dataset(*of_data, validation=True) if validation.wanted(program) else None


def _prune(saved: Path, logging: Mapping[str, Any]) -> None:
    if dist.get_rank() == 0:
        retention.prune(saved, logging)


def _train(runner: Any, job: Job, folder: Path, signals: list[int]) -> int:
    program = job.program
    samples, held_back = _datasets(job)
    saved, first = _checkpoints(folder, program), _resume(runner, job, folder)
    watchdog = Watchdog(folder, program["watchdog"])
    compared = slow_rank.Comparison(folder / "metrics.jsonl", program["watchdog"]["slow"])
    save, validate = watchdog.paused(runner.save_checkpoint), watchdog.paused(validation.validate)
    begin = stages.after(folder) or {"step": 0, "sample": 0}
    profile = program["logging"].get("profile") if dist.get_rank() == 0 else None
    shape = program["steps"], program["sequence"], job.global_batch, program["ramp"]
    rate = rates(program["schedule"], *shape)
    for step, done, size in batches(*shape):
        if step < first:
            continue
        with profiled(folder, step + 1, profile):
            _step(runner, job, samples, folder, step, begin["sample"] + done, size, rate(step + begin["step"]))
        watchdog.beat()
        compared.step(step + 1)
        last = step + 1 == program["steps"]
        if held_back is not None and validation.due(program, step + 1):
            validate(runner, job, held_back, folder, step + 1)
        stop = _anywhere(bool(signals))
        if _saves(program["logging"], step + 1, last, stop):
            save(str(saved), tag=f"step{step + 1}", client_state={"step": step + 1})
            if last or stop:
                _finish(runner)
            _prune(saved, program["logging"])
        if stop and not last:
            return os.EX_TEMPFAIL
    return 0


def _finish(runner: Any) -> None:
    """Wait for a process that writes while training goes on; else the next step does (runtime/engine.py:3612)."""
    if runner.checkpoint_engine.is_decoupled():
        runner._commit_decoupled_checkpoint()


def _saves(logging: dict[str, Any], step: int, last: bool, stop: bool) -> bool:
    """Whether there is a checkpoint after ``step`` steps."""
    due = logging["save_interval"] and step % logging["save_interval"] == 0
    return bool(logging["checkpoints"] and (stop or due or (last and logging["save_at_end"])))


def _checkpoints(folder: Path, program: dict[str, Any]) -> Path:
    return Path(program["logging"]["save"] or folder / "checkpoints")


def _resume(runner: Any, job: Job, folder: Path) -> int:
    """Load the last checkpoint of this run, else the one it starts from; the first step to train."""
    own, start = _checkpoints(folder, job.program), job.program["logging"]["load"]
    if (own / "latest").is_file():
        return int(runner.load_checkpoint(str(own))[1]["step"])
    before = stages.source(folder)
    if before is not None:
        if job.universal:
            checkpoints.load_universal(runner, checkpoints.converted(folder))
        else:
            runner.load_checkpoint(str(before))
    elif start and job.universal:
        checkpoints.load_universal(runner, checkpoints.universal_start(folder, Path(start)))
    elif start:
        path, _ = runner.load_checkpoint(start)
        if path is None:
            raise SystemExit(f"training.logging.load: no checkpoint in {start}")
    return 0


def _step(runner: Any, job: Job, samples: Samples, folder: Path, step: int, done: int, size: int, rate: float) -> None:
    """One optimizer step over ``size`` sequences, the first of which is sample ``done``."""
    began, program = time.perf_counter(), job.program
    for group in runner.optimizer.param_groups:
        group["lr"] = rate
    accumulation = size // (job.micro_batch * program["dp"])
    if not program.get("zenflow"):  # which keeps its own interval there
        runner._config.gradient_accumulation_steps = accumulation  # its setter counts AutoTP's ranks as data parallel
    total = torch.zeros((), device=runner.device)
    for micro in range(accumulation):
        with slow_rank.OWN.forward():
            loss = loss_of(runner, job, samples, done + micro * job.micro_batch * program["dp"])
        runner.backward(loss * _share(job))
        runner.step()
        total += loss.detach().float() / accumulation
    dist.all_reduce(total)
    _log(folder, runner, step, total.item() / dist.get_world_size(), rate, size * program["sequence"], began)


def _share(job: Job) -> float:
    """Ulysses: stage 3 averages gradients over dp*cp ranks, stages 0 to 2 over dp only (stage_1_and_2.py:1506)."""
    return 1.0 if job.stage == 3 else 1.0 / job.program["cp"]


def _log(folder: Path, runner: Any, step: int, loss: float, rate: float, tokens: int, began: float) -> None:
    norm, peaks = runner.get_global_grad_norm(), metrics.peak_memory()
    if dist.get_rank() == 0:
        seconds = time.perf_counter() - began
        metrics.write(
            folder / "metrics.jsonl",
            step=step + 1,
            loss=loss,
            grad_norm=None if norm is None else float(norm),
            lr=rate,
            step_time_s=seconds,
            tokens_per_s=tokens / seconds,
            **peaks,
        )


def _anywhere(here: bool) -> bool:
    """Whether any rank says so: all must save together."""
    flag = torch.tensor(float(here), device="cuda" if torch.cuda.is_available() else "cpu")
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def _end(runner: Any, code: int) -> None:
    """In this order and without the interpreter's own ending, in which gloo's threads now and then abort."""
    dist.barrier()
    runner.destroy()
    del runner
    gc.collect()
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    lifeline.run(main, sys.argv[1:])
