"""A backup is taken from a running service and restored into an empty server, which answers as before."""

import io
import json
import zipfile
from pathlib import Path
from uuid import uuid4

import httpx

from app.store import EmbeddedPostgres
from tests.support.api import Json, client_for, serving
from tests.support.commands import run_command
from tests.support.postgres import migrated_database
from tests.support.worker import working
from tests.system.test_two_processes import define, refitted

USERS = ("u0", "u3", "newcomer")
COACHING = {
    "kind": "mdp",
    "states": ["tired", "fit"],
    "actions": ["rest", "train"],
    "horizon": 2,
    "rank": 1,
    "transitions": [[s, a, a, 1.0] for s in range(2) for a in range(2)],
}


def test_a_restored_backup_gives_every_answer_as_before(server_url: str, tmp_path: Path) -> None:
    file = tmp_path / "everything.backup"
    with (
        migrated_database(server_url, f"psharelora_test_{uuid4().hex}") as url,
        working(url),
        serving(url) as address,
        client_for(address) as api,
    ):
        fill(api)
        key = api.post("/v1/admin/keys", json={"name": "shop", "scopes": ["read"]}).json()["secret"]
        before = everything(api, key)
        made = run_command(tmp_path, "backup", str(file), "--json", PSHARELORA_DATABASE_URL=url)
        assert made.returncode == 0, made.stderr
        api.delete("/v1/environments/shop/users/u3").raise_for_status()
        later = run_command(tmp_path, "audit", "--json", PSHARELORA_DATABASE_URL=url)
    rows = json.loads(made.stdout)["rows"]
    assert (rows["environments"], rows["preferences"], rows["api_keys"]) == (2, 80, 1)
    assert file.stat().st_mode & 0o077 == 0
    restored = run_command(tmp_path, "restore", str(file))
    assert restored.returncode == 0, restored.stderr
    assert "2 environments, 12 users, 80 preferences, 2 models, 1 api keys" in restored.stdout
    # The embedded server of this folder, which was not there before.
    with (
        EmbeddedPostgres(tmp_path / ".psharelora") as url,
        working(url),
        serving(url) as address,
        client_for(address) as api,
    ):
        assert everything(api, key) == before
        said = {"user": "u0", "chosen": {"item": "i21"}, "rejected": {"item": "i01"}}
        assert api.post("/v1/environments/shop/preferences", json=said).status_code == 201
        assert refitted(api, "shop")["model_version"] == 2
        refused = run_command(tmp_path, "restore", str(file))
        assert refused.returncode == 1
        assert "other connections use the database: stop serve and worker first" in refused.stderr
    erased_again(file, tmp_path, later.stdout)


def erased_again(file: Path, folder: Path, later: str) -> None:
    """Who was erased after the backup is in it, and not in what is restored by it and the newer log."""
    log = folder / "audit.json"
    log.write_text(later)
    restored = run_command(folder, "restore", str(file), "--force", "--erased", str(log), "--json")
    assert restored.returncode == 0, restored.stderr
    assert json.loads(restored.stdout)["erased_again"] == 1
    log.write_text("[{}]")
    refused = run_command(folder, "restore", str(file), "--force", "--erased", str(log))
    assert "is not what `psharelora audit --json` prints" in refused.stderr


def fill(api: httpx.Client) -> None:
    define(api, "shop")
    api.put("/v1/environments/coaching", json=COACHING).raise_for_status()
    courses = {"hard": [["fit", "train"], ["fit", "train"]], "soft": [["tired", "rest"], ["tired", "rest"]]}
    for number in range(7):
        chosen, rejected = ("hard", "soft") if number % 3 else ("soft", "hard")
        said = {
            "user": f"u{number % 3}",
            "chosen": {"trajectory": courses[chosen]},
            "rejected": {"trajectory": courses[rejected]},
        }
        api.post("/v1/environments/coaching/preferences", json=said).raise_for_status()
    for name in ("shop", "coaching"):
        assert refitted(api, name)["state"] == "succeeded"
    # What no model has learnt from yet is in the answers too.
    late = {"user": "newcomer", "chosen": {"item": "i00"}, "rejected": {"item": "i22"}, "id": "late"}
    api.post("/v1/environments/shop/preferences", json=late).raise_for_status()


def everything(api: httpx.Client, key: str) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for name in ("shop", "coaching"):
        here = f"/v1/environments/{name}"
        state = {"state": "fit"} if name == "coaching" else {}
        paths = [here, f"/v1/admin/environments/{name}/models", f"/v1/admin/environments/{name}/models/1"]
        paths += [f"{here}/activity", f"{here}/users"]
        paths += [f"{here}/items"] if name == "shop" else []
        for user in USERS:
            own = f"{here}/users/{user}"
            paths += [own, f"{own}/export", f"{own}/queries?n=2", f"{own}/explain", f"{own}/adapter"]
            paths += [f"{own}/policy"] if name == "coaching" else []
            found |= {
                f"{own}/{call}": answered(api.post(f"{own}/{call}", json=body))
                for call, body in {
                    "actions": {**state, "seed": 7},
                    "actions/batch": {"places": [state], "seed": 7},
                    "actions/explanation": state,
                    **({"slates": {"size": 3, "seed": 7}} if name == "shop" else {}),
                }.items()
            }
        found |= {path: answered(api.get(path)) for path in paths}
    options = [{"item": f"i{x}{y}"} for x in range(3) for y in range(3)]
    for call in ("rewards", "rank"):
        for user in USERS:
            path = f"/v1/environments/shop/users/{user}/{call}"
            found[path] = answered(api.post(path, json={"options": options}))
        path = f"/v1/environments/shop/{call}"
        found[path] = answered(api.post(path, json={"users": USERS, "options": options}))
    found["keys"] = api.get("/v1/admin/keys").json()
    with httpx.Client(base_url=api.base_url, headers={"Authorization": f"Bearer {key}"}, trust_env=False) as keyed:
        found["with the key"] = answered(keyed.get("/v1/environments"))
    return found


def answered(response: httpx.Response) -> Json:
    assert response.status_code == 200, response.text
    if response.headers["content-type"] != "application/zip":
        return {"answer": response.text}
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        return {name: parts_of(name, archive.read(name)) for name in archive.namelist()}


def parts_of(name: str, content: bytes) -> Json | str:
    """Of a file of tensors, its header, whose entries come in any order, and the tensors."""
    if not name.endswith(".safetensors"):
        return content.decode()
    begin = 8 + int.from_bytes(content[:8], "little")
    return {"header": json.loads(content[8:begin]), "tensors": content[begin:].hex()}
