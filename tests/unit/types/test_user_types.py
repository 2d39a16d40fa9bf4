"""Classes of a training script: they resume with no registration, or the error says what to do."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import textwrap

import pytest

TYPES = """
import dataclasses, enum, typing

class State(typing.NamedTuple):
    step: int
    best: list

@dataclasses.dataclass
class Config:
    class Nested(typing.NamedTuple):
        x: int
    lr: float
    nested: Nested

class Phase(enum.Enum):
    WARM = 1

"""
TREE = "{'s': State(3, [1.5]), 'c': Config(0.1, Config.Nested(2)), 'p': Phase.WARM}"
TRAIN = (
    TYPES
    + f"""
if __name__ == "__main__":
    import pathlib, sys, ckptstore
    tree = {TREE}
    if pathlib.Path("ckpt").exists():
        found = ckptstore.load("ckpt")
        assert found == tree, found
        assert [type(x) for x in found.values()] == [State, Config, Phase]
        like = {{**tree, "s": State(0, [0.0])}}
        assert ckptstore.load("ckpt", like=like) == tree
        print("resumed")
    else:
        ckptstore.save("ckpt", tree)
        print("saved")
"""
)


class Project:
    """A folder with sources, in which commands run."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))

    def run(self, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            cwd=self.root,
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )

    def says(self, *arguments: str, text: str | None = None) -> str:
        """Run a command that ends well and return what it prints."""
        done = self.run(*arguments, text=text)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def error(self, code: str) -> str:
        """Run code that fails with an UnknownTypeError and return its message."""
        done = self.run("-c", textwrap.dedent(code))
        assert done.returncode == 1 and "UnknownTypeError: " in done.stderr, done.stderr
        return done.stderr.partition("UnknownTypeError: ")[2]


@pytest.fixture
def project(tmp_path: pathlib.Path) -> Project:
    made = Project(tmp_path)
    made.write("pkg/__init__.py", "")
    made.write("pkg/train.py", TRAIN)
    return made


SCRIPT, MODULE = ("pkg/train.py",), ("-m", "pkg.train")


@pytest.mark.parametrize("first", [SCRIPT, MODULE])
def test_a_script_resumes_as_script_and_as_module(project, first):
    assert project.says(*first) == "saved"
    assert project.says(*SCRIPT) == project.says(*MODULE) == "resumed"


def test_code_without_a_file_resumes(project):
    """As in a notebook: `__main__` has neither a spec nor a file."""
    assert project.says("-", text=TRAIN) == "saved"
    assert project.says("-", text=f"del __spec__\n{TRAIN}") == "resumed"
    assert project.says(*MODULE) == "resumed"


def test_what_a_module_run_by_name_saved_loads_where_it_is_imported_and_back(project):
    project.says(*MODULE)
    code = "import ckptstore, pkg.train; print(type(ckptstore.load('ckpt')['s']).__module__)"
    assert project.says("-c", code) == "pkg.train"
    save = (
        f"import ckptstore; from pkg.train import *; ckptstore.save('ckpt', {TREE}, overwrite=True)"
    )
    project.says("-c", save)
    assert project.says(*MODULE) == "resumed"


def test_another_class_of_that_name_in_another_script_is_not_taken_where_the_module_is_here(
    project,
):
    project.says(*MODULE)
    code = (
        f"{TYPES}\nimport ckptstore, pkg.train\nprint(type(ckptstore.load('ckpt')['s']).__module__)"
    )
    assert project.says("-c", code) == "pkg.train"


def test_a_process_that_was_spawned_saves_what_the_script_loads(project):
    project.write(
        "spawn.py",
        TYPES
        + """
        import multiprocessing, ckptstore

        def work():
            ckptstore.save("ckpt", State(1, []))

        if __name__ == "__main__":
            process = multiprocessing.get_context("spawn").Process(target=work)
            process.start()
            process.join()
            assert type(ckptstore.load("ckpt")) is State
            assert list(ckptstore.inspect("ckpt").types) == ["__main__.State"]
            assert ckptstore.load("ckpt", types=[State]) == State(1, [])
            print("loaded")
        """.replace("\n        ", "\n"),
    )
    assert project.says("spawn.py") == "loaded"


class TestOfModulesThatAreNotImported:
    def test_one_error_has_every_import(self, project):
        project.write("one.py", TYPES)
        project.write("pkg/two.py", TYPES)
        tree = "[one.State(1, []), pkg.two.State(1, [])]"
        project.says("-c", f"import ckptstore, one, pkg.two; ckptstore.save('ckpt', {tree})")
        error = project.error("import ckptstore; ckptstore.load('ckpt')")
        assert "one.State: the module one is not imported; import one first" in error
        assert "pkg.two.State: the module pkg.two is not imported; import pkg.two first" in error
        assert "all imports: import one; import pkg.two\n" in error
        assert (
            project.says(
                "-c",
                "import one; import pkg.two; import ckptstore; print(len(ckptstore.load('ckpt')))",
            )
            == "2"
        )

    def test_a_name_that_is_no_module_is_not_told_to_be_imported(self, project):
        project.write("one.py", TYPES)
        project.says(
            "-c",
            "import ckptstore, one; ckptstore.register(one.State, name='project.State');"
            "ckptstore.save('ckpt', one.State(1, []))",
        )
        error = project.error("import ckptstore; ckptstore.load('ckpt')")
        assert "ckptstore.register(YourClass, name='project.State') first" in error
        assert "import project" not in error

    def test_a_module_name_with_code_in_it_is_not_told_to_be_imported(self, project):
        project.says(
            "-c",
            "import ckptstore, sys, types, typing\n"
            "State = typing.NamedTuple('State', [('x', int)])\n"
            "State.__module__ = 'a; import os'\n"
            "sys.modules['a; import os'] = sys.modules['__main__']\n"
            "ckptstore.save('ckpt', State(1))",
        )
        assert "import it first" in project.error("import ckptstore; ckptstore.load('ckpt')")


