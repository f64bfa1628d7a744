"""The form of what an option needs on the nodes, and of a default that follows from what they have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshwright.spec import Software, Spec
from meshwright.spec.frozen import dataclass
from meshwright.spec.software import COMPONENTS, HERE

__all__ = ["Default", "Requirement"]


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """``asked`` says whether a Spec uses ``option`` (as a user writes it), for which ``component`` must be there."""

    component: str  # of spec.software.COMPONENTS
    backend: str
    option: str
    asked: Callable[[Spec], bool]
    install: str
    instead: str  # the change that does without it
    source: str
    least: str | None = None  # its oldest version that will do
    note: str = ""

    @property
    def name(self) -> str:
        """The component as people call it, with the version that is needed."""
        return COMPONENTS[self.component].name + (f" {self.least}" if self.least else "")

    @property
    def probe(self) -> str:
        """How a node is asked for it (train/health.py): ``module:NAME[>=VERSION]`` or ``program:NAME``."""
        component = COMPONENTS[self.component]
        least = f">={self.least}" if self.least else ""
        return f"module:{component.module}{least}" if component.module else f"program:{component.program}"

    def met_by(self, software: Software) -> bool | None:
        """Whether ``software`` has it, new enough; None where it does not say."""
        version = software.components.get(self.component)
        if self.least is None or version in (None, HERE):
            return software.has(self.component)
        from packaging.version import InvalidVersion, Version

        try:
            return Version(str(version)) >= Version(self.least)
        except InvalidVersion:
            return None


@dataclass(frozen=True, kw_only=True)
class Default:
    """An option that is null in conf/backend: its value follows from whether the nodes have ``component``."""

    backend: str
    option: str
    component: str
    there: Any
    absent: Any
    unknown: Any

    def value(self, software: Software) -> Any:
        """What it is with ``software``."""
        return {True: self.there, False: self.absent, None: self.unknown}[software.has(self.component)]
