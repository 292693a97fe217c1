"""The import rule and the bans of the house, read from the syntax trees of every file."""

from __future__ import annotations

import ast
import pkgutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions

import pytest

from tests.support import ROOT

FLOORS = ("config", "data", "model", "train", "scripts")
"""Lowest first."""

ROOMS = {
    "config": ("config", "config.command"),
    "data": ("data", "data.words", "data.records", "data.stores", "data.batches", "data.source"),
    "model": ("model.parts", "model", "model.objective"),
    "train": (
        "train.checkpointing", "train.distributed", "train.liveness", "train.metrics", "train.scoring",
        "train.assembly", "train.evaluation", "train.mining", "train.loop", "train",
    ),
    "scripts": (
        "scripts.command", "scripts.building", "scripts.benchmarks", "scripts.page", "scripts.scaling_model",
        "scripts.scenes", "scripts.ablation", "scripts.slurm", "scripts", "scripts.manual",
    ),
}  # fmt: skip
"""The rooms of each floor, lowest first. Named like its floor is what lies in no room: helpers below, or entries."""

MOST_IN_A_ROOM = 16
ENTRIES = ("train", "scripts")
"""Folders of programs, which may hold more: a program stands where people look for it."""

HOMES = {
    "lmdb": {"data/records/codec.py", "data/stores/growing_map.py", "data/stores/lmdb_store.py",
             "data/stores/lmdb_writer.py"},
    "msgpack": {"data/records/codec.py"},
    "horovod": {"train/distributed/process_groups.py", "scripts/launch.py", "scripts/slurm/ranks.py"},
    "torch.distributed": {"train/distributed/process_groups.py"},
    # optim.py, because what upstream apex still has for training is a fused optimizer; its amp is gone.
    "apex": {"train/assembly/precision.py", "train/assembly/optim.py"},
    "tensorboardX": {"train/metrics/journal.py"},
    "wandb": {"train/metrics/journal.py"},
}
ABSENT_SOMEWHERE = ("horovod", "torch.distributed", "apex", "tensorboardX", "wandb")
"""Not built into every torch, or not installed everywhere: imported only where they are used."""


@dataclass(frozen=True)
class Import:
    """One imported module, as a full dotted name, and where it stands."""

    module: str
    path: str
    line: int
    at_top: bool

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.module}"

    def is_of(self, package: str) -> bool:
        return self.module == package or self.module.startswith(f"{package}.")


@cache
def sources() -> dict[str, ast.Module]:
    """The syntax tree of every product file, by its path from the root."""
    files = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in files}


def imports_of(tree: ast.Module, path: str) -> Iterator[Import]:
    """All imports of a file. `from a import b` counts as a.b as well: b may be a module."""
    inside = {id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef)
              for node in ast.walk(function)}
    for node in ast.walk(tree):
        at_top = id(node) not in inside
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, path, node.lineno, at_top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import; name the floor"
            yield Import(node.module or "", path, node.lineno, at_top)
            yield from (Import(f"{node.module}.{alias.name}", path, node.lineno, at_top) for alias in node.names)


def all_imports() -> list[Import]:
    return [found for path, tree in sources().items() for found in imports_of(tree, path)]


def upward(found: Import) -> bool:
    floor, target = found.path.split("/")[0], found.module.split(".")[0]
    return target in FLOORS and FLOORS.index(target) > FLOORS.index(floor)


def modules() -> dict[str, str]:
    """Dotted name of every product module and package, to its path."""
    return {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in sources()}


def imported_modules(path: str) -> set[str]:
    """The product modules that a file imports."""
    known = modules()
    found = {found.module for found in imports_of(sources()[path], path)}
    owners = {name.rpartition(".")[0] for name in found if name not in known}
    files = {name for name in found & set(known) if not known[name].endswith("__init__.py")}
    return files | owners & set(known)


def name_of(path: str) -> str:
    return next(name for name, where in modules().items() if where == path)


def room_of(path: str) -> str:
    return path.rpartition("/")[0].replace("/", ".")


def ascending(path: str, target: str) -> bool:
    """Whether the import of the module `target` in the file `path` goes to a higher room of the same floor."""
    floor, mine, other = path.split("/")[0], room_of(path), room_of(modules()[target])
    return target.split(".")[0] == floor and ROOMS[floor].index(other) > ROOMS[floor].index(mine)


