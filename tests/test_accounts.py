import sqlite3
import stat
import time
from contextlib import closing

import pytest

from facegallery.accounts import MAX_SESSIONS, Accounts, AuditEntry, Key
from facegallery.embedder.errors import InputError


@pytest.fixture
def accounts(tmp_path):
    found = Accounts(tmp_path / "server.db")
    yield found
    found.close()


def holder(accounts, scope="write", rate=0.0):
    return accounts.holder(accounts.make_key(f"{scope} {rate}", scope, rate))


def test_a_key_is_known_by_its_secret_alone_and_the_file_holds_only_a_hash(accounts, tmp_path):
    secret = accounts.make_key("laptop", "write", 5)
    key = accounts.holder(secret)
    assert (key.name, key.scope, key.rate) == ("laptop", "write", 5)
    assert accounts.holder(secret + "x") is None and accounts.holder("") is None
    assert all(secret.encode() not in path.read_bytes() for path in tmp_path.iterdir())
    assert stat.S_IMODE((tmp_path / "server.db").stat().st_mode) == 0o600
    assert [k["name"] for k in accounts.list_keys()] == ["laptop"] and secret not in str(accounts.list_keys())


def test_scopes_hold_those_before_them():
    for scope, may in {"read": [True, False, False], "write": [True, True, False], "admin": [True] * 3}.items():
        assert [Key("1", "n", scope, 0).may(s) for s in ("read", "write", "admin")] == may


@pytest.mark.parametrize(
    "name, scope, rate",
    [("", "read", 1), ("a" * 101, "read", 1), ("a", "root", 1), ("a", "read", -1), ("a", "read", 0.5)],
)
def test_a_key_that_cannot_be_is_refused(accounts, name, scope, rate):
    with pytest.raises(InputError, match="expected"):
        accounts.make_key(name, scope, rate)


def test_a_name_is_used_once_until_it_is_revoked(accounts):
    secret = accounts.make_key("laptop", "read", 0)
    with pytest.raises(InputError, match="unused"):
        accounts.make_key("laptop", "read", 0)
    session = accounts.begin_session(accounts.holder(secret), 60)
    accounts.revoke("laptop")
    assert accounts.holder(secret) is None and accounts.in_session(session) is None
    with pytest.raises(InputError, match="keys list"):
        accounts.revoke("laptop")
    accounts.make_key("laptop", "read", 0)


def test_the_key_of_a_start_ends_with_the_next(accounts):
    first = accounts.start_key("127.0.0.1:8000")
    others = [accounts.start_key("127.0.0.1:8001"), accounts.start_key("127.0.0.2:8000")]
    second = accounts.start_key("127.0.0.1:8000")
    assert accounts.holder(first) is None and accounts.holder(second).may("admin") and all(map(accounts.holder, others))
    accounts.end_start_key("127.0.0.1:8000")
    assert accounts.holder(second) is None and all(map(accounts.holder, others))


def test_no_key_is_called_as_those_of_starts_are(accounts):
    for name in ("start 8000", "start 127.0.0.1:8000", "start "):
        with pytest.raises(InputError, match="reserved"):
            accounts.make_key(name, "admin", 0)
    assert accounts.holder(accounts.make_key("starter", "read", 0)) and accounts.holder(
        accounts.make_key("start", "read", 0)
    )


def test_a_session_ends_by_time_or_by_hand(accounts):
    key = holder(accounts)
    session, short = accounts.begin_session(key, 60), accounts.begin_session(key, -1)
    assert accounts.in_session(session) == key and accounts.in_session(short) is None
    accounts.end_session(session)
    assert accounts.in_session(session) is None


def test_of_too_many_sessions_of_a_key_the_oldest_end(accounts):
    key, other = holder(accounts), holder(accounts, "read")
    others = accounts.begin_session(other, 60)
    sessions = [accounts.begin_session(key, 60) for _ in range(MAX_SESSIONS + 3)]
    assert [accounts.in_session(session) for session in sessions] == [None] * 3 + [
        key
    ] * MAX_SESSIONS and accounts.in_session(others) == other


def test_a_key_asks_no_more_often_than_it_may(accounts, tmp_path):
    key = holder(accounts, rate=3)
    other = Accounts(tmp_path / "server.db")  # another process
    while time.time() % 1 > 0.5:
        time.sleep(0.01)
    assert [one.count_request(key) for one in (accounts, other, accounts, other, accounts)] == [
        True,
        True,
        True,
        False,
        False,
    ]
    time.sleep(1 - time.time() % 1 + 0.01)
    assert other.count_request(key)
    assert all(accounts.count_request(holder(accounts, "read")) for _ in range(1))
    other.close()


