"""Secrets in texts, errors and logs; variables and passwords in a recipe's sources."""

from __future__ import annotations

import io
import logging
import os
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipelines.admin import doctor
from pipelines.core.cluster import ClusterError, _join
from pipelines.core.redaction import RedactedRecord, redact, redacted_errors
from pipelines.recipe import RecipeError, load, parse
from pipelines.recipe.variables import escape, expand, hide_in_overrides
from pipelines.registry import tracking
from pipelines.sources.download import DownloadError, download

SECRET = "s3cret-Tok3n"
REMOTE = {
    "name": "remote",
    "corpora": [{"name": "calls", "kind": "manifest", "source": "…"}],
    "tasks": {"transcript": {}},
}


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Passwords move into the environment: what a test leaves there is removed."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def recipe_file(folder: Path, source: str) -> str:
    path = folder / "remote.yaml"
    path.write_text(yaml.safe_dump({**REMOTE, "corpora": [{**REMOTE["corpora"][0], "source": source}]}))  # type: ignore[dict-item, index]
    return str(path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:pw@host:5000/x", "http://***@host:5000/x"),
        ("http://token@host/x?page=2", "http://***@host/x?page=2"),
        ("postgresql+psycopg2://ann:p/w?x@host/db", "postgresql+psycopg2://***@host/db"),
        ("http://ann:p@ss@host/x", "http://***@host/x"),
        ("MLflow at http://ann:pw@a and redis://:pw@b:6379/0", "MLflow at http://***@a and redis://***@b:6379/0"),
        ("postgresql://ann:1234@host/db", "postgresql://***@host/db"),
        ("https://host:5000/models/a@champion", "https://host:5000/models/a@champion"),
        ("models:/assistant@champion, s3://bucket/key", "models:/assistant@champion, s3://bucket/key"),
        ("https://h/x?X-Amz-Signature=ab&a=1&X-Amz-Credential=c%2F", "https://h/x?X-Amz-Signature=***&a=1&X-Amz-Credential=***"),
        ("https://h/x?sig=ab%3D&token=t&access_key=k&key=v", "https://h/x?sig=***&token=***&access_key=***&key=***"),
        ("{'Authorization': 'Basic YW5uOnB3', 'a': 1}", "{'Authorization': '***', 'a': 1}"),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("Id AKIAIOSFODNN7EXAMPLE is unknown", "Id *** is unknown"),
        ("connection to host=h password=pw failed", "connection to host=h password=*** failed"),
        ("aws_secret_access_key='wJalrX'", "aws_secret_access_key='***'"),
        ("text about a token, a key = value and a: b@c", "text about a token, a key = value and a: b@c"),
    ],
)  # fmt: skip
def test_secrets_are_replaced_and_the_rest_is_not(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


def test_values_of_secret_variables_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abcdefgh/ijkl")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "short")  # a word that other texts may hold
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/run/identity")
    assert redact("signed by abcdefgh/ijkl, short, /run/identity") == "signed by ***, short, /run/identity"


def test_an_error_and_its_causes_carry_no_secret() -> None:
    url = f"http://ann:{SECRET}@host"
    cause = OSError(2, f"no answer from {url}", f"{url}/x")
    error = ValueError(f"{url} failed", ConnectionError(f"Authorization: Basic {SECRET}"))
    error.add_note(f"asked {url}")
    with pytest.raises(ValueError, match="failed") as raised, redacted_errors():
        raise error from cause
    text = "".join(traceback.format_exception(raised.value))
    assert text.count("http://***@host") == 4
    assert SECRET not in text


def test_logs_carry_no_secret() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    try:
        int(f"{'http://ann'}:pw@host")
    except ValueError as error:
        record = RedactedRecord(
            "a", logging.ERROR, __file__, 1, "at %s", ("http://ann:pw@host",), (ValueError, error, None)
        )
    handler.emit(record)
    assert "pw@host" not in stream.getvalue()
    assert "at http://***@host" in stream.getvalue()


def test_addresses_are_those_of_the_versions_that_stored_sources_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"MOTET_DATA": "/where/the/corpora/lie", "SPEECH_USER": "ann", "SPEECH_TOKEN": SECRET}.items():
        monkeypatch.setenv(name, value)
    shipped = {name: load(name).address() for name in ("an4", "assistant", "assistant-real", "expressive")}
    assert shipped == {
        "an4": "68a677cc5322a17b",
        "assistant": "56997e1214455829",
        "assistant-real": "2db8178badd9efbf",
        "expressive": "bc62ada0e98a24bf",
    }
    by_variable = load(recipe_file(tmp_path, "https://$SPEECH_USER:${SPEECH_TOKEN}@host.example/calls.tar.gz"))
    literal = load(recipe_file(tmp_path, f"https://ann:{SECRET}@host.example/calls.tar.gz"))
    assert by_variable.address() == literal.address() == "d5defab5cb2ff77f"
    monkeypatch.setenv("HOME", "/home/ann")
    homely = parse(
        {**REMOTE, "name": "homely", "corpora": [{"name": "calls", "kind": "manifest", "source": "~/calls.jsonl"}]}
    )
    assert homely.address() == "bc4b8072069f68d8"