def circle(edges: Mapping[str, set[str]]) -> list[str]:
    """A circle in a graph, or nothing."""
    try:
        list(TopologicalSorter(edges).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def uses(tree: ast.Module, name: str) -> list[int]:
    """Lines that call `name` (dotted) in a file."""
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


def keyword_is(tree: ast.Module, name: str, value: object) -> list[int]:
    """Lines where a call is given `name=value`."""
    return [word.value.lineno for node in ast.walk(tree) if isinstance(node, ast.Call) for word in node.keywords
            if word.arg == name and isinstance(word.value, ast.Constant) and word.value.value is value]


def everywhere(lines: dict[str, list[int]]) -> list[str]:
    return [f"{path}:{line}" for path, found in lines.items() for line in found]


def test_every_floor_has_files() -> None:
    assert {path.split("/")[0] for path in sources()} == set(FLOORS)
    assert len(sources()) > 40


def test_nothing_imports_from_a_higher_floor_or_from_tests() -> None:
    assert [str(found) for found in all_imports() if upward(found) or found.is_of("tests")] == []


def test_a_higher_import_would_be_noticed() -> None:
    for line in ("import train.itm", "from train import itm", "def f():\n    from scripts.report import main"):
        found = list(imports_of(ast.parse(line), "model/sixth.py"))
        assert any(upward(one) for one in found)


def test_every_room_of_every_floor_has_its_place_in_the_order() -> None:
    for floor, rooms in ROOMS.items():
        assert {room_of(path) for path in sources() if path.startswith(f"{floor}/")} == set(rooms)


def test_no_room_imports_from_a_higher_room_of_its_floor() -> None:
    assert [f"{path} imports {target}" for path in sources() for target in sorted(imported_modules(path))
            if ascending(path, target)] == []


def test_an_import_from_a_higher_room_would_be_noticed() -> None:
    assert ascending("train/scoring/scorer.py", "train.loop.step")
    assert ascending("data/files.py", "data.stores.lmdb_store")
    assert not ascending("train/loop/step.py", "train.scoring.scorer")
    assert not ascending("train/itm.py", "data.stores.lmdb_store")


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circle({name_of(path): imported_modules(path) for path in sources()}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != []


def test_no_room_is_a_corridor() -> None:
    rooms = Counter(room_of(path) for path in sources() if not path.endswith("__init__.py"))
    assert {room: count for room, count in rooms.items() if count > MOST_IN_A_ROOM and room not in ENTRIES} == {}


def test_every_room_says_what_it_is_for() -> None:
    silent = [path for path, tree in sources().items() if path.endswith("__init__.py") and not ast.get_docstring(tree)]
    assert silent == []


def test_the_model_takes_only_batches_from_the_data() -> None:
    taken = {found.module for found in all_imports() if found.path.startswith("model/") and found.is_of("data")}
    assert {module for module in taken if module in modules()} <= {"data.batches", "data.batches.batch"}
    assert all(module.startswith("data.batches.batch") for module in taken)


@pytest.mark.parametrize("package", HOMES)
def test_a_library_stays_in_its_home(package: str) -> None:
    users = {found.path for found in all_imports() if found.is_of(package)}
    assert users <= HOMES[package]


@pytest.mark.parametrize("package", ABSENT_SOMEWHERE)
def test_a_library_that_may_be_absent_is_imported_where_it_is_used(package: str) -> None:
    assert [str(found) for found in all_imports() if found.is_of(package) and found.at_top] == []


def test_torch_distributed_is_reached_through_comm_only() -> None:
    spelled = {path: [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Attribute)
                      and ast.unparse(node).startswith("torch.distributed")] for path, tree in sources().items()}
    assert everywhere(spelled) == []


def installed_names() -> set[str]:
    """Top-level names of everything installed, but those of this project itself."""
    ours = {"crossmatch"}
    return {name for name, owners in packages_distributions().items() if not set(owners) <= ours}


def test_no_file_beside_an_entry_hides_a_floor_or_another_module() -> None:
    """`python train/itm_hn.py` puts train/ first on the path."""
    names = {path.stem for path in (ROOT / "train").iterdir()} - {"__init__", "__pycache__"}
    others = set(sys.stdlib_module_names) | installed_names() | set(FLOORS) | {"tests"}
    assert {"torch", "numpy", "pydantic"} <= others
    assert names & others == set()
    assert "logging" in others


def test_no_file_beside_a_program_hides_another_module() -> None:
    names = {path.stem for path in (ROOT / "scripts").iterdir() if path.suffix in ("", ".py")} - {"__init__"}
    assert names & (set(sys.stdlib_module_names) | installed_names() | set(FLOORS)) == set()


def test_every_floor_is_a_package_and_ships() -> None:
    folders = {str(path.parent.relative_to(ROOT)).replace("/", ".") for floor in FLOORS
               for path in (ROOT / floor).rglob("*.py")}
    packages = {module.name for module in pkgutil.walk_packages([str(ROOT)]) if module.ispkg}
    assert folders <= packages


def test_nothing_is_unpickled() -> None:
    banned = ("pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal")
    assert [str(found) for found in all_imports() if any(found.is_of(name) for name in banned)] == []


def test_no_array_or_weight_is_loaded_by_unpickling() -> None:
    assert everywhere({path: keyword_is(tree, "allow_pickle", True) for path, tree in sources().items()}) == []
    assert everywhere({path: keyword_is(tree, "weights_only", False) for path, tree in sources().items()}) == []


def test_every_torch_load_says_weights_only_and_every_numpy_load_no_pickle() -> None:
    for call, word, value in (("torch.load", "weights_only", True), ("np.load", "allow_pickle", False)):
        for path, tree in sources().items():
            calls = uses(tree, call)
            assert len(calls) <= len(keyword_is(tree, word, value)), f"{path}: {call} without {word}={value}"


def test_only_programs_for_people_print() -> None:
    lines = {path: uses(tree, "print") for path, tree in sources().items() if not path.startswith("scripts/")}
    assert everywhere(lines) == []


def test_no_file_is_longer_than_a_head_can_hold() -> None:
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in sources()}
    assert {path: length for path, length in lengths.items() if length > 300} == {}


def test_errors_are_not_swallowed() -> None:
    """No `except: pass` in any wording."""
    silent = {path: [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)
                     and all(isinstance(line, ast.Pass) for line in node.body)] for path, tree in sources().items()}
    assert everywhere(silent) == []


def test_names_of_files_on_disk_are_the_names_that_are_imported() -> None:
    """Every `from data.x import` names a file that exists (a moved file leaves no ghost import behind)."""
    known = modules()
    for found in all_imports():
        package, _, name = found.module.rpartition(".")
        if found.module.split(".")[0] in FLOORS and found.module not in known:
            assert package in known, str(found)
            assert defines(sources()[known[package]], name), str(found)


def defines(tree: ast.Module, name: str) -> bool:
    return any(name in ast.unparse(node) for node in tree.body)
