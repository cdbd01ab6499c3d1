"""Nothing imports upwards, and what people do before training stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nbft
import nbft.runs as nbft_runs
from nbft import registry

ROOT = Path(nbft.__file__).parent

LAYERS = [
    ("redaction", "reading", "access", "formatting"),
    ("atomic", "charts", "errors", "lesson", "syntax", "presented", "progress"),
    ("consent", "events", "limits"),
    ("registry", "processes"),
    ("devices",),
    ("hardware",),
    ("tracking",),
    ("config",),
    ("models",),
    ("matmul_rate", "queue"),
    ("methods",),
    ("decisions",),
    ("data",),
    ("evaluate",),
    ("rewards",),
    ("plan",),
    ("interop",),
    ("runs",),
    ("catalogue",),
    ("pages",),
    ("training",),
    ("export",),
    ("launchers",),
    ("bench",),
    ("wizard",),
    ("widgets",),
    ("server",),
    ("cli",),
]
"""Low to high: a module imports from layers below its own."""

LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}

FACADE = "facade"
"""What people call on a value hands over to higher layers there, and nothing else does."""


def _imports(tree):
    """Yield the dotted name of every import that runs, those inside functions too."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        todo += ast.iter_child_nodes(node)


def _from_registries(tree):
    """Yield the dotted names that `registry.NAME.get(key)` imports, whatever the key."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "get":
            name = ast.unparse(node.value)
            if name.startswith("registry."):
                places = getattr(registry, name.removeprefix("registry."))._builtin.values()
                yield from (place.partition(":")[0] for place in places)


def imported(path, source):
    """Return the parts of nbft outside its own that a module imports."""
    own = path.split("/")[0].removesuffix(".py")
    tree = ast.parse(source)
    names = [*_imports(tree), *_from_registries(tree)]
    names = {name.split(".")[1] for name in names if name.startswith("nbft.")}
    return {name for name in names if name in {*LAYER_OF, FACADE}} - {own}


MODULES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py"))


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path not in ("__init__.py", "facade.py")]
)
def test_nothing_imports_upwards(path):
    layer = LAYER_OF[path.split("/")[0].removesuffix(".py")]
    found = imported(path, (ROOT / path).read_text(encoding="utf-8")) - {FACADE}
    assert {name for name in found if LAYER_OF[name] >= layer} == set()


def test_only_what_people_call_goes_through_the_facade():
    users = {
        path
        for path in MODULES
        if FACADE in imported(path, (ROOT / path).read_text(encoding="utf-8"))
    }
    assert users == {
        *("config/config.py", "runs/folder.py", "runs/race.py", "launchers/launch.py"),
        *("presented.py", "data/doctor/report.py"),
    }


def test_every_part_has_a_layer():
    parts = {path.split("/")[0].removesuffix(".py") for path in MODULES} - {"__init__", FACADE}
    assert parts == set(LAYER_OF)


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("config/io.py", "def f():\n    from nbft.plan import make_plan", {"plan"}),
        ("config/io.py", "from nbft import registry", {"registry"}),
        ("plan/plan.py", "import nbft.runs.folder", {"runs"}),
        ("plan/plan.py", "if TYPE_CHECKING:\n    from nbft.runs import Run", set()),
        ("plan/plan.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import nbft.runs", {"runs"}),
        ("plan/plan.py", "from nbft.plan.memory import Shape", set()),
        ("runs/folder.py", "from nbft import facade", {"facade"}),
        ("config/io.py", "registry.trainers.get(key)", {"methods"}),
        ("methods/sft.py", "registry.trainers.get(key)", set()),
        ("config/io.py", "registry.trainers.keys()", set()),
    ],
)
def test_this_test_sees_what_it_should(path, source, found):
    assert imported(path, source) == found


LIGHT = {
    "import": "import nbft",
    "config": "import nbft; nbft.Config.preset('two-minute-try').to_yaml(comments=True)",
    "schema": "import nbft; nbft.settings(); nbft.Config.json_schema()",
    "plan": "import nbft; plan = nbft.make_plan(nbft.Config.preset('two-minute-try')); "
    "assert plan.total_steps; plan.learning_rates()",
    "broken plan": "import nbft; assert nbft.make_plan(nbft.Config()).errors",
    "help": "import nbft; assert nbft.help('warmup').settings; str(nbft.help('lr'))",
    "wizard": "from nbft import wizard; from nbft.plan.advice import this_machine\n"
    "assert wizard.create(this_machine(), given={}, ask=None, say=print)",
    "checklist": "import nbft; from nbft.plan.checklist import checklist\n"
    "assert checklist(nbft.make_plan(nbft.Config.preset('two-minute-try')))",
    "other hardware": "from nbft.plan.machines import MACHINES, plans; assert plans(MACHINES[0])",
    "runs": "import nbft; assert nbft.list_runs('.') == []",
    "catalogue": "import sys, nbft; from nbft.catalogue.models import models\n"
    "from nbft.catalogue.datasets import datasets, look\n"
    "assert models(nbft.Config()) and look(datasets(nbft.Config())[0]).rows\n"
    "assert 'huggingface_hub' not in sys.modules",
    "imported": "import nbft; open('a.json', 'w').write('{\"base_model\": \"a/b\", \"rank\": 8}')\n"
    "config, report = nbft.import_file('a.json'); config.export('oumi')",
    "python": "import nbft; nbft.Config.preset('two-minute-try').to_python()",
    "curves": "from nbft.runs.curves import draw_curves\nfrom nbft.runs.state import RunState\n"
    "draw_curves(RunState([{'event': 'log', 'step': 1, 'loss': 1.0}])).savefig('curves.png')",
}


@pytest.mark.parametrize("name", LIGHT)
def test_nothing_heavy_is_loaded_before_training(name, tmp_path):
    heavy = "('torch', 'transformers', 'datasets', 'pyarrow', 'peft', 'trl')"
    code = f"{LIGHT[name]}\nimport sys\nprint([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout.splitlines()[-1:], done.returncode) == (["[]"], 0), done.stderr


def test_no_function_is_shadowed_by_a_module_of_its_name() -> None:
    """Importing a submodule sets it on its package, over a function of the same name."""
    for package in (nbft, nbft_runs):
        folder = Path(str(package.__file__)).parent
        modules = {path.stem for path in folder.iterdir()}
        assert not modules & set(package.__all__)
