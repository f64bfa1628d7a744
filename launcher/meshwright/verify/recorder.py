"""A dict that remembers which of its keys were read: DeepSpeed ignores unknown keys, so what nobody read is unknown."""

from __future__ import annotations

from collections.abc import Iterator, KeysView, Mapping
from copy import deepcopy
from typing import Any

__all__ = ["Recorder"]


class Recorder(dict[str, Any]):
    """A copy of ``values`` that notes each key asked for; one that was expanded whole (``**``) was read whole."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__({k: Recorder(v) if isinstance(v, Mapping) else v for k, v in values.items()})
        self.read: set[str] = set()
        self.whole = False

    def get(self, key: str, default: Any = None) -> Any:
        """As a dict's; notes the key."""
        self.read.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.read.add(str(key))
        return super().__contains__(key)

    def __iter__(self) -> Iterator[str]:
        self.whole = True
        return super().__iter__()

    def keys(self) -> Any:
        """As a dict's; asking whether a key is among them notes it."""
        return KeysView(self)  # whose ``in`` and iteration come back here

    def items(self) -> Any:
        """As a dict's; reads everything."""
        self.whole = True
        return super().items()

    def __copy__(self) -> Recorder:
        return self  # DeepSpeed copies its parameters before it reads them

    def __deepcopy__(self, memo: Any) -> dict[str, Any]:
        return {k: deepcopy(v, memo) for k, v in super().items()}

    def unread(self, parent: str = "") -> Iterator[str]:
        """Dotted paths of keys that nobody asked for; a section read whole is judged by the code that took it."""
        if self.whole:
            return
        for key, value in super().items():
            path = f"{parent}{key}"
            if key not in self.read:
                yield path
            elif isinstance(value, Recorder):
                yield from value.unread(f"{path}.")
