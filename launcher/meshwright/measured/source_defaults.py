"""What each framework did beside what the columns of its measured rows say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from meshwright.measured.practice import UNFUSED, Practice
from meshwright.measured.torch_trainers import TORCH

__all__ = ["DEFAULT", "PRACTICES"]

_OLD = Practice(
    transformer_engine=False,
    overlap_data=False,
    overlap_pipeline=False,
    dropout=0.1,
    # the loss keeps fp32 logits, their exponentials and their gradient; until Megatron-LM v3.0 nothing was joined to
    # the product that makes a weight's gradient, or ran beside it
    # (what the host did for them is in the launch_us that was fitted to these rows). Scores go to a tensor of each
    # layer's own (megatron/model/transformer.py:284 in BigScience's copy of February 2022); the buffer came with v3.0
    changes={
        "scattered_sends": True,
        "score_buffer": 0.0,
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

_KORTHIKANTI = replace(
    _OLD, changes={**_OLD.changes, "score_buffer": 2.0, "fused_gradients": True, "overlaps_gradients": True}
)
PRACTICES: Mapping[str, Practice] = {
    **TORCH,
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
    # DeepSpeed@2151c787a, of February 2022, by Megatron-DeepSpeed@ae6277f5: ZeRO-1 of fp16 sums gradients where the
    # backward left them, in fp16, and all-reduces them in the end (runtime/engine.py:1350 makes them not contiguous,
    # zero/stage_1_and_2.py:1327 ``allreduce_bucket``). Under way at the first stage beside layers' inputs: of each
    # element behind the embedding what its norm keeps and dropout's mask (3 bytes: --embed-layernorm in
    # train/tr11-200B-ml/tr11-200B-ml.slurm; it is not run again, pipe/module.py:602), and an eighth of what is sent
    # (pipe/engine.py:648). Peaks are nvidia-smi's, of blocks that the allocator keeps, each as large as one tensor. A
    # step asks for larger ones: the norm of the largest gradient that a rank owns is taken in fp64
    # (stage_1_and_2.py:1532; the embedding's, which is nearly all of a rank's part in these layouts); without ZeRO
    # there are fp32 copies of all gradients, first one by one, then flat (fp16/fused_optimizer.py:246). And the
    # embedding's gradient of a micro-batch is made beside its sum. So 80 % of 31 peaks are met within exp(0.085);
    # what an allocator's blocks are split into is not counted, and 3.5 GiB of context and NCCL are an assumption
    "bigscience": replace(
        _OLD,
        cluster={"A100-80GB": "a100_jean_zay"},
        context_gib=3.5,
        memory_spread=0.09,
        sums_as_fp16=True,
        cached_step=8.0,
        cached_words=2.0,
        changes={**_OLD.changes, "boundary_bytes": 3.25, "reduces_after": 1},
    ),
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
    # its tests leave both dropouts at what Megatron has them, but where they say so (hidden_dropout, attention_dropout)
    "megatron-core-golden": replace(DEFAULT, measured_stage="last", dropout=0.1),
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
