"""The reward ``model``: choices and scores, retries, failures that are null, verdicts kept by content."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from params.base import BadInput, Choice
from params.task import Task
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.store import Store
from tasks.artefacts.tables import read_table
from tasks.core.context import Context
from tasks.core.stage import Job
from tasks.rewards.base import Answer, Group, Verdict
from tasks.rewards.chat_server import ChatServer, Unanswered
from tasks.rewards.contract import chosen_reward
from tasks.rewards.judge import Judge
from tasks.rewards.kept import KeptVerdicts
from tasks.rewards.model import Config, _read
from tasks.rewards.opened import opened
from tests.conftest import as_artefact
from tests.raw_server import Say, deep, drip, drip_head
from tests.raw_server import server as raw_server
from tests.tasks.rewards.judge_server import JudgeServer, judge_server
from tests.tasks.rollout_rows import parameters

KEY = "sk-never-to-be-seen-123"
TEMPLATE = "{question} | {gold} | ANSWER: {answer}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}\n")
    with judge_server() as found:
        yield found


def choice(of: JudgeServer, /, **more: object) -> Choice:
    options = {"name": "model", "server": of.address, "model": "judge", "template": TEMPLATE}
    return Choice.model_validate({**options, "key_from": "JUDGE_KEY", "wait_seconds": 0.01, **more})


def said(chosen: Choice, texts: list[str], kept: KeptVerdicts | None = None) -> list[Verdict]:
    judge = Judge(chosen, kept=kept)
    try:
        return judge.judge_groups([Group("4", tuple(map(Answer, texts)), "2+2")])[0]
    finally:
        judge.close()


def test_choices(server: JudgeServer) -> None:
    found = said(choice(server), ["right", "wrong", "say YES!", "say yesterday"])
    assert [verdict.reward for verdict in found] == [1.0, 0.0, 1.0, None]
    assert found[0].notes == {"reply": "It agrees. Yes."}
    assert found[3].error == "judge said 'yesterday'; expected yes or no"
    body = server.asked[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("judge", 0.0, 512)
    assert set(server.keys) == {f"Bearer {KEY}"}


def test_scores(server: JudgeServer) -> None:
    chosen = choice(server, score=[0, 10], system="You grade.")
    found = said(chosen, ["say 7 of 10? No: 5", "say 10", "say -1", "say 11", "say nothing"])
    assert [verdict.reward for verdict in found] == [0.5, 1.0, None, None, None]
    assert found[4].error == "judge said 'nothing'; expected a score from 0 to 10"
    assert server.asked[0]["messages"][0] == {"role": "system", "content": "You grade."}


def test_a_reply_that_was_cut_is_no_verdict(server: JudgeServer) -> None:
    (found,) = said(choice(server), ["cut At first sight no, but yes"])
    assert found == Verdict(None, f"{server.address}: a reply that was cut; expected a larger max_tokens")
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        ("Score: 8/10", 0.8),
        ("**8** / 10.", 0.8),
        ("3 out of 10", 0.3),
        ("7 of 10", 0.7),
        ("8 (scale 0-10)", 0.8),
        ("On a scale from 0 to 10.0: 6.5", 0.65),
        ("6.5 (0 \u2013 10)", 0.65),
        ("a score of 10", 1.0),
        ("10/10", 1.0),
        ("between 0 and 10: 4", 0.4),
        ("0-10 is the scale", None),
        ("8/100", None),
    ],
)
def test_the_scale_is_no_score(reply: str, reward: float | None) -> None:
    config = Config(server="http://127.0.0.1:1", model="judge", score=(0, 10))
    assert _read(reply, config).reward == reward


def test_fields_of_the_template_are_filled_once(server: JudgeServer) -> None:
    said(choice(server), ["say yes {gold} {question}"])
    assert server.asked[0]["messages"][-1]["content"] == "2+2 | 4 | ANSWER: say yes {gold} {question}"


def test_busy_servers_are_asked_again_and_failures_are_null(server: JudgeServer) -> None:
    found = said(choice(server, tries=3), ["busy 2", "busy 9", "broken", "html", "moved", "right"])
    assert [verdict.reward for verdict in found] == [1.0, None, None, None, None, 1.0]
    name = server.address
    assert [verdict.error for verdict in found[1:5]] == [
        f"{name}: 429: slow down",
        f"{name}: 500: out of order",
        f"{name}: no chat completion but <html>hello</html>",
        f"{name}: 302: nothing",
    ]
    asked = [body["messages"][-1]["content"].rpartition(": ")[2] for body in server.asked]
    assert [asked.count(text) for text in ("busy 2", "busy 9", "broken", "html", "moved")] == [3, 3, 3, 1, 1]


def test_a_key_is_never_shown(server: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    found = said(choice(server), ["refused", "unknown"])
    assert found[0].error == f"{server.address}: 401: expected a key that it takes"
    assert found[1].error == f"{server.address}: 404: no such model; you sent Bearer ***"
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}\r\nX-More: 1")
    (told,) = said(choice(server), ["right"])
    assert told == Verdict(None, f"{server.address}: the key is no plain text; expected one line of ASCII")


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        chosen = Choice.model_validate(
            {"name": "model", "server": address, "model": "m", "tries": 2, "wait_seconds": 0.01}
        )
        (found,) = said(chosen, ["right"])
    assert found.reward is None
    assert "Connection refused" in str(found.error)


@pytest.mark.parametrize("say", [drip, drip_head])
def test_a_reply_that_comes_byte_by_byte_is_given_up(say: Say) -> None:
    with raw_server(say) as address, pytest.raises(Unanswered, match=r"no reply within 0\.5 s"):
        ChatServer(address, None, 0.5).reply({"messages": []})


def test_a_reply_that_is_too_deep_is_no_completion() -> None:
    with raw_server(deep) as address, pytest.raises(Unanswered, match=r"no chat completion but \[\[\["):
        ChatServer(address, None, 30).reply({"messages": []})


def test_requests_are_bounded(server: JudgeServer) -> None:
    server.seconds = 0.1
    assert [v.reward for v in said(choice(server, parallel=3), ["right"] * 9)] == [1.0] * 9
    assert 1 < server.most_at_once <= 3


def test_verdicts_are_kept_by_content(server: JudgeServer, tmp_path: Path) -> None:
    first = said(choice(server), ["right", "wrong", "right", "broken"], KeptVerdicts(Store(tmp_path)))
    assert first[2] == first[0]
    count = len(server.asked)
    assert count == 2 + 5
    again = said(choice(server, parallel=1), ["wrong", "right", "busy 0"], KeptVerdicts(Store(tmp_path)))
    assert [verdict.reward for verdict in again] == [0.0, 1.0, 1.0]
    assert again[1] == first[0]
    assert len(server.asked) == count + 1
    said(choice(server, model="other"), ["right"], KeptVerdicts(Store(tmp_path)))
    assert len(server.asked) == count + 2
    with judge_server() as elsewhere:
        said(choice(elsewhere), ["right"], KeptVerdicts(Store(tmp_path)))
        assert len(elsewhere.asked) == 1
    artefacts = sorted((tmp_path / "artefacts").glob("verdicts-*"))
    assert len(artefacts) == 4
    tables = [read_table(Artefact.open(path).file("verdicts.parquet")) for path in artefacts]
    rows = [row for table in tables for row in table.to_pylist()]
    assert sorted(row["reward"] for row in rows) == [0.0, 1.0, 1.0, 1.0, 1.0]
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in everything


def test_nonsense_is_told_before_anything_is_sampled(server: JudgeServer, tmp_path: Path) -> None:
    server.always = "say perhaps"
    (tmp_path / "problems").mkdir()
    (tmp_path / "problems" / "x").touch()
    job = Job(
        parameters(),
        1,
        {"problems": as_artefact(tmp_path / "problems", "problems")},
        tmp_path,
        Context(tmp_path, store=Store(tmp_path)),
    )
    task = Task(problems=Choice(name="sums"), reward=choice(server))
    with pytest.raises(BadInput, match=r"task\.reward: judge said 'perhaps'; expected yes or no"):
        opened(task, job, [Group("4", (), "2+2")])
    server.always = "right"
    opened(task, job, [Group("4", (), "2+2")]).close()
    count = len(server.asked)
    opened(task, job, [Group("4", (), "2+2")]).close()
    assert len(server.asked) == count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "good?"}, r"task\.reward\.template: no \{answer\} in it"),
        ({"server": "127.0.0.1:8000"}, "is no address; expected http://HOST:PORT"),
        ({"server": "http://me:secret@host"}, "an address with a password; expected the key in key_from"),
        ({"choices": {"yes": 1.0}}, "expected two words at least"),
        ({"score": [0, 1], "choices": {"yes": 1, "no": 0}}, "expected choices or a score, and not both"),
        ({"score": [1, 1]}, "expected the least score before the greatest"),
    ],
)
def test_bad_options(server: JudgeServer, options: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        chosen_reward(choice(server, **options), "task.reward")
