"""A foreign file from the disk, within bounds; and which kind of file it is."""

from __future__ import annotations

from pathlib import Path

from meshwright.errors import ConfigError, Problem
from meshwright.imports.unknown import clean

__all__ = ["LARGEST", "refuse_large", "text_of"]

LARGEST = 2**20  # bytes; a configuration is a thousand times smaller, of a log the arguments stand at its head


def text_of(path: Path, most: int = LARGEST) -> str:
    """The text of a file; of a larger one its first ``most`` bytes, up to the last whole line.

    Raises:
        ConfigError: where it cannot be read, or holds no text.

    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError([Problem(str(path), f"cannot be read: {reason}", "import.file")]) from None
    if b"\0" in data[:4096]:
        raise ConfigError([Problem(str(path), "holds bytes, not text; name a script, YAML, JSON, TOML or log")])
    if len(data) > most:
        data = data[: data.rfind(b"\n", 0, most) + 1 or most]
    return clean(data.decode("utf-8", "replace"))


def refuse_large(path: Path) -> None:
    """Of anything but a log the rest counts, too.

    Raises:
        ConfigError: where the file is larger than what was read of it.

    """
    size = path.stat().st_size
    if size > LARGEST:
        message = f"{size:,} bytes are more than a configuration has; at most {LARGEST:,} are read"
        raise ConfigError([Problem(str(path), message, "import.file")])
