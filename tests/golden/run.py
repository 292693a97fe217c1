"""Computes golden cases with the product's code and compares them with the published systems' numbers.

    python -m tests.golden.run CASE_DIR [CASE_DIR ...] [--out DIR]

The ops of a system are found by listing `ops_<system>*.py` beside this file: each holds `OPS`, a map from op to a
function of a `Case` that returns `{name: tensor}`, or a pair of that and the text records of `expected.json`. A
module may hold `MASKS`, a map from an output to the input that marks its real positions, or to a function of the
inputs that does.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

HERE = Path(__file__).resolve().parent
Tensors = dict[str, Tensor]
Op = Callable[["Case"], Any]
Mask = str | Callable[[Tensors], Tensor]


@dataclass(frozen=True)
class Case:
    """What a case gives a runner; the expected numbers are not part of it."""

    folder: Path
    system: str
    op: str
    config: dict[str, Any]
    tolerance: dict[str, float]
    inputs: Tensors
    weights: Tensors

    @classmethod
    def load(cls, folder: Path) -> Case:
        case = json.loads((folder / "case.json").read_text(encoding="utf-8"))
        found = {
            kind: load_file(folder / f"{kind}.safetensors") if (folder / f"{kind}.safetensors").exists() else {}
            for kind in ("inputs", "weights")
        }
        return cls(folder, case["system"], case["op"], case["config"], case["tolerance"], **found)

    def path(self, name: str) -> Path:
        """A file or folder that the config names, relative to the folder that holds the case folder."""
        return self.folder.parent / name


@dataclass(frozen=True)
class Verdict:
    """The worst deviation of a case as a share of what is tolerated, and where it is."""

    worst: float = 0.0
    name: str = ""

    @property
    def failed(self) -> bool:
        return not self.worst <= 1.0

    def __or__(self, other: Verdict) -> Verdict:
        return other if other.worst > self.worst or math.isnan(other.worst) else self


@cache
def operations(system: str) -> tuple[dict[str, Op], dict[str, Mask]]:
    """All ops of a system, and the masks of its padded outputs."""
    ops: dict[str, Op] = {}
    masks: dict[str, Mask] = {}
    for path in sorted(HERE.glob(f"ops_{system}*.py")):
        module = _load(path)
        twice = ops.keys() & module.OPS.keys()
        if twice:
            raise ValueError(f"{path.name} defines {', '.join(sorted(twice))} a second time")
        ops |= module.OPS
        masks |= getattr(module, "MASKS", {})
    return ops, masks


def sibling(name: str) -> Any:
    """Another ops module, for what they share."""
    return _load(HERE / f"{name}.py")


@cache
def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"golden_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compute(case: Case) -> tuple[Tensors, Any]:
    """All outputs of a case: tensors, and text records or None.

    Raises:
        KeyError: the op is unknown.
    """
    result = operations(case.system)[0][case.op](case)
    tensors, records = result if isinstance(result, tuple) else (result, None)
    return {name: torch.as_tensor(tensor).detach() for name, tensor in tensors.items()}, records


def compare(case: Case, tensors: Tensors, records: Any) -> Verdict | None:
    """Deviation from the expected numbers; None if the case does not come with them."""
    numbers, texts = case.folder / "expected.safetensors", case.folder / "expected.json"
    if not numbers.exists() and not texts.exists():
        return None
    verdict = Verdict()
    masks = operations(case.system)[1]
    for name, expected in (load_file(numbers) if numbers.exists() else {}).items():
        where = masks.get(name, "")
        mask = where(case.inputs) if callable(where) else case.inputs.get(where)
        verdict |= Verdict(_deviation(tensors.get(name), expected, mask, **case.tolerance), name)
    if texts.exists():
        verdict |= _compare_records(records, json.loads(texts.read_text(encoding="utf-8")))
    return verdict


def _deviation(got: Tensor | None, expected: Tensor, mask: Tensor | None, rtol: float, atol: float) -> float:
    """max |got - expected| / (atol + rtol |expected|) over real positions; infinite where exactness is broken."""
    if got is None or got.shape != expected.shape or got.is_floating_point() != expected.is_floating_point():
        return math.inf
    if mask is not None:
        got, expected = got[mask.bool()], expected[mask.bool()]
    if not expected.is_floating_point():
        return 0.0 if torch.equal(got.long(), expected.long()) else math.inf
    got, expected = got.double(), expected.double()
    equal = (got == expected) | (got.isnan() & expected.isnan())
    share = torch.where(equal, 0.0, (got - expected).abs() / (atol + rtol * expected.abs()))
    return float(share.max()) if share.numel() else 0.0


def _compare_records(got: Any, expected: dict[str, Any]) -> Verdict:
    """Every expected text record must be there and equal."""
    plain = json.loads(json.dumps(got or {}))
    differing = [name for name, record in expected.items() if name not in plain or plain[name] != record]
    return Verdict(math.inf, differing[0]) if differing else Verdict()


def write(case: Case, tensors: Tensors, records: Any, out: Path) -> None:
    """Store what was computed under the expected names."""
    folder = out / case.system
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: t.contiguous().clone() for name, t in tensors.items()},
        folder / f"{case.folder.name}.safetensors",
    )
    if records is not None:
        text = json.dumps(records, ensure_ascii=False)
        (folder / f"{case.folder.name}.json").write_text(text, encoding="utf-8")


def run(folder: Path, out: Path | None) -> bool:
    """Compute one case, write and compare it, print its line; False if it failed."""
    case = Case.load(folder)
    label = f"{case.system} {folder.name} {case.op}"
    if case.op not in operations(case.system)[0]:
        print(f"{label} - FAIL unknown op")
        return False
    tensors, records = compute(case)
    if out is not None:
        write(case, tensors, records, out)
    verdict = compare(case, tensors, records)
    if verdict is None:
        print(f"{label} - computed")
        return True
    print(f"{label} {verdict.worst:.3g} {f'FAIL {verdict.name}' if verdict.failed else 'ok'}")
    return not verdict.failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all cases; 0 if every one of them is as expected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", type=Path, metavar="CASE_DIR")
    parser.add_argument("--out", type=Path, help="write what was computed below this folder")
    options = parser.parse_args(arguments)
    failed = 0
    for folder in options.cases:
        try:
            failed += not run(folder, options.out)
        except Exception as error:  # one broken case must not hide the others
            print(f"{folder.name} - FAIL {type(error).__name__}: {error}")
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
