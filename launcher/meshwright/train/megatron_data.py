"""What Megatron-core's loop trains on: the datasets, and of each micro-batch the part of this rank.

Follows Megatron-LM's pretrain_gpt.py (core_v0.19.0). Imported after ``megatron`` has seen whether there is a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from megatron.core import parallel_state
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig, MockGPTDataset
from megatron.core.tokenizers.utils.build_tokenizer import build_tokenizer
from megatron.core.transformer.multi_token_prediction import mtp_on_this_rank
from megatron.core.utils import get_batch_on_this_cp_rank, get_batch_on_this_tp_rank
from megatron.training import get_args
from megatron.training.arguments import core_transformer_config_from_args
from megatron.training.utils import get_blend_and_blend_per_split, is_first_or_last_pipeline_stage

from meshwright.train import stages

__all__ = ["FIELDS", "batch", "datasets"]

FIELDS = ("attention_mask", "labels", "loss_mask", "position_ids", "tokens")


def batch(data: Any, vp_stage: int | None) -> list[Any]:
    """The part of this rank of the next micro-batch, in the order of FIELDS; Nones where the rank needs none."""
    mtp = _has_mtp(vp_stage)
    if not is_first_or_last_pipeline_stage(vp_stage) and not mtp:
        return [None] * len(FIELDS)
    tp_rank = parallel_state.get_tensor_model_parallel_rank()
    read = _to_device(next(data)) if tp_rank == 0 else {}
    shared = get_batch_on_this_tp_rank(read, tp_rank=tp_rank, mtp_on_this_rank=mtp, **_as_laid_out(get_args()))
    group = parallel_state.get_context_parallel_group()
    mine = get_batch_on_this_cp_rank(shared, is_hybrid_cp=False, cp_group=group)
    return [mine[field] for field in FIELDS]


def _as_laid_out(args: Any) -> dict[str, Any]:
    """What get_batch_on_this_tp_rank asks of every rank alike."""
    return {
        "broadcast_src_rank": parallel_state.get_tensor_model_parallel_src_rank(),
        "broadcast_group": parallel_state.get_tensor_model_parallel_group(),
        "has_cu_seqlens": False,
        "is_hybrid_cp": False,
        "create_attention_mask_in_dataloader": args.create_attention_mask_in_dataloader,
        "cp_size": args.context_parallel_size,
        "micro_batch_size": args.micro_batch_size,
        "seq_length": args.seq_length,
        "pipeline_model_parallel_size": args.pipeline_model_parallel_size,
        "is_pipeline_first_stage": parallel_state.is_pipeline_first_stage(),
        "is_pipeline_last_stage": parallel_state.is_pipeline_last_stage(),
    }


def _to_device(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {f: batch[f].cuda(non_blocking=True) if batch.get(f) is not None else None for f in FIELDS}


def _has_mtp(vp_stage: int | None) -> bool:
    config = core_transformer_config_from_args(get_args())
    return bool(
        mtp_on_this_rank(
            layout=config.pipeline_model_parallel_layout,
            mtp_num_layers=config.mtp_num_layers,
            ignore_virtual=False,
            vp_stage=vp_stage,
        )
    )


def datasets(samples: Sequence[int], vp_stage: int | None = None) -> Any:
    """The training, validation and test datasets, of ``samples`` sequences each."""
    args = get_args()
    kind = MockGPTDataset if args.mock_data else GPTDataset
    samples = [samples[0] + stages.first_sample(), *samples[1:]]  # those of stages before come first
    return BlendedMegatronDatasetBuilder(kind, samples, partial(_reads_data, vp_stage), _dataset_config(args)).build()


def _reads_data(vp_stage: int | None) -> bool:
    first = parallel_state.get_tensor_model_parallel_rank() == 0
    return first and (is_first_or_last_pipeline_stage(vp_stage) or _has_mtp(vp_stage))


def _dataset_config(args: Any) -> Any:
    blend, per_split = get_blend_and_blend_per_split(args)
    same = ("split", "reset_position_ids", "reset_attention_mask", "eod_mask_loss", "mmap_bin_files")
    config = GPTDatasetConfig(
        random_seed=args.seed,
        sequence_length=args.seq_length,
        blend=blend,
        blend_per_split=per_split,
        path_to_cache=args.data_cache_path,
        tokenizer=build_tokenizer(args),
        create_attention_mask=args.create_attention_mask_in_dataloader,
        num_dataset_builder_threads=args.num_dataset_builder_threads,
        context_parallel_size=args.context_parallel_size,
        data_parallel_size=args.data_parallel_size,
        sequence_parallel_size=args.tensor_model_parallel_size * args.sequence_parallel,
        **{name: getattr(args, name) for name in same},
    )
    if config.split_matrix:  # no test set: nothing reads it, and of a share without a document Megatron never ends
        config.split_matrix[2] = None
    return config