class TestOfAnotherScript:
    def test_the_error_says_what_to_do(self, project):
        project.says(*SCRIPT)
        error = project.error("import ckptstore; ckptstore.load('ckpt')")
        for part in (
            "4 types cannot be rebuilt",
            "it was defined in the script that saved it, which is not this script",
            "pass types={'__main__.State': YourClass}",
            "class in a module, or with a name that ckptstore.register gave it",
        ):
            assert part in error
        code = f"{TYPES}\nimport ckptstore\nprint(ckptstore.load('ckpt')['s'])"
        assert project.says("-c", code) == "State(step=3, best=[1.5])"  # it has them itself

    def test_the_error_names_the_module_that_the_script_is(self, project):
        project.says(*MODULE)
        error = project.error("import ckptstore; ckptstore.load('ckpt')")
        assert "__main__.State: it was defined in the script" in error
        assert "import pkg.train first" in error
        assert "all imports" not in error  # one is enough

    def test_what_it_says_works(self, project):
        project.says(*SCRIPT)
        types = ", ".join(
            f"'__main__.{name}': pkg.train.{name}"
            for name in ("State", "Config", "Config.Nested", "Phase")
        )
        code = f"import ckptstore, pkg.train; print(ckptstore.load('ckpt', types={{{types}}})['s'])"
        assert project.says("-c", code) == "State(step=3, best=[1.5])"


def test_like_of_the_same_class_elsewhere_is_told_what_to_say(project):
    project.says(*SCRIPT)
    code = """
    import ckptstore
    import pkg.train as t
    tree = eval("TREE", vars(t))
    try:
        ckptstore.load("ckpt", like=tree)
    except ckptstore.StructureError as error:
        print("types={'__main__.State': State}" in str(error), str(error)[-60:])
    types = {"__main__.State": t.State, "__main__.Phase": t.Phase}
    types |= {"__main__.Config": t.Config, "__main__.Config.Nested": t.Config.Nested}
    print(ckptstore.load("ckpt", like=tree, types=types) == tree)
    """.replace("TREE", TREE)
    first, second = project.says("-c", textwrap.dedent(code)).split("\n")
    assert first.startswith("True") and "register(Phase, name='__main__.Phase')" in first
    assert second == "True"


class TestOfAModuleThatIsGone:
    def test_the_error_leads_to_register_and_that_loads_old_and_new(self, project):
        project.write("old.py", TYPES)
        save = "ckptstore.save(sys.argv[1], State(1, []))"
        project.says("-c", f"import sys, ckptstore; from old import State; {save}", "c1")
        (project.root / "old.py").rename(project.root / "new.py")
        error = project.error("import ckptstore, new; ckptstore.load('c1')")
        assert "if the class has moved, ckptstore.register(YourClass, name='old.State')" in error
        project.says("-c", f"import sys, ckptstore; from new import State; {save}", "c2")
        code = """
        import ckptstore, new
        ckptstore.register(new.State, name="old.State")
        for name in ("c1", "c2"):
            assert type(ckptstore.load(name)) is new.State
            ckptstore.load(name, like=new.State(0, []))
        print(ckptstore.save("c3", new.State(1, [])).types[0])
        """
        assert project.says("-c", textwrap.dedent(code)) == "old.State"
        assert "import old" not in project.error("import ckptstore, new; ckptstore.load('c3')")

    def test_likewise_of_a_class_that_its_module_has_no_more(self, project):
        project.write("old.py", TYPES)
        project.says("-c", "import ckptstore, old; ckptstore.save('ckpt', old.Phase.WARM)")
        project.write("new.py", TYPES)
        project.write("old.py", "")
        error = project.error("import ckptstore, old; ckptstore.load('ckpt')")
        assert "the module old has no Phase; if the class has moved" in error
        code = """
        import ckptstore, new
        ckptstore.register(new.Phase, name="old.Phase")
        print(ckptstore.load("ckpt"))
        """
        assert project.says("-c", textwrap.dedent(code)) == "Phase.WARM"


def test_a_script_whose_class_changed_resumes_by_a_migration(project):
    project.write("run.py", TYPES + "import ckptstore; ckptstore.save('ckpt', State(3, [1.5]))")
    project.says("run.py")
    changed = (
        TYPES.replace("    best: list", "    scores: list\n    wall: float") + "import ckptstore\n"
    )
    project.write("run.py", changed + "print(ckptstore.load('ckpt'))")
    done = project.run("run.py")
    assert "only in the checkpoint: best; only in the class: scores, wall" in done.stderr
    step = "ckptstore.Migration(renamed={'best': 'scores'}, added={'wall': 0.0})"
    project.write(
        "run.py",
        f"{changed}ckptstore.register(State, migrate=[{step}])\nprint(ckptstore.load('ckpt'))",
    )
    assert project.says("run.py") == "State(step=3, scores=[1.5], wall=0.0)"