@pytest.mark.parametrize(
    "source",
    [
        "https://$SPEECH_USER:${SPEECH_TOKEN}@host/calls.tar.gz",
        f"https://ann:{SECRET}@host/calls.tar.gz",
        f"https://{SECRET}@host/calls.tar.gz",
        f"https://host/calls.tar.gz?X-Amz-Signature={SECRET}&X-Amz-Date=1",
        "https://host/$SPEECH_TOKEN/calls.tar.gz",
    ],
)
def test_a_recipe_as_stored_holds_no_secret_and_opens_the_same(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEECH_USER", "ann")
    monkeypatch.setenv("SPEECH_TOKEN", SECRET)
    recipe = load(recipe_file(tmp_path, source))
    again = load(recipe_file(tmp_path, "x"), hide_in_overrides([f"corpora.calls.source={source}"]))
    for loaded in (recipe, again):
        stored = loaded.to_yaml()
        assert SECRET not in stored
        assert SECRET.encode() not in pickle.dumps(loaded)
        assert SECRET not in str(tracking.flatten(loaded.model_dump(mode="json")))
        assert parse(yaml.safe_load(stored)).corpora[0].location() == expand(source)
    monkeypatch.delenv("SPEECH_TOKEN")
    if "SPEECH_TOKEN" in source:
        with pytest.raises(RecipeError, match="that variable is not set; export SPEECH_TOKEN"):
            load(recipe_file(tmp_path, source))
        with pytest.raises(RecipeError, match="SPEECH_TOKEN, which is not set"):
            recipe.address()


def test_two_recipes_may_name_one_corpus_by_two_passwords(tmp_path: Path) -> None:
    first = load(recipe_file(tmp_path, f"https://ann:{SECRET}1@host/x.tar")).corpora[0]
    second = load(recipe_file(tmp_path, f"https://ann:{SECRET}2@host/x.tar")).corpora[0]
    assert (first.location(), second.location()) == tuple(f"https://ann:{SECRET}{n}@host/x.tar" for n in (1, 2))


def test_dollar_signs_that_are_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASH", "pa$$word$NOT_SET")
    assert expand("$CASH/a$/5$$x") == "pa$$word$NOT_SET/a$/5$x"
    assert expand(escape("a$b")) == "a$b"


def test_a_download_that_fails_tells_no_password() -> None:
    with pytest.raises(DownloadError) as raised:
        download(f"http://ann:{SECRET}@127.0.0.1:9/x.tar?sig={SECRET}")
    text = "".join(traceback.format_exception(raised.value))
    assert "http://***@127.0.0.1:9/x.tar?sig=***" in text
    assert SECRET not in text


def test_servers_that_do_not_answer_are_told_without_their_passwords(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ClusterError, match=r"RAY_ADDRESS=ray://\*\*\*@127.0.0.1:9"):
        _join(f"ray://ann:{SECRET}@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:{SECRET}@127.0.0.1:9")
    monkeypatch.setenv("PREFECT_API_URL", f"http://ann:{SECRET}@127.0.0.1:9/api")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    run = tracking.Run(tracking.tracking_uri("root"), "1", "2")
    with pytest.raises(Exception, match=r"127.0.0.1") as raised:
        run.tag({"a": "b"})
    text = "".join(traceback.format_exception(raised.value))
    assert SECRET not in text + repr(run)
    assert (run.uri, os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("http://***@127.0.0.1:9", SECRET)
    monkeypatch.setattr(doctor, "IMPORTS", {})
    checks = {check.name: check for check in doctor.examine(str(tmp_path / "root"))}
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        assert checks[name].state == doctor.FAIL
        assert "http://***@127.0.0.1:9" in checks[name].observation
    assert SECRET not in str(checks)


def test_a_database_is_connected_to_with_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.registry.connection import connection

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://ann:{SECRET}@host/mlflow")
    assert tracking.tracking_uri("root") == "postgresql://***@host/mlflow"
    assert connection("postgresql://***@host/mlflow") == f"postgresql://ann:{SECRET}@host/mlflow"
    assert connection("sqlite:///a.db") == "sqlite:///a.db"
