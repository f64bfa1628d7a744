"""Stages of a run, joined: which checkpoint a stage starts from, what is resharded, where data and schedule go on.

Every stage counts its own steps from 0. What it takes over from the stage before it is in its ``Spec.after``: weights
and optimizer state, the step of the learning-rate schedule where both stages follow the same one, and the sample of the
data where both read the same. Megatron reshards its torch_dist checkpoints itself, DeepSpeed's are converted to
universal ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import pairwise

from meshwright.errors import ConfigError, Problem
from meshwright.jobs import handover_deepspeed, handover_megatron
from meshwright.jobs.handover import Handover, resharded
from meshwright.jobs.run_folder import folder_name
from meshwright.layout.plan import Plan
from meshwright.resolver import resolve
from meshwright.spec import After, Model, Spec
from meshwright.spec.frozen import dataclass

__all__ = ["Chain", "Transition", "alternatives", "chain", "joined"]

HANDOVERS: dict[str, Handover] = {"megatron": handover_megatron.HANDOVER, "deepspeed": handover_deepspeed.HANDOVER}
ADAM = ("adam", "adamw")  # the same state; Megatron's adam is AdamW
MAY_CHANGE = frozenset(
    (
        "name",
        "max_positions",
        "rope",
        "attention_dropout",
        "hidden_dropout",
        "mtp_loss_weight",
        "mtp_detached",
        "transformers",
    )
)
"""Of a model, what is no weight."""


@dataclass(frozen=True)
class Transition:
    """From one stage to the next, in words; each line names what goes on and what begins anew."""

    before: str
    after: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Chain:
    """The stages that run, one after the other. ``left_out`` says of each other one why it does not."""

    plans: tuple[Plan, ...]
    transitions: tuple[Transition, ...]
    left_out: tuple[str, ...]

    def of(self, plan: Plan) -> Plan:
        """``plan`` as it stands in the chain; itself where it was left out."""
        return next((link for link in self.plans if link.spec.stage == plan.spec.stage), plan)


def alternatives(plans: Sequence[Plan]) -> bool:
    """Whether the stages are whole runs to choose from: a later one ramps its batch up from its first token."""
    return any(plan.spec.training.ramp for plan in plans[1:])


def chain(plans: Sequence[Plan]) -> Chain:
    """Join ``plans``, the stages of a run in order.

    A stage whose length no source states has no end to go on from; it is left out, and says so.

    Raises:
        ConfigError: with one problem for everything that cannot be carried from a stage to the next.

    """
    known = [plan for plan in plans if plan.steps is not None]
    staged = known if known else list(plans[:1])
    left_out = tuple(_unknown_length(plan) for plan in plans if plan not in staged)
    problems = [p for a, b in pairwise(staged) for p in _problems(a, b)]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    done: list[Plan] = []
    transitions = []
    for plan in _one_schedule(HANDOVERS[staged[0].spec.backend.name].saved(staged)):
        if done:
            plan, transition = _join(done, plan)
            transitions.append(transition)
        done.append(plan)
    return Chain(tuple(done), tuple(transitions), left_out)


def joined(plans: Sequence[Plan]) -> list[Plan]:
    """All of ``plans``, each as it stands in their chain; alternatives stay as they are."""
    if alternatives(plans):
        return list(plans)
    links = chain(plans)
    return [links.of(plan) for plan in plans]


def _unknown_length(plan: Plan) -> str:
    return (
        f"{plan.spec.stage}: left out, its length is not stated and so not known when the next stage began "
        "(inferred: at once); set training.tokens or training.steps to run it"
    )


def _problems(before: Plan, after: Plan) -> Iterator[Problem]:
    """What cannot be carried."""
    for path, was, now, why in _differences(before.spec, after.spec):
        message = f"{was} in stage {before.spec.stage}, {now} in stage {after.spec.stage}: {why}"
        yield Problem(path, message, "transition")
    if before.spec.training.logging.save is not None:
        message = "both stages would save into one folder; leave it null, each saves into its run folder"
        yield Problem("training.logging.save", message, "transition")
    if not before.spec.training.logging.save_at_end:
        message = f"false, and stage {after.spec.stage} starts from the end of stage {before.spec.stage}; set it true"
        yield Problem("training.logging.save_at_end", message, "transition")
    if after.spec.launch.entry != "meshwright":
        message = f"{after.spec.launch.entry} cannot start from another stage's counters; leave it meshwright"
        yield Problem("launch.entry", message, "transition")
    yield from HANDOVERS[before.spec.backend.name].problems(before, after)


def _differences(before: Spec, after: Spec) -> Iterator[tuple[str, object, object, str]]:
    for field in fields(Model):
        was, now = getattr(before.model, field.name), getattr(after.model, field.name)
        if was != now and field.name not in MAY_CHANGE:
            yield f"model.{field.name}", was, now, "it is another model, whose weights do not fit"
    if before.model.positions == "learned" and before.model.position_rows != after.model.position_rows:
        why = "learned positions are weights"
        yield "model.max_positions", before.model.max_positions, after.model.max_positions, why
    if before.backend.name != after.backend.name:
        why = "neither backend reads the other's checkpoints"
        yield "backend.name", before.backend.name, after.backend.name, why
    was, now = before.training.optimizer.name, after.training.optimizer.name
    if was != now and {was, now} != set(ADAM):
        yield "training.optimizer.name", was, now, "its state is another"


def _one_schedule(plans: Sequence[Plan]) -> list[Plan]:
    """A schedule that several stages follow and that ends with the run ends with the last of them."""
    result = list(plans)
    for i, plan in enumerate(plans):
        schedule = plan.spec.training.schedule
        follows = [p for p in plans[i:] if _same_schedule(plan, p)] if schedule.decay_steps is None else []
        before = [p for p in plans[:i] if _same_schedule(p, plan)]
        if len(follows) + len(before) > 1 and schedule.decay_steps is None:
            total = sum(p.steps or 0 for p in (*before, *follows))
            training = replace(plan.spec.training, schedule=replace(schedule, decay_steps=total))
            result[i] = resolve(replace(plan.spec, training=training))
    return result


def _same_schedule(before: Plan, after: Plan) -> bool:
    """The same one; or WSD's constant phase, written as a stage of its own, and what follows it."""
    was, now = before.spec.training.schedule, after.spec.training.schedule
    same_rate = before.spec.training.optimizer.lr == after.spec.training.optimizer.lr
    plateau = was.style == "constant" and now.style in ("constant", "wsd") and was.warmup_steps == now.warmup_steps
    return same_rate and (was == now or plateau)


