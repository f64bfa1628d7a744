"""Arguments of Megatron-LM that describe models or runs of another kind than ours, and what a log derives."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["DERIVED", "FOREIGN", "OTHER"]

OTHER = "it makes another kind of model than a decoder of attention and MLP or expert layers"
_TOKENIZER = "data are token ids already; the size of the vocabulary is what is kept"

FOREIGN: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("hybrid_override_pattern", "is_hybrid_model", "hybrid_attention_ratio"),
            *("hybrid_mlp_ratio", "heterogeneous_layers_config_path", "heterogeneous_layers_config_encoded_json"),
            *("decoder_num_layers", "encoder_num_layers", "num_channels", "patch_dim"),
            *("retro_project_dir", "retro_add_retriever", "bert_load", "mrope_section", "decoder_seq_length"),
            *("multi_token_prediction_pattern",),
        ),
        OTHER,
    ),
    **dict.fromkeys(("vocab_file", "merge_file", "vocab_extra_ids", "tiktoken_pattern"), _TOKENIZER),
    "data_args_path": "its paths stand in another file; give training.data.paths=[...]",
    "train_data_path": "one blend for every part here; give training.data.paths=[...]",
    "valid_data_path": "one blend for every part here",
    "test_data_path": "one blend for every part here",
    "per_split_data_args_path": "its paths stand in another file; give training.data.paths=[...]",
    "yaml_cfg": "with it Megatron reads nothing from the command line; import that file",
    "config_logger_dir": "it says where a log goes, ours go to the run folder",
    "use_checkpoint_args": "a checkpoint's own arguments are not read here",
    "rank": "a rank's own",
    "local_rank": "a rank's own",
}
"""By argument: why it is not carried."""

DERIVED: Mapping[str, str] = dict.fromkeys(
    (
        *("data_parallel_size", "transformer_pipeline_model_parallel_size", "params_dtype", "iteration"),
        *("eval_global_batch_size", "eval_micro_batch_size", "start_weight_decay", "end_weight_decay"),
        *("main_grads_dtype", "main_params_dtype", "dataloader_type", "consumed_train_samples"),
    ),
    "derived from the rest",
)
"""Values that Megatron computes and prints among its arguments."""
