"""What each framework did beside what the columns of its measured rows say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from meshwright.cost.framework_megatron import HOOKED
from meshwright.measured.practice import Practice

__all__ = ["DEFAULT", "PRACTICES", "UNFUSED"]

UNFUSED = {"fused_gradients": False, "gradient_launches": HOOKED, "dummy_gradients": False}  # without APEX
_OLD = Practice(
    transformer_engine=False,
    overlap_data=False,
    overlap_pipeline=False,
    dropout=0.1,
    # the loss keeps fp32 logits, their exponentials and their gradient; until Megatron-LM v3.0 nothing was joined to
    # the product that makes a weight's gradient, or ran beside it
    # (what the host did for them is in the launch_us that was fitted to these rows)
    changes={
        "scattered_sends": True,
        "loss_bytes": 14.0,
        "fused_gradients": False,
        "gradient_launches": 0.0,
        "overlaps_gradients": False,
    },
)

DEFAULT = Practice(overlap_tensor=True, memory_spread=None)
# NVIDIA's performance recipes (NeMo scripts/performance, Megatron-Bridge perf recipes): grad_reduce_in_fp32 = False,
# fused loss, and 8-bit weights gathered as such (Megatron-Bridge training/mixed_precision.py: fp8_param_gather).
_RECIPES = replace(DEFAULT, grad_reduce="bf16", fused_loss=True, low_weights=True, zero=1)

# NeMo 1 on H100: optim.dtype is bf16, as parameters are, so that Apex's optimizer keeps no master copy
# (NeMo-Framework-Launcher 24.07 launcher_scripts/conf/training/nemotron/nemotron_340b.yaml; dgxc-benchmarking v24.11.1
# nemotron/nemotron4-340b-synth.yaml; NeMo megatron_base_model.py setup_optimization). With fp32 it takes 256 GPUs.
# Without it the optimizer keeps of the master copy what a 16-bit weight lacks (there, store_param_remainders).
_LARGEST = ("nemotron4-340b H100-80GB",)

_KORTHIKANTI = replace(_OLD, changes={**_OLD.changes, "fused_gradients": True, "overlaps_gradients": True})
# F.cross_entropy of upcast logits, which the caller deletes before the backward (torchtitan@e846b6946 train.py:127,
# :299): their log-softmax and two fp32 gradients. What held the logits in 16 bits stays cached; its peaks are what the
# allocator reserves (torchtitan/metrics.py:62)
_READ = 0.07
"""80 % of the peaks of trainers on PyTorch's FSDP whose code was read lie within its exp of ours: 35 of 44, pipelines
and compiled layers that keep more than asked for among them (torchtitan, prime-rl, KempnerForge)."""
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

PRACTICES: Mapping[str, Practice] = {
    "own-h100": replace(DEFAULT, changes=UNFUSED),
    "korthikanti2022": _KORTHIKANTI,
    "korthikanti2022_fig1": _KORTHIKANTI,
    "korthikanti2022_fig7": _KORTHIKANTI,
    "korthikanti2022_table4": _KORTHIKANTI,
    "megatron_dsv3_gb200": replace(_RECIPES, short_ends=1),  # layout Et|(tt|)*30L
    # examples/llama/train_llama3_8b_h100_fp8.sh at core_r0.12.0, which follows NeMo's performance scripts
    "megatron_llama_fp8": _RECIPES,
    "megatron_sc21": _OLD,
    "megatron_sc21_table2": _OLD,
    "vtrain-multi": replace(_OLD, grad_reduce="bf16"),
    # recomputation is vTrain's default (src/config.py use_checkpoint); that nothing was dropped is inferred: its layers
    # are too fast for both
    "vtrain-single": replace(_OLD, grad_reduce="bf16", recompute="full", dropout=0.0),
    "mt_nlg": _OLD,
    "bigscience": replace(_OLD, cluster={"A100-80GB": "a100_jean_zay"}, context_gib=3.5),
    # its trainer as published a year later (Aleph-Alpha/scaling@737f855 src/scaling/core): scores in memory of its own
    # (nn/attention/attention.py:145), softmax in 32 bits (masked_softmax.py:15; inferred that it was on): 12 bytes of
    # a score at once. Each rank gathers the logits (linear/column_parallel_linear.py:285), those of two micro-batches
    # stay (parallel_module.py:608), their fp32 logarithms and two gradients are 12 more (cross_entropy.py:24): 16.
    # Settled: 4 more where they are gathered, fragments among them, and what layers keep. That code keeps SiLU's output
    # and a whole projection for the values, but no copies of residuals, and 6 bytes for a norm, not 10: so counted its
    # rows are met worse. What ran out of memory and what did not, with flash attention (485 rows), is explained best
    # where 80 % of its peaks lie within 8 % of ours (13B alone: 8 %, 65B alone: 6 %)
    "hagemann2023": replace(
        _OLD,
        memory_spread=0.077,
        dropout=0.0,
        grad_reduce="bf16",
        changes={
            "gathered_loss": True,
            "loss_bytes": 16.0,
            "gathered_bytes": 4.0,
            "regathers": False,
            "fixed_gib": 2.0,
            "softmax_in_pieces": False,
            "score_bytes": 12.0,
            "score_buffer": 0.0,
            "fused_gradients": True,  # inferred: with a kernel for each, its rows are met worse
        },
        kernels={"residual": False, "norm": False},
    ),
    # huggingface/nanotron@67c5ebb6, the sweep's branch (scaling_benchmarks.py: REDUCE_SCATTER, asynchronous). A stage
    # takes layers until their cost is over its share (src/nanotron/models/base.py:234); that the head costs nothing
    # there, which models/llama.py:923 has it cost, is inferred. Gradients in fp32 beside those in bf16
    # (optim/gradient_accumulator.py); logits in bf16, in fp32 and less their greatest (models/llama.py:907,
    # parallel/tensor_parallel/functional.py:43). A layer keeps 16 bytes a channel and 8 of each of the MLP's: its norm
    # is one kernel, silu(gate) * up two (models/llama.py:201), nothing is kept of residuals. Those three copies, and
    # what else is cached, since peaks are taken for max_memory_reserved (helpers.py:616): settled, as are the last two
    # numbers, on the 1.34B model alone. Of the 8.86B model's peaks, kept out, 80 % lie within 9 %
    "nanotron_ultrascale": Practice(
        transformer_engine=False,
        sequence_parallel=True,
        measured_stage="first",
        memory_spread=0.091,
        full_stages=True,
        changes={
            "gradient_bytes": 6.0,
            "loss_bytes": 10.0,
            "fixed_gib": 0.0,
            "pass_bytes": 90.0,
            "waiting": (27.0, 49.0),
        },
        kernels={"residual": False, "activation": False},
    ),
    # SimuMax@4dcaae5 simu_tools/megatron_scripts/scripts/run_pretrain_deepseekv2.sh: experts padded to a capacity of 1,
    # tokens sorted by one kernel; docs/b200/b200_real_repro_guide.md, 3.3: user buffers are off. Without them, too,
    # Transformer Engine's linears gather their inputs again and scatter their gradients beside the backward's products
    # (transformer_engine/pytorch/module/linear.py of 2.11, async_op=True); CUDA_DEVICE_MAX_CONNECTIONS is 1
    "simumax-b200": Practice(
        memory_spread=None,
        fused_loss=True,
        overlap_data=False,
        overlap_pipeline=False,
        cp_comm="a2a",
        changes={"reads_counts": False},
        kernels={"permute": True},
    ),
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
    # its tests leave both dropouts at what Megatron has them, but where they say so (hidden_dropout, attention_dropout)
    "megatron-core-golden": replace(DEFAULT, measured_stage="last", dropout=0.1),
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
    # NeMo@7a8f1cc7 scripts/performance/llm/pretrain_deepseek_v3.py: the first stage lacks one layer, the last two; its
    # model has no fused rope (nemo/collections/llm/gpt/model/deepseek.py)
    "nvidia-dgxc-benchmarking": replace(
        _RECIPES, short_ends=1, released="released_nemo", sixteen_bit_states=_LARGEST, turned_apart=("deepseek",)
    ),
    # src/megatron/bridge/recipes/deepseek/deepseek_v3.py: the last stage has prediction and loss instead
    "nvidia-megatron-bridge": replace(_RECIPES, short_ends=0, released="released", small_states=True),
    # what its verification cards and skills measured: what its performance and library recipes differ in is of the
    # recipe that each names (src/megatron/bridge/perf_recipes, recipes, both at 067f987df). Peaks are what it logs
    # behind the second step (training/utils/train_utils.py:1139), graphs by layer are captured behind the third. In
    # its library latent attention has no fused rope (models/deepseek/deepseek_v3_bridge.py:78)
    "nvidia-bridge-cards": replace(
        _RECIPES,
        short_ends=0,
        released="released_cards",
        turned_apart=("moonlight",),
        small_states=True,
        changes={"holds_graphs": False},
    ),
    "nvidia-nemo-docs": replace(
        _RECIPES, short_ends=1, released="released_nemo", sixteen_bit_states=_LARGEST, remainders_until="24.12"
    ),
    "llama3_paper": Practice(cluster={"H100-80GB": "grand_teton_h100"}, vpp=8, even_ends=True, cp_comm="all_gather"),
}
