"""Plan -> the run folder: files for every backend that can express it, a refusal note for every other, a launcher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from meshwright.cost import cost
from meshwright.cost.memory import GIB
from meshwright.cost.summary import plan_summary
from meshwright.emit.backends import FILES
from meshwright.errors import ConfigError, Problem
from meshwright.jobs.folders import refuse_foreign, usable, write
from meshwright.jobs.readme import GENERATED, readme
from meshwright.layout.plan import Plan
from meshwright.resolver import refusals
from meshwright.rules.launch import slurm_problems
from meshwright.rules.requirements import needed
from meshwright.spec import Spec
from meshwright.spec.frozen import dataclass
from meshwright.spec.identity import as_json, identity, plain

if TYPE_CHECKING:
    from meshwright.verify.verdict import Verdict

__all__ = ["Compiled", "compile", "compile_all", "files", "folder_name"]


@dataclass(frozen=True)
class Compiled:
    """A run folder on disk: what was written, and what each backend's own code said of it."""

    folder: Path
    files: tuple[str, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """Whether every check of every verdict passed."""
        return all(verdict.passed for verdict in self.verdicts)


def compile(plan: Plan, directory: str | Path, *, verify: bool = True) -> Compiled:
    """Write the run folder of ``plan`` into ``directory`` and let the backends' own code judge it.

    Writing twice gives the same files. Nothing is written where the configuration is wrong.

    Raises:
        ConfigError: where ``directory`` holds something else.

    """
    return compile_all([plan], [Path(directory)], verify=verify)[0]


def compile_all(plans: Sequence[Plan], folders: Sequence[Path], *, verify: bool = True) -> list[Compiled]:
    """``compile`` for the stages of a run: all are checked before any is written, the backends are imported once."""
    for plan, folder in zip(plans, folders, strict=True):
        with usable(folder):
            refuse_foreign(folder, identity(plan.spec))
    texts = [files(plan, verify) for plan in plans]
    verdicts = _verify(plans) if verify else [()] * len(plans)
    compiled = []
    for plan, folder, names, judged in zip(plans, folders, texts, verdicts, strict=True):
        if verify:
            names["verdicts.json"] = as_json([asdict(verdict) for verdict in judged])
        with usable(folder):
            write(folder, names, identity(plan.spec))
        compiled.append(Compiled(folder, tuple(names), tuple(judged)))
    return compiled


def folder_name(spec: Spec) -> Path:
    """``<name>-<hash>``, or ``<name>/<variant>/<stage>-<hash>`` where a recipe has them."""
    *above, last = spec.names
    return Path(*above, f"{last}-{identity(spec)}")


def files(plan: Plan, verified: bool = True) -> dict[str, str]:
    """Every generated file by its path in the folder, but the verdicts that are added if they are ``verified``.

    Raises:
        ConfigError: where an option of ``launch=slurm`` cannot be written for sbatch.

    """
    from meshwright.emit.torchrun import script

    costs = cost(plan)
    texts = {
        "config.yaml": f"# {GENERATED}\n" + yaml.safe_dump(plain(asdict(plan.spec)), sort_keys=False),
        "plan.json": as_json(plan_summary(plan, costs)),
        "launch.sh": script(plan),
    }
    for backend, of_backend in FILES.items():
        problems = refusals(plan.spec, backend)
        texts.update(_refusal(backend, problems) if problems else of_backend(plan))
    if plan.spec.after:
        texts["after.json"] = as_json(asdict(plan.spec.after))
    if plan.spec.launch.kind == "slurm":
        texts["job.sbatch"] = _job(plan, costs.host.memory)
        texts["health.py"] = (Path(__file__).parents[1] / "train" / "health.py").read_text()
    texts["README.md"] = readme(plan, [*sorted(texts), *["verdicts.json"] * verified])
    return texts


def _job(plan: Plan, memory: float) -> str:
    """What sbatch runs; ``memory``: bytes of a node's host that the run needs, which is looked for first."""
    from meshwright.emit.slurm import script

    problems = list(slurm_problems(plan))
    if problems:
        raise ConfigError(problems)
    probes = dict.fromkeys(row.probe for row in needed(plan.spec))
    return script(plan, (*probes, f"memory:{memory / GIB:.1f}"))


def _refusal(backend: str, problems: Sequence[Problem]) -> dict[str, str]:
    return {f"{backend}/REFUSED.txt": "".join(f"{problem}\n" for problem in problems)}


def _verify(plans: Sequence[Plan]) -> list[tuple[Verdict, ...]]:
    from meshwright.verify import verify

    return verify(plans)
