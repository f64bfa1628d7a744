"""torchtitan's configuration from values.json beside this file: ``--module config_registry --config run``.

``export`` copies it as config_registry.py. It stands alone (torchtitan, nothing of ours): torchtitan takes its
configuration from a Python function, whose values the command line may still change. Written for torchtitan 0.3.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

__all__ = ["run"]


def run() -> Any:
    """The Trainer.Config of this run."""
    from torchtitan.components.checkpoint import CheckpointManager
    from torchtitan.components.loss import ChunkedLossWrapper, CrossEntropyLoss
    from torchtitan.components.metrics import MetricsProcessor
    from torchtitan.components.optimizer import LRSchedulersContainer
    from torchtitan.config import DebugConfig, ParallelismConfig, TrainingConfig
    from torchtitan.distributed.activation_checkpoint import FullAC
    from torchtitan.hf_datasets.text_datasets import HuggingFaceTextDataLoader
    from torchtitan.trainer import Trainer

    values = json.loads((Path(__file__).parent / "values.json").read_text())
    loss = CrossEntropyLoss.Config(global_vocab_size=values["model"]["vocab"])
    return Trainer.Config(
        model_spec=_model_spec(values),
        loss=ChunkedLossWrapper.Config(loss_fn=loss),
        optimizer=_optimizer(values["optimizer"]),
        lr_scheduler=LRSchedulersContainer.Config(**values["lr_scheduler"]),
        training=TrainingConfig(**values["training"]),
        parallelism=ParallelismConfig(**values["parallelism"]),
        activation_checkpoint=FullAC.Config() if values["recompute"] else None,
        dataloader=HuggingFaceTextDataLoader.Config(dataset="c4", num_workers=values["workers"]),
        metrics=MetricsProcessor.Config(**values["metrics"]),
        checkpoint=CheckpointManager.Config(**values["checkpoint"]),
        debug=DebugConfig(**values["debug"]),
        **values["folders"],
    )


def _model_spec(values: dict[str, Any]) -> Any:
    from torchtitan.distributed.pipeline_parallel import pipeline_llm
    from torchtitan.models.llama3 import Llama3StateDictAdapter, parallelize_llama
    from torchtitan.protocols.model_spec import ModelSpec

    return ModelSpec(
        name="llama3",
        flavor=values["name"],
        model=_model(values["model"]),
        parallelize_fn=parallelize_llama,
        pipelining_fn=pipeline_llm,
        post_optimizer_build_fn=None,
        state_dict_adapter=Llama3StateDictAdapter,
    )


def _model(m: dict[str, Any]) -> Any:
    from torchtitan.models.common import Embedding, Linear
    from torchtitan.models.common.param_init import skip_param_init
    from torchtitan.models.llama3 import Llama3Model

    embedding = {"weight": skip_param_init} if m["tied"] else _normal(m["std"])
    return Llama3Model.Config(
        dim=m["dim"],
        vocab_size=m["vocab"],
        enable_weight_tying=m["tied"],
        tok_embeddings=Embedding.Config(num_embeddings=m["vocab"], embedding_dim=m["dim"], param_init=embedding),
        norm=_norm(m),
        lm_head=Linear.Config(in_features=m["dim"], out_features=m["vocab"], param_init=_normal(m["std"])),
        layers=[_layer(m) for _ in range(m["layers"])],
    )


def _layer(m: dict[str, Any]) -> Any:
    """Every layer is initialised alike: what writes into the residual with a smaller spread, as Megatron does."""
    from torchtitan.models.common import Linear
    from torchtitan.models.common.config_utils import get_attention_config, make_gqa_config
    from torchtitan.models.common.feed_forward import FeedForward
    from torchtitan.models.common.rope import ComplexRoPE
    from torchtitan.models.llama3.model import Llama3TransformerBlock

    into, out = _normal(m["std"]), _normal(m["std"] / (2 * m["layers"]) ** 0.5)
    up = partial(Linear.Config, in_features=m["dim"], out_features=m["ffn"], param_init=into)
    attention = make_gqa_config(
        dim=m["dim"],
        n_heads=m["heads"],
        n_kv_heads=m["kv_heads"],
        head_dim=m["head_dim"],
        wqkv_param_init=into,
        wo_param_init=out,
        inner_attention=get_attention_config("flex"),
        rope=ComplexRoPE.Config(**m["rope"]),
        fuse_qkv=True,
    )
    down = Linear.Config(in_features=m["ffn"], out_features=m["dim"], param_init=out)
    return Llama3TransformerBlock.Config(
        attention_norm=_norm(m),
        ffn_norm=_norm(m),
        attention=attention,
        feed_forward=FeedForward.Config(w1=up(), w2=down, w3=up()),
    )


def _norm(m: dict[str, Any]) -> Any:
    from torch import nn
    from torchtitan.models.common import RMSNorm

    return RMSNorm.Config(normalized_shape=m["dim"], eps=m["eps"], param_init={"weight": nn.init.ones_})


def _normal(std: float) -> dict[str, Any]:
    from torch import nn

    return {"weight": partial(nn.init.normal_, std=std), "bias": nn.init.zeros_}


def _optimizer(values: dict[str, Any]) -> Any:
    """Norms do not decay: the first pattern that matches a parameter has it."""
    from torchtitan.components.optimizer import OptimizersContainer, ParamGroupConfig

    name, settings = values["name"], values["settings"]
    free = {**settings, "weight_decay": 0.0}
    groups = ((r"norm", free), (r".*", settings))
    return OptimizersContainer.Config(
        param_groups=[
            ParamGroupConfig(pattern=pattern, optimizer_name=name, optimizer_kwargs=of) for pattern, of in groups
        ]
    )
