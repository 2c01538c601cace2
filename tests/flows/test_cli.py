"""What a person types wrong is said in one line, with exit code 2, and leaves nothing behind."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
import torch

from flows import cli
from flows.commands import doctor, inspect
from flows.environment import prepare_prefect
from params.base import BadInput
from tasks.core.errors import StageFailure
from tests.flows.conftest import ROOT, Workspace
from tests.tasks.report.synthetic_run import SyntheticRun

NANO = ["run", "--model", "nano", "--engine", "transformers"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*NANO, "--method", "grop"], "did you mean 'grpo'?"),
        ([*NANO, "--set", "update.learning_rte=1"], "did you mean 'learning_rate'?"),
        ([*NANO, "--set", "rollout.samples_per_problem=1"], "greater than or equal to 2"),
        ([*NANO, "--set", "method.objective.name=grop"], "did you mean 'grpo'?"),
        ([*NANO, "--set", "method.objective.clip_hihg=1"], "did you mean 'clip_high'?"),
        ([*NANO, "--set", "task.problems.levle=2"], "did you mean 'level'?"),
        ([*NANO, "--set", "update.tokens_per_micro_batch=16"], "cannot hold a sequence"),
        ([*NANO, "--name", "Not/Good"], "expected lower-case letters"),
        ([*NANO, "--nmae", "x"], "No such option"),
        (["run", "--model", "nano", "--engine", "vlm"], "engine.name"),
        (["stage", "rolout"], "did you mean 'rollout'?"),
        (["dvc", "--set", "task.problems.levle=2"], "did you mean 'level'?"),
        (["dvc", "--model", "./nowhere"], "model.source: ./nowhere: no such folder"),
        (["status", "nothing"], "no such run"),
        (["report", "nothing"], "no such run"),
        (["show", "nothing"], "no such artefact"),
        (["export", "nothing", "--merged", "out"], "no such run"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, refused: Callable[[list[str], str], None]
) -> None:
    refused(arguments, said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "data.jsonl: no such file (task.problems)"),
        ('{"question": "a", "answer": "1"}\n{"question": "b"}\n', "data.jsonl:2: no 'answer'"),
        ('{"frage": "a", "answer": "1"}\n', "data.jsonl:1: no 'question'"),
        ('{"question": "a", "answer": "1"}\n', "1 distinct questions; expected"),
        ('{"question": "a", "answer": "#### "}\n', "data.jsonl:1: 'answer': nothing follows '####'"),
    ],
)
def test_wrong_data_is_told_before_anything_runs(
    content: str | None,
    said: str,
    tmp_path_factory: pytest.TempPathFactory,
    refused: Callable[[list[str], str], None],
) -> None:
    file = tmp_path_factory.mktemp("data") / "data.jsonl"
    if content is not None:
        file.write_text(content)
    problems = f"task.problems={{name: jsonl, path: {file}}}"
    refused([*NANO, "--set", problems], said)


def test_a_folder_that_is_no_model_leaves_nothing_half_written(prepared: Workspace) -> None:
    folder = prepared.root / "empty-model"
    folder.mkdir()
    before = set(prepared.root.glob("artefacts/*"))
    refused = prepared.call(
        "run", "--model", str(folder), "--engine", "transformers", "--name", "bad", code=2
    )
    assert "expected a Hugging Face model folder" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert set(prepared.root.glob("artefacts/*")) - before <= set(prepared.root.glob("artefacts/problems-*"))


@pytest.mark.parametrize("port_open", [False, True])
def test_a_server_that_is_not_prefects_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port_open: bool
) -> None:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    thread = Thread(target=server.handle_request)
    thread.start() if port_open else server.server_close()
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
    with pytest.raises(
        BadInput, match=r"PREFECT_API_URL=http://127.0.0.1:\d+/api: no Prefect server answers"
    ):
        prepare_prefect(tmp_path)
    if port_open:
        thread.join()
        server.server_close()


def test_an_address_is_told_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.commands.train_command import _server_lost

    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["Authorization"])
            self.send_response(401)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://me:hush-hush@127.0.0.1:{server.server_port}/api")
        with pytest.raises(BadInput, match=r"=http://127\.0\.0\.1:\d+/api: no Prefect") as refusal:
            prepare_prefect(tmp_path)
        thread.join()
    assert "hush" not in str(refusal.value)
    assert asked == [f"Basic {base64.b64encode(b'me:hush-hush').decode()}"]
    assert "hush" not in str(doctor._prefect())
    with pytest.raises(StageFailure, match=r"^http://127\.0\.0\.1:") as lost, _server_lost():
        raise httpx.ConnectError("gone")
    assert "hush" not in str(lost.value)


@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("http://[::1]:4200/api", ("::1", 4200)),
        ("https://prefect.example/api", ("prefect.example", 443)),
        ("http://me:hush@prefect.example/api", ("prefect.example", 80)),
    ],
)
def test_doctor_asks_a_prefect_server_where_it_is(
    monkeypatch: pytest.MonkeyPatch, address: str, where: tuple[str, int]
) -> None:
    asked = []

    def connect(to: tuple[str, int], timeout: float) -> contextlib.nullcontext[None]:
        asked.append(to)
        return contextlib.nullcontext()

    monkeypatch.setenv("PREFECT_API_URL", address)
    monkeypatch.setattr(socket, "create_connection", connect)
    assert doctor._prefect().state == "good"
    assert asked == [where]
    monkeypatch.setenv("PREFECT_API_URL", "http://host:nowhere/api")
    assert doctor._prefect().state == "missing"


def test_what_others_are_told_of_a_failure_holds_our_own_words_alone() -> None:
    from prefect.states import Failed

    from flows.prefect_hooks import _why

    def of(error: Exception | None, message: str) -> str:
        return _why(Failed(data=error, message=message))

    said = "Flow run encountered an exception: "
    assert of(BadInput("no such\n task"), f"{said}BadInput: ...") == "no such task"
    assert "hush" not in of(ValueError("key hush"), f"{said}ValueError: key hush")
    assert of(None, f"{said}ValueError: key hush") == "Flow run encountered an exception"
    assert of(None, "Flow run process exited with code -9.") == "Flow run process exited with code -9."


def test_one_unreadable_record_hides_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OSTINATO_HOME", str(tmp_path))
    SyntheticRun(tmp_path / "runs" / "good", rounds=1).write()
    torn = tmp_path / "runs" / "torn" / "run.json"
    torn.parent.mkdir()
    torn.write_text('{"name": ')
    inspect.list_runs(as_json=True)
    runs = {run["name"]: run["state"] for run in json.loads(capsys.readouterr().out)["runs"]}
    assert runs == {"torn": f"{torn}: not a run record (1 errors)", "good": "finished"}
    inspect.list_runs(as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "finished" in shown
    assert "not a run record" in shown


def test_episodes_are_written_where_there_is_a_place(tmp_path: Path) -> None:
    rollout = str(SyntheticRun(tmp_path / "it", rounds=1).write() / "round-01" / "rollout")
    with pytest.raises(BadInput, match=r"--out .*/nowhere/x\.jsonl: no such directory"):
        inspect.show_episodes(rollout, 1, tmp_path / "nowhere" / "x.jsonl")
    inspect.show_episodes(rollout, 1, tmp_path / "x.jsonl")
    with pytest.raises(BadInput, match="exists already"):
        inspect.show_episodes(rollout, 1, tmp_path / "x.jsonl")


def test_status_tells_what_is_done_damaged_and_to_do(copied: Workspace) -> None:
    told = copied.call("status", "it").stdout
    assert "damaged" not in told
    path = copied.root / "runs" / "it" / "round-01" / "update" / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    stages = json.loads(copied.call("status", "it", "--json").stdout)["stages"]
    assert {s["place"] for s in stages if s["state"] == "damaged"} == {"round-01/update"}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()  # the cache shares it
    path.write_bytes(bytes(content))


def garble(path: Path) -> None:
    path.write_bytes(b"\xff\n")


def occupy(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("harm", "file", "command", "said"),
    [
        (
            flip,
            "round-02/update/metrics.json",
            "report it",
            "metrics.json: its bytes do not match its digest",
        ),
        (flip, "round-02/evaluate/manifest.json", "report it", "manifest.json: "),
        (occupy, "run.json", "report it", "run.json: is a directory"),
        (occupy, "report.html", "report it", "report.html: is a directory"),
        (
            Path.unlink,
            "round-02/update/manifest.json",
            "export it --merged out",
            "manifest.json: missing; `ost",
        ),
        (
            flip,
            "model/model.safetensors",
            "export it --merged out",
            "its bytes do not match its digest; `ostin",
        ),
        (flip, "run.json", "export it --merged out", "run.json: "),
        (Path.unlink, "round-02/update/state.json", "show it/round-02/update", "state.json: missing; "),
        (flip, "run.json", "status it", "run.json: "),
        (garble, "steps.jsonl", "status it", "steps.jsonl: not a run record"),
        (flip, "round-01/rollout/metrics.json", "push it --remote s3://bucket/x", "digest; `ostinato run"),
    ],
)
def test_what_is_damaged_is_one_line(
    copied: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    harm: Callable[[Path], None],
    file: str,
    command: str,
    said: str,
) -> None:
    harm(copied.root / "runs" / "it" / file)
    monkeypatch.setenv("OSTINATO_HOME", str(copied.root))
    monkeypatch.chdir(copied.root)
    with pytest.raises(SystemExit) as stopped:
        cli.main(command.split())
    err = capfd.readouterr().err
    assert stopped.value.code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not (copied.root / "out").exists()


def test_show_leads_back_to_the_problems(finished: Workspace) -> None:
    told = finished.call("show", "it/round-02/update").stdout
    for word in ("rollout", "problems", "model", "round 1", "learning_rate", "optimizer.safetensors"):
        assert word in told


def test_one_stage_runs_by_itself_and_is_a_hit(copied: Workspace) -> None:
    import yaml

    params = json.loads((copied.root / "runs" / "it" / "run.json").read_text())["params"]
    (copied.root / "params.yaml").write_text(yaml.safe_dump(params))
    where = ("--run", "it", "--params", str(copied.root / "params.yaml"))
    assert "cached" in copied.call("stage", "update", "--round", "2", *where).stdout
    refused = copied.call("stage", "update", "--round", "9", *where, code=2)
    assert "update does not run then" in refused.stderr


@pytest.mark.long
@pytest.mark.ci
def test_export_writes_a_plain_folder(copied: Workspace) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target = copied.root / "merged"
    assert "loaded again" in copied.call("export", "it", "--merged", str(target)).stdout
    assert (target / "README.md").is_file()
    AutoTokenizer.from_pretrained(target)
    AutoModelForCausalLM.from_pretrained(target)
    exact = copied.root / "exact"
    copied.call("export", "it", "--merged", str(exact), "--dtype", "float32")
    assert AutoModelForCausalLM.from_pretrained(exact).dtype == torch.float32
    refused = copied.call("export", "it", "--merged", str(target), code=2)
    assert "exists already" in refused.stderr


def test_doctor_examines_this_machine(finished: Workspace) -> None:
    findings = json.loads(finished.call("doctor", "--json").stdout)
    assert {"Python", "torch", "vLLM", "Prefect server"} <= {finding["what"] for finding in findings}
    assert all(finding["state"] != "missing" for finding in findings)


def test_a_run_from_cache_opens_no_model_library() -> None:
    """Of the parts that every run loads, those that look at finished stages included."""
    loads = (
        "import sys, flows.cli, flows.commands.train_command\n"
        "from flows.stage_table.stages import stage_table\n"
        "from flows.stage_table.stage_def import _named\n"
        "[_named(row.refuses) for row in stage_table().values() if row.refuses]\n"
        "print(sorted({'transformers', 'vllm', 'peft', 'datasets'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", loads], capture_output=True, text=True, check=True, cwd=ROOT)
    assert said.stdout == "[]\n", said.stdout
