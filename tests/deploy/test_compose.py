"""The Compose files, read by Compose's own parser, and the settings they give."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from server.settings import PREFIX, Settings, load_settings

DEPLOY = Path(__file__).parents[2] / "deploy"
BASE, GPU = DEPLOY / "compose.yaml", DEPLOY / "compose.gpu.yaml"
OURS = ("server", "sidecar")
SECRETS = {
    "admin_key": "one-admin-key\n",
    "read_key": "one-read-key\nanother\n",
    "source_dsn": "postgresql://vecmirror:secret@postgres:5432/app\n",
}


def compose(*files: Path, command: str = "config", **variables: str) -> Any:
    """Run Compose's ``config`` over the files; return the finished process."""
    arguments = [argument for file in files for argument in ("-f", str(file))]
    home = {"HOME": os.environ.get("HOME", "/"), "PATH": os.environ["PATH"]}
    return subprocess.run(
        [Path(sys.executable).parent / "docker-compose", *arguments, *command.split()],
        env={**home, "COMPOSE_DISABLE_ENV_FILE": "1", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def rendered(*files: Path, **variables: str) -> Any:
    """Return the merged project as Compose understands it."""
    done = compose(*files, command="config --format json", SECRETS_DIR="/secrets", **variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("files", [(BASE,), (BASE, GPU)], ids=["base", "gpu"])
def test_compose_accepts_the_files(files: tuple[Path, ...]) -> None:
    done = compose(*files, command="config -q", SECRETS_DIR="/secrets")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_compose_refuses_a_key_it_does_not_know(tmp_path: Path) -> None:
    changed = tmp_path / "compose.yaml"
    changed.write_text(BASE.read_text().replace("read_only: true", "readonly: true"))
    done = compose(changed, command="config -q", SECRETS_DIR="/secrets")
    assert done.returncode != 0
    assert "readonly" in done.stderr


@pytest.mark.parametrize("files", [(BASE,), (BASE, GPU)], ids=["base", "gpu"])
def test_without_secrets_nothing_starts(files: tuple[Path, ...]) -> None:
    done = compose(*files, command="config -q")
    assert done.returncode != 0
    assert "SECRETS_DIR" in done.stderr
    assert "docs/deploy.md" in done.stderr


def test_every_service_is_confined() -> None:
    for name, service in rendered(BASE)["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "/tmp" in service["tmpfs"], name
        assert "privileged" not in service, name
        assert "user" not in service or service["user"] != "0", name
        for port in service.get("ports", ()):
            assert port["host_ip"] == "127.0.0.1", name


def test_a_server_that_ends_by_itself_is_started_again() -> None:
    """A lost card ends it with status 75: docs/gpu.md."""
    for files in ((BASE,), (BASE, GPU)):
        services = rendered(*files)["services"]
        assert {services[name]["restart"] for name in OURS} == {"unless-stopped"}


def test_the_sidecar_waits_for_both_ends() -> None:
    services = rendered(BASE)["services"]
    waits = {name: how["condition"] for name, how in services["sidecar"]["depends_on"].items()}
    assert waits == {"postgres": "service_healthy", "server": "service_healthy"}
    assert "healthcheck" in services["postgres"]
    assert "depends_on" not in services["server"]


def test_postgres_streams_changes_and_bounds_what_it_keeps() -> None:
    command = rendered(BASE)["services"]["postgres"]["command"]
    assert "-cwal_level=logical" in command
    assert any(option.startswith("-cmax_slot_wal_keep_size=") for option in command)


def test_server_and_sidecar_run_from_one_image() -> None:
    for files, accel in (((BASE,), "cpu"), ((BASE, GPU), "cuda13")):
        services = rendered(*files)["services"]
        assert {services[name]["image"] for name in OURS} == {f"vecmirror:{accel}"}
        assert services["server"]["build"]["args"]["ACCEL"] == accel
        assert "build" not in services["sidecar"]
        assert [services[name]["command"] for name in OURS] == [["serve"], ["sync"]]


def test_accel_chooses_another_cuda() -> None:
    services = rendered(BASE, GPU, ACCEL="cuda12")["services"]
    assert {services[name]["image"] for name in OURS} == {"vecmirror:cuda12"}
    assert services["server"]["build"]["args"]["ACCEL"] == "cuda12"


def test_only_the_server_gets_a_gpu() -> None:
    services = rendered(BASE, GPU)["services"]
    (device,) = services["server"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])
    assert "deploy" not in services["sidecar"]
    assert services["sidecar"]["environment"]["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "deploy" not in rendered(BASE)["services"]["server"]


def test_secrets_come_as_files() -> None:
    project = rendered(BASE)
    for service in project["services"].values():
        granted = {secret["target"] for secret in service["secrets"]}
        named = {v for v in service["environment"].values() if v.startswith("/run/secrets/")}
        assert named == granted
        for variable in service["environment"]:
            if any(word in variable for word in ("PASSWORD", "KEY", "DSN")):
                assert variable.endswith("_FILE")


@pytest.mark.parametrize("service", OURS)
def test_the_settings_of_a_service_are_accepted(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in SECRETS.items():
        (tmp_path / name).write_text(text)
    environment: dict[str, str] = rendered(BASE, GPU)["services"][service]["environment"]
    ours = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
    for name, value in ours.items():
        monkeypatch.setenv(name, value.replace("/run/secrets", str(tmp_path)))
    loaded = load_settings(config=DEPLOY / "vecmirror.toml")

    given = {name.removesuffix("_FILE") for name in ours}
    came_from_environment = {
        PREFIX + key.replace(".", "__").upper()
        for key, origin in loaded.origins.items()
        if origin.startswith("environment")
    }
    assert came_from_environment == given
    assert loaded.settings.source.dsn is not None
    assert loaded.settings.source.dsn.get_secret_value() == SECRETS["source_dsn"].strip()
    if service == "server":
        keys = [key.get_secret_value() for key in loaded.settings.auth.read_keys]
        assert keys == ["one-read-key", "another"]
    else:
        assert loaded.settings.sync.server_url == "http://server:8410"


def test_the_example_file_shows_the_defaults(tmp_path: Path) -> None:
    lines = (DEPLOY / "vecmirror.toml").read_text().splitlines()
    shown = [line.removeprefix("# ") for line in lines if " = " in line and "_file" not in line]
    sections = [line for line in lines if line.startswith("[")]
    assert [section.strip("[]") for section in sections] == list(Settings.model_fields)

    live = tmp_path / "vecmirror.toml"
    live.write_text("\n".join(_uncommented(lines)))
    loaded = load_settings(config=live)
    assert loaded.settings == Settings()
    assert len(loaded.origins) == len(shown) >= len(sections)


def test_the_example_file_names_secret_files_that_are_settings(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a-secret")
    lines = (DEPLOY / "vecmirror.toml").read_text().splitlines()
    named = [line.removeprefix("# ").split(" = ")[0] for line in lines if "_file = " in line]
    live = tmp_path / "vecmirror.toml"
    text = "\n".join(_uncommented(lines, secrets_too=True))
    live.write_text(
        "\n".join(
            f'{line.split(" = ")[0]} = "{secret}"' if "_file = " in line else line
            for line in text.splitlines()
        )
    )
    loaded = load_settings(config=live)
    from_files = [key for key, origin in loaded.origins.items() if f"({secret})" in origin]
    assert [f"{key.partition('.')[2]}_file" for key in from_files] == named


def _uncommented(lines: list[str], *, secrets_too: bool = False) -> list[str]:
    """Return the section heads and the settings, the latter without their comment marks."""
    settings = [
        line.removeprefix("# ")
        for line in lines
        if line.startswith("[") or (line.startswith("# ") and " = " in line.split("#")[1])
    ]
    return [line for line in settings if secrets_too or "_file = " not in line]
