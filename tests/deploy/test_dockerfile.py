"""The Dockerfile: what a linter, an old builder and the settings say of it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from server.settings import PREFIX, Settings, load_settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
TEXT = DOCKERFILE.read_text()
LINES = TEXT.splitlines()


def instructions() -> list[str]:
    """Return the instructions, continued lines joined, without comments."""
    plain = "\n".join(line for line in LINES if not line.lstrip().startswith("#"))
    return [line.strip() for line in plain.replace("\\\n", " ").splitlines() if line.strip()]


def image_environment() -> dict[str, str]:
    """Return what the final stage's ENV sets."""
    (env,) = (line for line in instructions() if line.startswith("ENV "))
    return dict(word.split("=", 1) for word in shlex.split(env)[1:])


def hadolint(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the linter."""
    return subprocess.run(
        [Path(sys.executable).parent / "hadolint", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_linter_finds_nothing() -> None:
    done = hadolint(str(DOCKERFILE))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_linter_would_find_what_is_ignored() -> None:
    done = hadolint("-", stdin=re.sub(r"# hadolint ignore=.*\n", "", TEXT))
    assert done.returncode != 0
    ignored = set(re.findall(r"# hadolint ignore=(\w+)", TEXT))
    assert ignored == {"DL3008"}
    for rule in ignored:
        assert rule in done.stdout


def test_the_first_ignore_of_each_rule_has_a_reason() -> None:
    seen: set[str] = set()
    for number, line in enumerate(LINES):
        if found := re.fullmatch(r"# hadolint ignore=(\w+)", line):
            if found[1] not in seen:
                assert LINES[number - 1].startswith("# "), line
            seen.add(found[1])
    assert seen


def test_old_builders_can_read_it() -> None:
    for line in instructions():
        assert "<<" not in line
        assert "--link" not in line


def test_it_runs_as_an_ordinary_user_of_fixed_number() -> None:
    users = [line for line in instructions() if line.startswith("USER ")]
    assert users == ["USER 10001:10001"]
    assert any("useradd --uid 10001 --gid 10001" in line for line in instructions())


def test_it_is_labelled() -> None:
    (label,) = (line for line in instructions() if line.startswith("LABEL "))
    pairs = dict(word.split("=", 1) for word in shlex.split(label)[1:])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert pairs["org.opencontainers.image.licenses"] == project["license"]
    assert f"ARG VERSION={project['version']}" in instructions()
    for name in ("title", "description", "version", "revision", "created"):
        assert pairs[f"org.opencontainers.image.{name}"]


def test_each_accel_has_its_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    choices = dict(re.findall(r"^ +(cpu|cuda\d+)\) set -- (.*?) ;;", TEXT, re.MULTILINE))
    assert choices.keys() == {"cpu", "cuda12", "cuda13"}
    assert choices.pop("cpu") == "."
    for accel, wanted in choices.items():
        ours, ctk = shlex.split(wanted)
        assert ours == f".[{accel}]"
        (package,) = (re.split(r"[<>=]", name)[0] for name in extras[accel])
        assert ctk == f"{package}[ctk]"


def test_the_build_context_has_what_is_copied_and_little_else() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    copied = {
        source
        for line in instructions()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    assert "*" in ignore
    assert kept == copied
    for name in copied:
        assert (ROOT / name).exists()


def test_its_environment_is_made_of_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = {name: value for name, value in image_environment().items() if name.startswith(PREFIX)}
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    empty = tmp_path / "vecmirror.toml"
    empty.touch()
    server = load_settings(config=empty).settings.server
    assert server.host == "0.0.0.0"
    assert server.data_dir == Path("/var/lib/vecmirror")


def test_the_health_check_asks_the_port_the_server_listens_on() -> None:
    (check,) = (line for line in instructions() if line.startswith("HEALTHCHECK "))
    assert "VECMIRROR_SERVER__PORT" in check
    assert f"'{Settings().server.port}'" in check
    assert "/livez" in check
    settings = Settings()
    assert f"EXPOSE {settings.server.port} {settings.sql.port}" in instructions()
