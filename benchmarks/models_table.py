"""What we can do with each causal language model of transformers: ``python benchmarks/models_table.py [FOLDER]``.

Takes every model_type of transformers' own mapping whose default configuration builds on the meta device, writes that
as transformers writes it, reads it with ``model=hf``, and compares our total with transformers'. Writes
docs/models.json, from which ``make docs`` makes docs/models.md.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import batched
from pathlib import Path
from typing import Any

from meshwright.emit.huggingface import config as written
from meshwright.errors import ConfigError
from meshwright.loading import load
from meshwright.model.count import total_parameters
from meshwright.model.huggingface import UnsayableError, read
from meshwright.resolver import override, refusals, resolve
from meshwright.spec import Model, Spec
from meshwright.spec.decode import decode
from meshwright.verify import verify
from meshwright.verify.pool import Crash, fork_map

TARGET = Path(__file__).parents[1] / "docs" / "models.json"


CHUNK = 8  # models between two writings


def main(folder: Path) -> None:
    """Go on where docs/models.json ends; delete it to begin anew."""
    from meshwright.verify.transformers import warm

    warm()
    found: dict[str, dict[str, Any]] = json.loads(TARGET.read_text("utf-8")) if TARGET.exists() else {}
    for names in batched((name for name in _names() if name not in found), CHUNK):
        rows = fork_map(lambda name: _row(name, folder), names)
        found |= {name: _or_unbuilt(row) for name, row in zip(names, rows, strict=True)}
        _write(found)
    unproven = [name for name, row in found.items() if row.get("how") == "table" and "proven" not in row]
    for names in batched(unproven, CHUNK):
        for name, proven in _proofs(folder, names).items():
            found[name] |= proven
        _write(found)


def _write(found: dict[str, dict[str, Any]]) -> None:
    TARGET.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")


def _or_unbuilt(row: dict[str, Any] | Crash) -> dict[str, Any]:
    return {"unbuilt": _line(row.text)} if isinstance(row, Crash) else row


def _names() -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _row(name: str, folder: Path) -> dict[str, Any]:
    """In a process of its own: transformers' total, ours, and where ours comes from."""
    from meshwright.verify.modules import model_of, numbers

    file = _default(name, folder)
    model = model_of(_plain(file), "meta", "eager")
    row: dict[str, Any] = {"class": type(model).__name__, "total": sum(p.numel() for p in model.parameters())}
    del model
    try:
        said = decode(Model, read(file))
        return row | {"how": "table", "ours": total_parameters(said)}
    except UnsayableError as error:
        seen = numbers(dict(error.config), None, run=False)
        seen["measured"] |= {"config": "{}", "lacks": error.lacks}
        said = decode(Model, {**seen, "name": name, "activation": "swiglu", "norm": "rmsnorm", "positions": "rope"})
        return row | {"how": "modules", "ours": total_parameters(said), "lacks": error.lacks}
    except ConfigError as error:
        return row | {"how": "refused", "lacks": str(error).replace(f"model.path: {file}: ", "")}


def _default(name: str, folder: Path) -> Path:
    """What transformers writes of a configuration nobody touched."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    file = folder / f"{name}.json"
    CONFIG_MAPPING[name]().to_json_file(file, use_diff=False)
    return file


def _plain(file: Path) -> dict[str, Any]:
    """A configuration as ``read`` takes it, infinities and all."""
    from meshwright.model.huggingface import _load

    return _load(file)[1]


def _line(text: str) -> str:
    return " ".join(text.split())[:160]


def _proofs(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What each backend's own code says of the models that the table knows, on one node or eight."""
    specs = {name: _spec(decode(Model, read(_default(name, folder)))) for name in names}
    why = {name: refusals(spec, "megatron") for name, spec in specs.items()}
    plans = {name: resolve(spec) for name, spec in specs.items() if not refusals(spec, "deepspeed")}
    verdicts = dict(zip(plans, verify(list(plans.values())), strict=True))
    return {
        name: {
            "proven": {v.backend: [c.name for c in v.checks if c.passed] for v in verdicts.get(name, ())},
            "megatron": "; ".join(problem.message for problem in why[name]),
        }
        for name in names
    }


def _spec(model: Model) -> Spec:
    gpus = 64 if total_parameters(model) > 4e11 else 8
    (spec,) = load(["model=tiny", f"cluster.gpus={gpus}", "backend=deepspeed", "parallelism.zero=1"]).stages
    spec = override(spec, "training.sequence", min(2048, model.max_positions))
    assert written(model)
    if model.moe is not None:  # transformers has neither, and Megatron's build is the same without them
        model = replace(model, mtp=0, moe=replace(model.moe, bias_update_rate=0.0))
    return override(spec, "model", model)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
