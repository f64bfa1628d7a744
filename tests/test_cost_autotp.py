"""What AutoTP cuts of the vocabulary, and what autocast keeps in 32 bits: memory, traffic and time."""

from __future__ import annotations

import pytest

from meshwright.cost import Cost, cost
from meshwright.layout.plan import Plan
from meshwright.loading import load
from meshwright.model.count import cuts_head, cuts_vocabulary, cuts_words
from meshwright.resolver import resolve

D = "backend.deepspeed."
WORDS = (
    *("cluster=dgx_h100", "cluster.gpus=8", "backend=deepspeed", "training.sequence=4096"),
    *("training.global_batch=8", "training.micro_batch=1"),
)
CUT = (*WORDS, "parallelism=zero1", "parallelism.tp=2")


def planned(*words: str) -> Plan:
    return resolve(load(list(words)).stages[0])


def costed(*words: str) -> Cost:
    return cost(planned(*words))


def test_an_embedding_of_its_own_stays_whole_on_every_rank() -> None:
    plan = planned("model=llama3_8b", *CUT)
    model = plan.spec.model
    one, half = planned("model=llama3_8b", *WORDS, "parallelism=zero1"), model.vocab * model.hidden // 2
    norms = (2 * model.layers + 1) * model.hidden
    assert plan.stages[0].parameters == (one.total_parameters - norms) // 2 + norms + half
    assert not cuts_words(model, plan.spec.backend)
    assert cuts_head(model, plan.spec.backend)


def test_one_that_is_the_head_is_cut_unless_it_is_told_not_to_be() -> None:
    cut, whole = (planned("model=llama3_2_1b", *CUT, *more) for more in ((), (f"{D}autotp.vocabulary=false",)))
    assert whole.stages[0].parameters - cut.stages[0].parameters == cut.spec.model.vocab * cut.spec.model.hidden // 2
    assert cuts_vocabulary(cut.spec.model, cut.spec.backend)
    assert not cuts_head(whole.spec.model, whole.spec.backend)


def test_logits_that_stay_cut_are_half_as_many_and_are_not_gathered() -> None:
    gathered, cut = (costed("model=llama3_8b", *CUT, *more) for more in ((), (f"{D}autotp.vocabulary=true",)))
    logits = 4096 * 128256
    assert gathered.stages[0].logits - cut.stages[0].logits == pytest.approx(16 * logits / 2)
    assert gathered.traffic.tensor.size - cut.traffic.tensor.size == pytest.approx(
        2 * 2 * logits / 2
    )  # 2 micro-batches
    assert cut.step.tensor < gathered.step.tensor
    assert cut.step.compute < gathered.step.compute


def test_gradients_of_inputs_are_reduced_beside_others_where_it_is_asked() -> None:
    plain, beside = (costed("model=llama3_8b", *CUT, *more).step for more in ((), (f"{D}autotp.overlap=true",)))
    assert beside.tensor < plain.tensor
    assert beside.compute == pytest.approx(plain.compute)


def test_autocast_multiplies_16_bits_of_weights_in_32() -> None:
    words = ("model=llama3_2_3b", *WORDS, "parallelism=zero3")
    single, half = (costed(*words, f"training.precision={name}") for name in ("fp32", "bf16"))
    cast = costed(*words, "training.precision=fp32", f"{D}autocast=bf16")
    assert cast.step.compute == pytest.approx(half.step.compute)
    assert single.step.compute > 4 * cast.step.compute
    assert cast.stages[0].weights + cast.stages[0].optimizer == single.stages[0].weights + single.stages[0].optimizer
    assert cast.stages[0].activations == half.stages[0].activations
    assert cast.traffic.data.size < single.traffic.data.size


def test_below_stage_3_autocast_keeps_a_copy_of_16_bits() -> None:
    words = ("model=llama3_2_3b", *WORDS, "parallelism=zero1", "training.precision=fp32")
    plain, cast = (costed(*words, *more).stages[0].weights for more in ((), (f"{D}autocast=bf16",)))
    assert cast == pytest.approx(1.5 * plain)


def test_weights_of_32_bits_have_masters_too_at_any_stage() -> None:
    words = ("model=llama3_2_3b", *WORDS, "training.precision=fp32")
    second, third = (costed(*words, f"parallelism=zero{stage}").stages[0].optimizer for stage in (2, 3))
    assert second == pytest.approx(third)
