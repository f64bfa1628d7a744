"""transformers' model in DeepSpeed's engine, from the files of a run folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
import transformers

from meshwright.spec.frozen import dataclass
from meshwright.train import deepspeed_patches as patches
from meshwright.train.deepspeed_tiling import tile
from meshwright.train.samples import Samples

__all__ = ["Job", "engine", "loss_of", "read"]


@dataclass(frozen=True)
class Job:
    """What ``compile`` wrote: DeepSpeed's JSON, transformers' config.json, and the rest."""

    settings: dict[str, Any]
    architecture: dict[str, Any]
    program: dict[str, Any]

    @property
    def stage(self) -> int:
        """The ZeRO stage."""
        return int(self.settings["zero_optimization"]["stage"])

    @property
    def universal(self) -> bool:
        """Whether it starts from a universal checkpoint."""
        return bool(self.settings.get("checkpoint", {}).get("load_universal"))

    def from_universal(self) -> Job:
        """The same, started from a universal checkpoint."""
        section = {**self.settings.get("checkpoint", {}), "load_universal": True}
        return replace(self, settings={**self.settings, "checkpoint": section})

    def from_saved(self) -> Job:
        """The same, started from a checkpoint of as many ranks, such as its own."""
        section = {key: value for key, value in self.settings.get("checkpoint", {}).items() if key != "load_universal"}
        return replace(self, settings={**self.settings, "checkpoint": section}) if self.universal else self

    @property
    def micro_batch(self) -> int:
        """Sequences of one micro-batch."""
        return int(self.settings["train_micro_batch_size_per_gpu"])

    @property
    def tiling(self) -> dict[str, int]:
        """Pieces of a micro-batch's tokens for the loss and for the MLPs."""
        return dict(self.program.get("tiling") or {"loss": 1, "mlp": 1})

    @property
    def vocab(self) -> int:
        """Tokens that the model knows."""
        return int(self.program.get("vocab") or self.architecture["vocab_size"])

    @property
    def global_batch(self) -> int:
        """Sequences of a step, after any ramp."""
        return int(self.micro_batch * self.settings["gradient_accumulation_steps"] * self.program["dp"])


def read(folder: Path) -> Job:
    """The job in a run folder; on a machine without a GPU, as a CPU can run it."""
    names = ("ds_config.json", "config.json", "program.json")
    settings, architecture, program = (json.loads((folder / "deepspeed" / name).read_text()) for name in names)
    if not torch.cuda.is_available():
        settings, _ = patches.on_cpu(settings)
    return Job(settings, architecture, program)


def engine(job: Job) -> Any:
    """The engine of this rank, every group made. All ranks start from the same weights, drawn from the seed."""
    deepspeed.init_distributed(dist_backend=None if torch.cuda.is_available() else "gloo")
    patches.experts()
    patches.machines()
    patches.readable()
    model = _model(job)
    tile(model, **job.tiling)
    groups = _ulysses(model, job) if job.program["cp"] > 1 else None
    made = deepspeed.initialize(
        model=model, model_parameters=list(_decayed(model, job)), config=job.settings, mpu=groups
    )
    if job.program.get("compile") and torch.cuda.is_available():
        made[0].compile()
    return made[0]


def _model(job: Job) -> Any:
    """With random weights. At stage 3 on GPUs no rank ever holds the whole model."""
    torch.manual_seed(job.program["seed"])
    settings = _settings(job)
    partitioned = job.stage == 3 and torch.cuda.is_available()
    with deepspeed.zero.Init(config_dict_or_path=job.settings) if partitioned else nullcontext():
        model = transformers.AutoModelForCausalLM.from_config(
            settings, attn_implementation=_attention(job), trust_remote_code=bool(job.program.get("remote"))
        )
    if partitioned:
        _draw_weights(model)
    if job.program["recompute"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def _settings(job: Job) -> Any:
    """The model's configuration; by the code in its folder where transformers has none, and that was asked for."""
    if job.program.get("remote"):
        return transformers.AutoConfig.from_pretrained(job.program["remote"], trust_remote_code=True)
    return transformers.AutoConfig.for_model(**job.architecture)


def _attention(job: Job) -> str:
    kernel = str(job.program["attention"])
    return kernel if torch.cuda.is_available() or not kernel.startswith("flash") else "sdpa"


def _draw_weights(model: Any) -> None:
    """Partitioned at birth, parameters were out of reach of the model's own initialization: draw them part by part."""
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        with deepspeed.zero.GatheredParameters(own, modifier_rank=0):
            if dist.get_rank() == 0:
                for parameter in own:
                    parameter._is_hf_initialized = False
                model._init_weights(module)


def _decayed(model: Any, job: Job) -> Iterator[dict[str, Any]]:
    """Matrices decay, biases and norms do not, as in Megatron (megatron/core/optimizer/__init__.py)."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    free = {n for n, p in named if n.endswith(".bias") or len(getattr(p, "ds_shape", p.shape)) == 1}
    decay = job.settings["optimizer"]["params"]["weight_decay"]
    for name, chosen, weight_decay in (("decayed", False, decay), ("free", True, 0.0)):
        group = [p for n, p in named if (n in free) is chosen]
        if group:
            yield {"params": group, "weight_decay": weight_decay, "name": name}


def _ulysses(model: Any, job: Job) -> Any:
    from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF

    return UlyssesSPAttentionHF.register_with_transformers(
        model_name_or_path=model,
        core_attn_implementation=_attention(job),
        sequence_parallel_size=job.program["cp"],
        micro_batch_size=job.micro_batch,
        seq_length_is_variable=True,
    )


def loss_of(runner: Any, job: Job, samples: Samples, first: int) -> torch.Tensor:
    """Mean over this rank's tokens of its micro-batch."""
    program = job.program
    replica = dist.get_rank() // (program["tp"] * program["cp"])
    start = first + replica * job.micro_batch
    rows = np.stack([samples.sample(start + row) for row in range(job.micro_batch)])
    piece = program["sequence"] // program["cp"]
    begin = dist.get_rank() % program["cp"] * piece
    tokens = torch.from_numpy(rows).to(runner.device)
    places = torch.arange(begin, begin + piece, device=runner.device).expand(job.micro_batch, piece).contiguous()
    inputs = tokens[:, begin : begin + piece].contiguous()
    targets = tokens[:, begin + 1 : begin + piece + 1].contiguous()
    if program.get("loss") == "logits":
        logits = runner(input_ids=inputs, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, -2).float(), targets.flatten())
    if job.tiling["loss"] > 1:
        tiled: torch.Tensor = runner(input_ids=inputs, position_ids=places, shift_labels=targets)
        return tiled
    out = runner(input_ids=inputs, position_ids=places, labels=inputs, shift_labels=targets, use_cache=False)
    loss: torch.Tensor = out.loss
    return loss
