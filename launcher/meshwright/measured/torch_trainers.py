"""What trainers on PyTorch's FSDP did beside what the columns of their measured rows say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from meshwright.measured.practice import UNFUSED, Practice

__all__ = ["TORCH"]

_READ = 0.07
"""80 % of the peaks of trainers on PyTorch's FSDP whose code was read lie within its exp of ours: 35 of 44, pipelines
and compiled layers that keep more than asked for among them (torchtitan, prime-rl, KempnerForge)."""

# F.cross_entropy of upcast logits, which the caller deletes before the backward (torchtitan@e846b6946 train.py:127,
# :299): their log-softmax and two fp32 gradients. What held the logits in 16 bits stays cached; its peaks are what the
# allocator reserves (torchtitan/metrics.py:62)
_FSDP2 = Practice(
    memory_spread=_READ,
    fsdp="torch",
    zero=3,
    transformer_engine=False,
    changes={"loss_bytes": 12.0},
    cached_bytes=2.0,
    kernels={"norm": True},
)

_KERNEL_BY_KERNEL = {"norm": False, "activation": False, "rope": False}  # where nothing is compiled

TORCH: Mapping[str, Practice] = {
    # loss_fn: fused_crossentropy, flash-attn's kernel, told nothing of inplace_backward (llmfoundry/models/mpt/
    # modeling_mpt.py:730 at b2a43a147): the logits and their gradient; its tables of A100 are of May 2023 (5f43bf160),
    # with torch 1.13, of H100 of October (b2a43a147), with 2.1
    "llm-foundry": Practice(
        memory_spread=_READ,
        fsdp="torch",
        whole_layers=("A100-40GB", "A100-80GB"),
        zero=3,
        transformer_engine=False,
        changes={"loss_bytes": 4.0},
    ),
    "torchtitan": replace(
        _FSDP2,
        # its models call torch's own RMSNorm and silu(w1(x)) * w3(x)
        eager=_KERNEL_BY_KERNEL,
        cluster={"H100-96GB HBM2e 500W": "grand_teton_h100_96gb"},
    ),
    # its loss takes the bf16 logits, which ``output`` holds: with their logarithms and two gradients 8 bytes
    # (fms-fsdp@ed74fd5 fms_fsdp/utils/train_utils.py:87)
    "fms-fsdp": replace(_FSDP2, changes={"loss_bytes": 8.0}, eager=_KERNEL_BY_KERNEL, cached_bytes=0.0),
    # parameters, gradients and Adam's moments all in bf16; gradients stay whole, in fp32, until the last micro-batch
    # (KempnerForge@5666d0d kempnerforge/training/grad.py:20, distributed/parallel.py:72 reduce_dtype). Each rank has
    # all logits (tensor_parallel.py: the head's output is replicated), in bf16, with their logarithms and two
    # gradients (training/loss.py:19). Peaks are what was allocated, of rank 0 (metrics/memory.py:33)
    "kempnerforge": replace(
        _FSDP2,
        changes={
            "weight_bytes": 2.0,
            "gradient_bytes": 2.0,
            "optimizer_bytes": 4.0,
            "whole_gradients": 4.0,
            "loss_bytes": 8.0,
            "gathered_loss": True,
            "fsdp2": False,
        },
        cached_bytes=0.0,
        measured_stage="first",
    ),
    # Automodel examples/llm_benchmark/*_te_deepep.yaml: experts' products in one call for all of them (experts: gmm,
    # torch_mm), their biases expert by expert until August 2026 (components/moe/layers.py ``_apply_bias`` at 89e3a9fdd,
    # of October 2025, as gpt-oss, DeepSeek, Kimi and Qwen were measured); tokens are sorted by one kernel
    # (moe_permute_fusion, :420), shared experts run beside the exchange (:915), rotary positions are complex products
    # (components/moe/rope_utils.py); a gate that deals tokens out
    # (fake_balanced_gate; components/moe/layers.py). Parameters are in bf16 (_transformers/auto_model.py:846); so are
    # the moments of torch.optim.Adam and a shard's gradients, without a master copy. What FSDP2 shares of gradients
    # stays whole, in fp32, until the last micro-batch (defer_fsdp_grad_sync, components/distributed/utils.py:236;
    # components/moe/fsdp_mixin.py); each 8 sequences of a rank (local_batch_size) are a pipeline of their own, which
    # reduces and reshards (the latter at v0.2.0, :61): torch 2.8's, whose stages wait for one another's hand-overs
    # (torch/distributed/pipelining/schedules.py:1542). Nothing is added by products. The loss stays in 16 bits
    # (fp32_upcast: false): logits, their logarithms and two gradients. Only Super and gpt-oss-120b are resharded behind
    # the forward (their recipes at c0e4fe1b and v0.2.0): the others' zero_stage is 2. Llama 3 70B is resharded, reduced
    # at once (defer_fsdp_grad_sync: False), its loss upcast, its layers torch's own, compiled; the moments of
    # Transformer Engine's FusedAdam are fp32 (custom_llama3_1_70b_pretrain_benchmark_8nodes.yaml at 2013a4dd6)
    "nvidia-automodel": replace(
        _FSDP2,
        transformer_engine=True,
        dense_engine=False,
        overlap_pipeline=False,
        cached_bytes=0.0,
        assumed={"dispatcher": "deepep", "fusions": "permute", "overlap": "shared"},
        changes={
            **UNFUSED,
            "expert_launches": 0.0,
            "deals_tokens": True,
            "weight_bytes": 2.0,
            "gradient_bytes": 2.0,
            "whole_gradients": 4.0,
            "emptied_every": 8,
            "optimizer_bytes": 4.0,
            "loss_bytes": 8.0,
        },
        dense={"optimizer_bytes": 8.0, "loss_bytes": 14.0, "whole_gradients": 0.0},
        eager={"rope": False},
    ),
}
