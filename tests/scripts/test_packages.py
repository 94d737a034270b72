"""What is given to others: archives, installed where no checkout is; the unit, the man page, the completion, the container."""

import ast
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
import yaml

from tests.needs import lacking
from tests.scripts import test_readme

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "packaging/runtime.lock"
UNIT = ROOT / "packaging/systemd/kps.service"
OF_RUNS = (".git", ".venv", ".cache", ".*_cache", ".hypothesis", "build", "dist", "__pycache__")
KEPT_THERE = ("docker/root.key", "examples/terraform/terraform.tfstate", "examples/terraform/.terraform/plan", "examples/tls.pem")
# systemd-analyze's figure, 0 to 10: what is left is what a controller is for, connections to anywhere, and rlimits of its own.
MOST_EXPOSED = 1.5

place = test_readme.place


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist and the wheel of this tree, in which somebody keeps what is nobody else's; made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "archives"
    with open(f"{place}.busy", "w") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        if not (place / "made").exists():
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(ROOT, place / "tree", ignore=shutil.ignore_patterns(*OF_RUNS))
            for name in KEPT_THERE:
                (place / "tree" / name).parent.mkdir(exist_ok=True)
                (place / "tree" / name).touch()
            run(sys.executable, place / "tree/scripts/make-dist", place / "dist")
            (place / "made").touch()
    (sdist,), (wheel,) = (place / "dist").glob("*.tar.gz"), (place / "dist").glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def shared(archives: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the wheel brings for directories that other programs read."""
    into = tmp_path_factory.mktemp("share")
    with zipfile.ZipFile(archives[1]) as wheel:
        for name in wheel.namelist():
            if ".data/data/share/" in name:
                wheel.extract(name, into)
    return next(into.glob("*.data/data/share"))


def run(*words: str | Path, **more: object) -> str:
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}"
    return str(done.stdout)


def program(name: str, package: str) -> str:
    return shutil.which(name) or lacking(f"no {name}: apt-get install {package}")


# -- the archives ------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_wheel_alone_goes_through_the_readmes_session(archives: tuple[Path, Path], place: Path) -> None:
    python = place / "env/bin/python"
    run(sys.executable, "-m", "venv", "--without-pip", place / "env")
    words = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-compile")
    run(*words, "--only-binary", ":all:", "--require-hashes", "-r", LOCK)
    run(*words, "--no-deps", "--no-index", archives[1])
    (place / "empty").mkdir()
    found = run(python, "-c", "import controller, kpsagent; print(controller.__file__, kpsagent.__file__)", cwd=place / "empty")
    assert all(Path(file).is_relative_to(place / "env") for file in found.split())
    test_readme.play(place, f"cd empty; . {place}/env/bin/activate")


def test_the_source_archive_has_all_of_the_tree(archives: tuple[Path, Path]) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        assert (ROOT / "PKG-INFO").exists()  # then this tree is such an archive
        return
    with tarfile.open(archives[0]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()} - held == set()


def test_no_archive_takes_along_what_somebody_keeps_in_the_tree(archives: tuple[Path, Path]) -> None:
    with tarfile.open(archives[0]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert held & set(KEPT_THERE) == set()
    assert "examples/terraform/main.tf" in held


def test_the_wheel_has_every_file_of_the_packages_and_nothing_else(archives: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(archives[1]) as wheel:
        held = {name for name in wheel.namelist() if not name.startswith("kps_fleet-")}
    own = {
        str(path.relative_to(ROOT))
        for package in ("controller", "kpsagent")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == own


def test_the_wheel_says_what_it_is(archives: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(archives[1]) as wheel:
        (about,) = (path for path in zipfile.Path(wheel).iterdir() if path.name.endswith(".dist-info"))
        told = PathDistribution(about).metadata
        assert (about / "licenses/LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert told["License-Expression"] == "Apache-2.0"
    assert told["Description-Content-Type"] == "text/markdown"
    assert told["Requires-Python"] == ">=3.11"
    for word in ("Summary", "Keywords", "Classifier"):
        assert told[word], word


# -- what other programs read ------------------------------------------------------------------------------------------


def test_the_man_page_is_well_formed_and_tells_every_command(shared: Path) -> None:
    page = shared / "man/man1/kps.1"
    lint = subprocess.run([program("mandoc", "mandoc"), "-T", "lint", "-W", "warning", page], capture_output=True, text=True)
    # It has no date: it is made anew with each build, and says the version.
    said = [line for line in lint.stdout.split("\n") if line and "missing date" not in line]
    assert said == []
    shown = run("mandoc", "-T", "utf8", "-O", "width=200", page)
    plain = re.sub(".\b", "", shown)
    commands = re.findall(r"^## (kps .*)$", (ROOT / "docs/cli.md").read_text(), re.MULTILINE)
    assert len(commands) > 50
    assert [name for name in commands if f"\n   {name}\n" not in plain] == []


def test_groff_has_no_complaint_about_the_man_page(shared: Path) -> None:
    assert run(program("groff", "groff-base"), "-man", "-ww", "-z", "-Tutf8", shared / "man/man1/kps.1") == ""


def test_bash_completes_the_commands(shared: Path) -> None:
    script = (
        f'. {shared}/bash-completion/completions/kps; COMP_WORDS=(kps roll); COMP_CWORD=1; {{}} kps; echo "${{{{COMPREPLY[@]}}}}"'
    )
    function = re.search(r"-F (\w+)", (shared / "bash-completion/completions/kps").read_text())
    assert function is not None
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    assert run("bash", "-c", script.format(function.group(1)), env=environment).split() == ["rollout"]


def test_zsh_and_fish_find_their_files(shared: Path) -> None:
    assert (shared / "zsh/site-functions/_kps").read_text().startswith("#compdef kps\n")
    assert (shared / "fish/vendor_completions.d/kps.fish").read_text().startswith("complete --command kps ")


# -- the service -------------------------------------------------------------------------------------------------------


def test_the_unit_leaves_little_open(tmp_path: Path) -> None:
    analyze = program("systemd-analyze", "systemd")
    said = run(analyze, "security", "--offline=true", "--no-pager", f"--threshold={int(MOST_EXPOSED * 10)}", UNIT)
    assert float(re.findall(r"exposure level for kps.service: ([\d.]+)", said)[-1]) <= MOST_EXPOSED


def test_the_unit_uses_no_word_that_systemd_does_not_know(tmp_path: Path) -> None:
    copy = tmp_path / "kps.service"
    copy.write_text(
        UNIT.read_text().replace("/usr/bin/kps", "/bin/true").replace("User=kps", "User=root").replace("Group=kps\n", "")
    )
    assert run(program("systemd-analyze", "systemd"), "verify", "--man=no", copy) == ""


def test_the_unit_works_for_others_with_what_the_docs_add_to_it(tmp_path: Path) -> None:
    told = re.search(r"^    \[Service\]\n(?:    .*\n)+", (ROOT / "docs/postgresql.md").read_text(), re.MULTILINE)
    assert told is not None
    more = textwrap.dedent(told.group())
    assert "ExecStart=\nExecStart=/usr/bin/kps worker " in more
    unit = UNIT.read_text().replace("User=kps", "User=root").replace("Group=kps\n", "")
    for name, text in {"kps.service": unit, "kps.service.d/override.conf": more}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text.replace("/usr/bin/kps", "/bin/true"))
    assert run(program("systemd-analyze", "systemd"), "verify", "--man=no", tmp_path / "kps.service") == ""


@pytest.mark.parametrize(("there", "starts"), [("kps.db", True), ("database.url", True), ("root.key", False)])
def test_the_unit_starts_wherever_a_home_is_in_a_file_or_in_postgresql(tmp_path: Path, there: str, starts: bool) -> None:
    (tmp_path / there).touch()
    wanted = re.findall(r"^Condition\w+=.*$", UNIT.read_text().replace("/var/lib/kps-controller", str(tmp_path)), re.MULTILINE)
    assert wanted
    asked = subprocess.run([program("systemd-analyze", "systemd"), "condition", *wanted], capture_output=True, text=True)
    assert (asked.returncode == 0) is starts, asked.stderr


def test_all_that_names_the_services_home_means_the_same() -> None:
    unit = UNIT.read_text()
    (home,) = re.findall(r"^Environment=KPS_HOME=(\S+)", unit, re.MULTILINE)
    (state,) = re.findall(r"^StateDirectory=(\S+)$", unit, re.MULTILINE)
    assert home == f"/var/lib/{state}"
    for name in (
        "packaging/debian/kps",
        "packaging/debian/postinst",
        "packaging/debian/postrm",
        "docker/Dockerfile",
        "docker/compose-one.yaml",
        "docker/compose.yaml",
    ):
        named = set(re.findall(r"/var/lib/kps[\w-]*", (ROOT / name).read_text()))
        assert named == {home}, name


# -- the container -----------------------------------------------------------------------------------------------------


def test_the_container_may_do_little_and_its_health_is_asked() -> None:
    told = yaml.safe_load((ROOT / "docker/compose-one.yaml").read_text())
    shared = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
    assert set(shared) == {"api-1", "api-2", "worker-1", "worker-2", "database"}
    assert "healthcheck" in shared.pop("database")
    for home, service in {"home": told["services"]["controller"], **shared}.items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service
        assert "cap_add" not in service
        assert service["volumes"] == [f"{home}:/var/lib/kps-controller"]
    recipe = (ROOT / "docker/Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", recipe, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", recipe, re.MULTILINE)
    assert not re.search(r"\bpip\b|gcc|build-essential", recipe)
    # It runs with nothing but what Python itself brings.
    imported = {
        name.name
        for node in ast.walk(ast.parse((ROOT / "docker/healthy").read_text()))
        if isinstance(node, ast.Import)
        for name in node.names
    }
    assert imported <= sys.stdlib_module_names
