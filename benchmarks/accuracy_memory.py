"""What docs/accuracy.md says of memory: what was counted otherwise, what is left, and how each was found."""

from __future__ import annotations

__all__ = ["MEMORY"]

MEMORY = """\
## Memory that was looked into

* **Korthikanti et al. 2022** without recomputation: what Figure 1 shows is their own equation, not a measurement,
  `s*b*h*(10 + 24/t + 5*a*s/(h*t))` bytes a layer (their equation 2: attention unfused, dropout on, its mask kept). With
  their kernels assumed, ours is 2 % above it; with today's fused attention it was a third below. A test keeps it so.
* **BLOOM in bf16**: DeepSpeed's `BF16_Optimizer` sums gradients in fp32 buffers as large as the model
  (`fp32_groups_gradients_flat`) and keeps the 16-bit ones that the backward makes (`update_hp_grads` adds them, with
  `clear_lp_grads=False`): `2 + 2 + 4 + 12/dp` bytes a parameter, where Megatron's own bf16 takes `2 + 4 + 12/dp`.
* **Fused losses**: Megatron's takes 10 bytes of a logit, its plain one 6 (measured of both on a CPU; its own test with
  the former on H100 says so to the byte): compiled, it no longer works in place. Counted were 2, which are Transformer
  Engine's, Megatron-Bridge's and NeMo's; Megatron-LM refuses that one. Qwen3 30B-A3B's preset on 8 B300 takes 37 GiB
  more here than there, and the plain loss would spare half of it; recipes say so (`spared`).
* **Megatron's own layers** have no fused attention (`transformer=local`), and what is offloaded takes unfused
  attention's scores along; both were counted otherwise until Megatron-LM's tests said so.
* **What experts gave** was counted as kept: Megatron multiplies scores inside the activation, so nothing keeps it
  (core/transformer/moe/experts.py:830). With it our own run of Qwen3's experts was 1.7 % above the measured peak,
  without it 1.1 %; the first stage of SimuMax's DeepSeek V2 was 2.2 % below, and is 0.3 % with the exchange's buffers
  in the backward, which are counted since.
* **Norms of queries and keys** were counted as keeping what they give; a Megatron layer's saved tensors on a CPU say
  that rotary positions, which it goes to, keep nothing of it. Our own run of Qwen3's experts is 0.8 % above the
  measured peak.
* **Attention's output beside a ring of keys** was counted twice: Transformer Engine keeps the tensor that it returns,
  but where heads are exchanged (SimuMax's rows, all four). Long contexts of the Megatron-MoE-ModelZoo lay 7 GiB too
  high.
* **Megatron-FSDP**'s buffers of gradients are of the type that gradients are reduced in, and layers that wait on the
  host are not under way at the loss: 5 GiB of Llama 3 70B on GB200, which is still about even. Its 80 layers'
  activations alone are 145 GiB in 8 bits, counted tensor by tensor; the preset fills the GPU, as does NeMo's without
  offload.
* **Embedding and head** were counted in 8 bits where products are. They are no linears of Transformer Engine's: 2 GiB
  of Llama 3 8B, whose words are an eighth of it, where 8-bit copies stand beside 16 bits.
* **NeMo 1's optimizer** (until 24.12) keeps of a master copy what a bf16 weight lacks, 10 bytes a parameter instead of
  12 (`store_param_remainders`). Its 8-bit runs on H100 that keep 16-bit weights, too (24.05 and 24.07), lie within 6 %
  of the limit all the same: GPT-3 175B, Nemotron-4 8B, and Llama 3 8B with an unfused loss.
* **Megatron-Bridge's cards** (25 peaks, of 16B to 120B). As everything stood 13 of 24 lay within 7 %, the median off
  by 6.1 %. Read wrong: its log's gigabytes are of 10^9 bytes (the cards call them GiB; from 100 on they have two
  places, as its rounding gives them); they are logged behind the second step, before graphs are captured; its optimizer
  keeps whole fp32 masters in bf16 (4 GiB of Qwen3 30B-A3B); one recipe sums in fp32. So read, but counted as it was, 19
  of 24 lay within 7 %, the median off by 5.1 %. Counted wrong: what heads and losses of predicting layers keep (8 GiB
  of Nemotron 3.5 Lightning on GB200), the step's fp32 copies of bf16 gradients (the peak of Moonlight once anything is
  recomputed), Megatron-FSDP's weights in mxfp8 (7 GiB). Now it is 21 of 24, the median off by 2.0 %; a 25th, read and
  predicted after all that, was met within 2.1 %. What is left: three rows of Llama 3 70B with graphs of its MLPs, 16
  to 18 % high (why is not known; no row without graphs is), Moonlight 4 to 5 % low and one unfused loss 6 % low (both
  with a router left to itself, which deals unevenly at first). Two of Nemotron 3 Nano that ran out of memory in the
  second step had logged the first's peak, without moments: 61.7 and 57.8 GiB, within 1 %. What stays between steps of
  Qwen3 30B-A3B, 47.2 x 10^9 bytes, is met within 0.2 %.
* **CUDA graphs by layer** were counted as a copy of each layer's input. What stays is what layers and shared experts
  give, and a mask of all pairs of tokens that nothing reads: of Llama 3 70B on 64 GB200 in nvfp4 (20 layers, a pipeline
  of 4) 11.5 GiB, where Megatron-Bridge's docs/performance-guide.md says "typically a few gigabytes", and "over 10GB"
  with a pipeline. Static experts, which graphs of an iteration stand on, take 8 GiB of DeepSeek V3 on GB200 and GB300.
* **Nemotron-4 340B on 128 H100** (NeMo 1) was said not to fit: its optimizer's `dtype` is bf16, as its parameters', so
  that it keeps two 16-bit moments and no master copy, 4 bytes a parameter (NeMo's `setup_optimization`). NeMo 2's,
  with fp32 states, is published from 256 GPUs on.
* **Norms on both sides, parallel residuals, shared experts** (`tests/test_cost_against_megatron.py`): nothing keeps
  what a norm before an addition gave; two norms of one input keep it once; `moe` and `shared_experts` free shared
  experts, `mlp` does not. Recomputed attention begins with turned queries and keys and with values that are a part of
  their projection, which keeps the whole: 2 GiB of Nemotron-4 340B on H100, which is about even since.
* **Automodel's mixtures** were counted with fp32 shards, fp32 moments and a loss in fp32, 5 of 9 rows as not fitting.
  All are of 16 bits there, but FSDP2 sums in fp32, whole, what it shares of gradients until the last micro-batch.
  gpt-oss-120b with two sequences and nothing recomputed fills its GPUs; its recipe has had one since August 2026.
* **Llama 3 70B on GB200 in fp8**, the two layouts that are about even, was gone through in NVIDIA's scripts and in
  Megatron-FSDP: no product adds to gradients there (1.6 GiB of dummy gradients less); embedding and head stay gathered,
  each with a buffer of gradients that goes when it is reduced, as each is more than a bucket
  (megatron/training/training.py:1562, param_and_grad_buffer.py:1852 of 0.19.2). Nothing else is counted that is not
  held; its presets' double buffers (1.6 GiB) were not, and are since. Of 405B on GB200 (tp 4, pp 16, vpp 4) all is held
  as well: its fullest stage, the second, keeps 19.25 micro-batches of 8 layers, 132 of the 170 GiB; its presets
  recompute and offload nothing (v0.3.1 to v0.5.0), and its optimizer's states are fp32.
* **prime-rl** (7 peaks, 7 to 18 % low): its loop deletes `logits` before the backward, but `out` holds them in fp32
  until the next forward is over, so that 16 bytes a logit are allocated where torchtitan's 12 are
  (src/prime_rl/trainer/sft/train.py:246 and :269 at d8f290e); of both, `max_memory_reserved` has 2 more, of the 16-bit
  logits that are cached. PyTorch's memory events on a CPU say the same (`tests/test_fsdp_peaks.py`). Tied embeddings
  were counted as gathered twice. All seven are within 2.4 % now. Qwen3 4B at 65,536 tokens on B200, 189 GiB with all
  that is cached, reserved 171.5: the allocator gives back what it caches before memory lacks, so that fitting is judged
  without it. Megatron's own loss was counted as PyTorch's below `--use-torch-fsdp2`: 8 bytes a logit too much.
* **llm-foundry** (200 rows, no peak): gone through in MPT's blocks, its loss and FSDP's units. A block keeps 32 bytes a
  token and channel, as PyTorch's saved tensors say of it (`tests/test_fsdp_peaks.py`); its fused loss the logits and
  their gradient; weights, gradients and moments are 16 bytes of a shard, whatever is reduced in. The 19 rows above 0.9
  of the usable memory fill their GPUs: the fullest of all, MPT 1B with 10 sequences on 32 A100 of 40 GB (35.6 of 37.8
  GiB), runs at 141 TFLOP/s where the same on 16, 64 and 128 runs at 169 to 173, as with an allocator that retries.
  Mended were gathers of its tied embedding, and biases: its parameters are now those that its tables print. Its seven
  rows in 8 bits are counted as in 16: what Transformer Engine's linears keep there is less (all fit).
* **Hagemann et al.'s 13B on 32 A100**: their own loss, in fp32, takes more than ours, and with the plain norm, 4.7 GiB
  more, the same layout ran out of memory. It fills its GPUs.
* **Hagemann et al.'s unfused attention** (118 of 603 outcomes) was said to fit where it ran out of memory. Gradients of
  scores were left out: 4 bytes of a score at once where one kernel does softmax and mask, 8 where Megatron does them in
  pieces, 12 in fp32 (transformers' eager attention, and theirs), counted in the modules. Beside them Megatron keeps a
  buffer of scores: 0.1 to 1.2 GiB of BLOOM's peaks, whose mean error is 9.3 % instead of 9.6 %. Of the 118 outcomes 7
  are misjudged instead of 9, of all 20 instead of 22. What is left are runs of 16,384 tokens a micro-batch whose peak
  is at the loss, where nothing of attention is held; with flash attention these layouts ran. Fragments are a guess.
  Their trainer has been published since (Aleph-Alpha/scaling, without the fused kernels of then). By its code the loss
  has 16 bytes a logit, not 20, and layers keep other tensors of about the same size; so counted, outcomes are met
  worse, so that these stay as they were settled.
* **nanotron's sweep** (442 peaks of rank 0, which is the first stage): as everything stood the median was off by 6.9 %,
  80 % lay within 15.5 %, and those with tp = 8 were 10 % too low. Its stages take layers until they are over their
  share, so that the first has one more than the even part (src/nanotron/models/base.py:234 at 67c5ebb6): what had been
  settled as 40 bytes a hidden element at each stage's border was that layer, and its steps are met within 10.0 % in the
  median instead of 14.0 %. The code weighs the head in as well, with which 11 of 16 layers would be the first of two
  stages'; the peaks with tp = 1 say 9 (2.0 % against 3.6 % in the median of a fit to each). `silu(gate) * up` is two
  kernels, the norm one, the logits stand in bf16 and twice in fp32 (10 bytes, settled as 6 before), gradients in bf16
  and in fp32. Its log has what was allocated and what was reserved (helpers.py:616), the published chart one of them
  without its name. That it is what was reserved is inferred: layouts alike but for more micro-batches than stages take
  up to two fifths more with tp and nothing more without, as the allocator cannot yet give out again what a collective
  on a stream of its own has read. (That some rows were all-reduced, without sequence parallelism, would explain tp = 8
  no better, and the sweep's scripts say REDUCE_SCATTER.) Three numbers are settled for that, on the 1.34B model: 27
  bytes of a whole hidden element with tp, 49 more with those micro-batches, 90 of a rank's part of one for what a
  backward leaves cached; three 16-bit copies of each residual are as before, though its code keeps none. Of the 8.86B
  model's 204 peaks, kept out, the median is off by 3.9 %, 80 % lie within 8.7 % and 90 % within 11.8 %; of all 442 80 %
  lie within 9.1 %, of those with tp = 8 within 13 %. Settled on the 8.86B model the three are 0, 93 and 102: how the
  parts divide is not known. Left are runs of 16 and 32 sequences with tp = 8.
* **BLOOM's prequel** (31 peaks of nvidia-smi) was counted with fp32 gradients: it summed them in fp16 (its chronicle,
  "Rebalancing layers"; DeepSpeed@2151c787a). Its GB are read as 1,000 MiB: one node used 80, which in GiB were all of
  its GPUs. Left out were what the embedding's norm and dropout keep of each micro-batch under way (3 bytes an element,
  not run again), and what only a step allocates, which stays cached: the fp64 copy of the largest gradient that a rank
  owns (`get_grad_norm_direct`), about 8 bytes a parameter of its part; without ZeRO, as one row is (72 GB, which was
  28 % low and is 4 %), two fp32 copies of all gradients (`FP16_Optimizer.step`). Units alone brought the median from
  7.9 % to 6.2 %, where it stays; 80 % lie within 8.9 % instead of 15.7 %, nine of ten within 11 % instead of 19 %. The
  worst is a layout that was measured twice, as 44 and as 38 GB: 4 % and 21 % high. Most others are 3 to 9 % low, as
  blocks that are split and not joined again would have it. One of its three runs out of memory (tp 2, pp 6, micro-batch
  1) is now said to just fit, in 75.3 of 75.6 GiB.
* **Megatron-LM of 2021** (vTrain's rows) had no buffer of scores, which takes 0.5 to 2 GiB off its 3.6B without
  parallelism. These fill 0.88 to 0.89 of the usable memory as counted: 20 bytes a parameter while the optimizer steps,
  2 of gradients in fp16 and 4 of their fp32 copies (`_copy_model_grads_to_main_grads`). With DeepSpeed's unsharded
  optimizer, 24 bytes, they would not have run.
"""
