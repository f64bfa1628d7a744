"""Parts of config.json about embeddings: their scale, and tables of positions."""

from __future__ import annotations

from meshwright.model.architectures import Flat, Part

__all__ = ["scaled_embedding"]


def scaled_embedding(key: str = "scale_embedding", default: bool = False) -> Part:
    """A switch that multiplies the embedding by the root of its width."""

    def read(config: Flat) -> Flat:
        stated = config.get(key)
        on = default if stated is None else stated
        return {"embedding_scale": (lambda flat: flat["hidden"] ** 0.5) if on else None}

    return Part((key,), ("embedding_scale",), lambda flat: {key: flat["embedding_scale"] is not None}, read)