def _join(done: Sequence[Plan], plan: Plan) -> tuple[Plan, Transition]:
    before = done[-1]
    goes_on = _same_schedule(before, plan)
    step = _schedule_step(before) + (before.steps or 0) if goes_on else 0
    sample = _next_sample(before) if _same_data(before, plan) else 0
    changes = resharded(before, plan)
    handover = HANDOVERS[plan.spec.backend.name]
    after = After(
        checkpoints=f"../{folder_name(before.spec).name}/checkpoints",
        step=step,
        sample=sample,
        universal=handover.converts and bool(changes) and plan.spec.parallelism.zero > 0,
    )
    logging = replace(plan.spec.training.logging, load=None)
    spec = replace(plan.spec, after=after, training=replace(plan.spec.training, logging=logging))
    stage = handover.started(resolve(spec))
    tokens = sum(p.tokens for p in done)
    lines = tuple(_lines(before, stage, changes, goes_on, tokens))
    return stage, Transition(before.spec.stage or "", plan.spec.stage or "", lines)


def _schedule_step(plan: Plan) -> int:
    return plan.spec.after.step if plan.spec.after else 0


def _next_sample(plan: Plan) -> int:
    """The sample after the last one of a stage."""
    return (plan.spec.after.sample if plan.spec.after else 0) + plan.sequences(plan.steps or 0)


def _same_data(before: Plan, after: Plan) -> bool:
    was, now = before.spec.training, after.spec.training
    return (was.data, was.seed, was.sequence) == (now.data, now.seed, now.sequence)


def _lines(before: Plan, plan: Plan, changes: list[str], goes_on: bool, tokens: int) -> Iterator[str]:
    after = plan.spec.after
    assert after is not None
    yield f"checkpoint: {after.checkpoints}, the last one; {tokens:,} tokens trained before"
    yield f"layout: {', '.join(changes) or 'unchanged'}"
    yield f"optimizer state: {HANDOVERS[plan.spec.backend.name].state(plan, changes)}"
    was, now = before.padded_vocab, plan.padded_vocab
    yield f"vocabulary: {f'padded to {now:,}' if was == now else f'padding {was:,} -> {now:,}'}"
    yield f"data: {_data(before, plan)}"
    schedule = plan.spec.training.schedule
    anew = f"begins anew: {schedule.style}, {schedule.warmup_steps} steps of warm-up"
    yield f"learning rate: {f'goes on at step {after.step:,} of its schedule' if goes_on else anew}"


def _data(before: Plan, plan: Plan) -> str:
    if plan.spec.after and plan.spec.after.sample:
        return f"goes on at sample {plan.spec.after.sample:,}"
    was, now = before.spec.training.sequence, plan.spec.training.sequence
    return f"begins anew: sequences of {was:,} -> {now:,}" if was != now else "begins anew: other data"