def test_a_write_sent_again_has_its_first_answer(accounts):
    key = holder(accounts)
    assert accounts.begin_write(key, "m", b"asked") == (True, None, None, True)
    assert accounts.begin_write(key, "m", b"asked") == (False, None, None, True)  # is running
    accounts.end_write(key, "m", 200, b"{}")
    assert accounts.begin_write(key, "m", b"asked") == (False, 200, b"{}", True)
    assert accounts.begin_write(key, "m", b"other") == (False, 200, b"{}", False)
    assert accounts.begin_write(holder(accounts, "admin"), "m", b"asked")[0]  # another key's mark
    accounts.begin_write(key, "n", b"asked")
    accounts.end_write(key, "n", None, b"")  # was refused
    assert accounts.begin_write(key, "n", b"asked")[0]


def test_stored_answers_go_when_somebody_is_forgotten(accounts, tmp_path):
    key = holder(accounts)
    accounts.begin_write(key, "m", b"asked")
    accounts.end_write(key, "m", 200, b'{"people": ["Ada Lovelace"]}')
    accounts.drop_answers()
    assert accounts.begin_write(key, "m", b"asked")[:3] == (False, 200, None)
    assert all(b"Lovelace" not in path.read_bytes() for path in tmp_path.iterdir())


def test_a_write_that_runs_while_somebody_is_forgotten_is_done_once_and_its_answer_not_stored(accounts, tmp_path):
    key = holder(accounts)
    accounts.begin_write(key, "m", b"asked")
    accounts.drop_answers()
    assert accounts.begin_write(key, "m", b"asked") == (False, None, None, True)  # is running
    accounts.end_write(key, "m", 200, b'{"people": ["Ada Lovelace"]}')
    assert accounts.begin_write(key, "m", b"asked") == (False, 200, None, True)
    assert all(b"Lovelace" not in path.read_bytes() for path in tmp_path.iterdir())


def test_the_audit_says_who_what_when_and_which_faces(accounts):
    began = time.time()
    accounts.note(AuditEntry("laptop", "enrol", "friends", 200, ["ab" * 16]))
    accounts.note(AuditEntry("laptop", "forget", "friends", 404))
    newest, oldest = accounts.audit(10)
    assert (oldest["key"], oldest["what"], oldest["index"], oldest["status"], oldest["faces"]) == (
        "laptop",
        "enrol",
        "friends",
        200,
        ["ab" * 16],
    )
    assert began <= oldest["time"] <= newest["time"] <= time.time() and newest["what"] == "forget"
    assert len(accounts.audit(1)) == 1


def test_one_job_of_a_kind_runs_and_a_lost_one_has_failed(accounts, tmp_path):
    first = accounts.begin_job("friends", "compact")
    assert accounts.begin_job("friends", "compact") is None
    assert accounts.begin_job("friends", "calibrate") and accounts.begin_job("others", "compact")
    accounts.report_job(first, 3, 10)
    assert accounts.job(first) | {"began": 0} == {
        "id": first,
        "index": "friends",
        "kind": "compact",
        "state": "running",
        "done": 3,
        "total": 10,
        "began": 0,
        "ended": None,
        "detail": None,
        "result": None,
    }
    accounts.end_job(first, "done", "generation 2", '{"generation": 2}')
    assert accounts.job(first)["state"] == "done" and accounts.job(first)["result"] == {"generation": 2}
    assert accounts.job("0" * 16) is None
    second = accounts.begin_job("friends", "compact")
    with closing(sqlite3.connect(tmp_path / "server.db")) as db, db:
        db.execute("UPDATE jobs SET process = '4194305.1' WHERE id = ?", (second,))  # above any process number
    db.close()
    assert accounts.job(second)["state"] == "failed" and "ended" in accounts.job(second)["detail"]
    assert accounts.begin_job("friends", "compact")


def test_a_file_of_an_earlier_version_is_opened(tmp_path):
    Accounts(tmp_path / "server.db").close()
    with closing(sqlite3.connect(tmp_path / "server.db")) as db, db:
        db.execute("ALTER TABLE jobs DROP COLUMN result")
    db.close()
    with closing(Accounts(tmp_path / "server.db")) as accounts:
        accounts.end_job(id := accounts.begin_job("friends", "compact"), "done", "generation 2", "[1]")
        assert accounts.job(id)["result"] == [1]
