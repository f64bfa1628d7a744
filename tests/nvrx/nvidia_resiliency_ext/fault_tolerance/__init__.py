"""The client that Megatron calls: the signatures of rank_monitor_client.py; it notes calls and sends nothing."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

__all__ = ["RankMonitorClient"]


class RankMonitorClient:
    """Appends each call to the file named in FT_CALLS."""

    section_timeouts: Mapping[str, float] = {}

    def init_workload_monitoring(self, num_warmup_iters: int | None = None) -> None:
        """Connects to the rank's monitor."""
        self._note(f"init_workload_monitoring {num_warmup_iters}")

    def shutdown_workload_monitoring(self) -> None:
        """Closes the connection."""
        self._note("shutdown_workload_monitoring")

    def start_section(self, section: str) -> None:
        """From here on it has its time."""
        self._note(f"start_section {section}")

    def end_section(self, section: str) -> None:
        """It kept its time."""
        self._note(f"end_section {section}")

    def state_dict(self) -> Mapping[str, Any]:
        """What was learned of times."""
        return {"timeouts": {}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what an earlier run learned."""
        self._note(f"load_state_dict {sorted(state)}")

    def calculate_and_set_section_timeouts(
        self,
        selected_sections: Collection[str] | None = None,
        calc_out_of_section: bool = True,
        skip_if_not_ready: bool = False,
    ) -> bool:
        """Learn times."""
        self._note(f"calculate {list(selected_sections or ())} {calc_out_of_section}")
        return not skip_if_not_ready

    def _note(self, call: str) -> None:
        with Path(os.environ["FT_CALLS"]).open("a") as file:
            file.write(f"{call}\n")
