"""What is hidden, in whatever form it comes, and what stays as it is."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from nbft import registry
from nbft.config import Config, settings
from nbft.errors import ConfigError, Problem
from nbft.redaction import HIDDEN, is_secret_name, redact, redact_text, redact_tokens, restore

WORD = "s3cret"
TOKENS = [
    "hf_" + "a1B2c3D4" * 4,
    "sk-" + "a1B2" * 12,
    "sk-proj-" + "a1B2" * 12,
    "sk-ant-api03-" + "a1B2" * 12,
    "ghp_" + "a1B2" * 9,
    "github_pat_" + "a1B2" * 12,
    "glpat-" + "a1B2" * 5,
    "AKIA" + "A1B2" * 4,
    "ASIA" + "A1B2" * 4,
    "xoxb-" + "1234" * 4,
    "AIza" + "a1B2" * 9,
    "wandb_v1_" + "a1B2" * 10,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-def",
]

TEXTS = [
    f"GET /x?token={WORD}&a=1",
    f"https://host/p?a=1&api_key={WORD}&b=2",
    f"?X-Amz-Signature={WORD}&X-Amz-Credential={WORD}%2Fx&X-Amz-Security-Token={WORD}",
    f"https://account.blob.core.windows.net/x?sv=1&sig={WORD}%3D",
    f"https://cdn/x?Expires=1&Signature={WORD}~a-b&Key-Pair-Id={WORD}",
    f"redirect=https%3A%2F%2Fhost%3Ftoken%3D{WORD}%26a",
    f"https://host/?a=b&amp;token={WORD}",
    rf'"https://host/?a=b\u0026token={WORD}"',
    f"https://user:{WORD}@host/x.jsonl",
    f"https://user:p@{WORD}@host/x",
    f"https://user:pa/{WORD}@host/x",
    f"https://{WORD}@github.com/x",
    f"https://:{WORD}@host/",
    f"/home/a/https:/user:{WORD}@host/x",
    f"s3://KEY:{WORD}@bucket/x",
    f"postgresql+psycopg://a:{WORD}@db:5432/x",
    f"Authorization: Bearer {WORD}",
    f"Authorization: Basic {WORD}==",
    f"'Authorization': 'Bearer {WORD}'",
    f'headers["Authorization"] = "{WORD}"',
    f"Proxy-Authorization: Digest {WORD}",
    f"got Bearer {WORD}-and-more",
    f'{{"token": "{WORD}"}}',
    json.dumps({"log": json.dumps({"token": WORD})}),
    json.dumps(json.dumps(json.dumps({"password": f"{WORD} and more"}))),
    f"{{'api_key': '{WORD}'}}",
    f'password="two {WORD} words"',
    f'password="quo\\"{WORD}"',
    f'token="{WORD}-without-an-end',
    f"HF_TOKEN={WORD}abc python x",
    f"export WANDB_API_KEY={WORD}",
    f"aws_secret_access_key = {WORD}/abc+def",
    f"AccountKey={WORD}==;EndpointSuffix=x",
    f"password={WORD}",
    f"a\ttoken={WORD}abc",
    f"a\\ntoken={WORD}abc",
    f"(token={WORD})",
    f"accessToken:{WORD}",
    f"apiKey='{WORD}'",
    f"x-api-key: {WORD}",
    f"  token: {WORD}",
    f"client_secret: {WORD}",
    f"Cookie: {WORD}1234",
    f"--token {WORD}abcd",
    f"--hf-token={WORD}abcd",
]

VALUES = [
    {"token": WORD},
    {"model_init_kwargs": [{"secretKey": WORD}]},
    {"api-key": WORD},
    {"Authorization": WORD},
    {"headers": [["Authorization", WORD], ["Accept", "json"]]},
    {"env": [{"name": "HF_TOKEN", "value": WORD}]},
    {"auth": ["user", WORD]},
    {"credentials": {"anything": WORD}},
    {"note": json.dumps({"a": {"token": WORD}})},
    {"password": 123456},
    {"model.model_init_kwargs.token": (None, WORD)},
    {f"https://a:{WORD}@host": 1},
]

ORDINARY = [
    "pad_token",
    "token=5 of 7",
    "eos_token='</s>', pad_token=<pad>, stop_token='END'",
    "max_new_tokens=64, mean_token_accuracy=0.5, num_tokens=1234567, token_type_ids=abc1234",
    "Token: a unit of text",
    "the tokenizer: fast",
    "password is wrong",
    "Secrets: the movie; the secret: be kind; secret santa",
    "Bearer certificates are papers",
    "https://host:8080/a/@user",
    "https://host/x?page=2&max_tokens=5",
    "git@github.com:x/y.git and ssh://git@github.com/x/y",
    "hf://datasets/a/b@main/x.parquet",
    "    token = self.tokenizer.decode(x)",
    "login(token=token, api_key=api_key)",
    "token={token} password=$PASSWORD key=value sort_key=abcdefgh1",
    "sk-learn-contrib-examples, a task-specific-long-adapter-name",
    "revision 0123456789abcdef0123456789abcdef01234567",
    "PWD=/root author: abcd1234 monkey=banana123456 passport=1 compass: north12",
    "2026-01-01 12:00:00 nbft INFO Loading",
]


@pytest.mark.parametrize("token", TOKENS, ids=lambda token: token[:8])
def test_tokens_are_known_by_their_form(token: str) -> None:
    for text in (token, f"x={token}", f"({token})", f"/{token}/", f"login with {token}."):
        assert token not in redact_text(text)
        assert token not in redact_tokens(text)


@pytest.mark.parametrize("text", TEXTS)
def test_secrets_in_texts_are_hidden(text: str) -> None:
    assert WORD not in redact_text(text)
    assert HIDDEN in redact_text(text)
    assert redact_text(redact_text(text)) == redact_text(text)


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_secrets_in_values_are_hidden(value: Any) -> None:
    shown = str(redact(value))
    assert WORD not in shown
    assert "123456" not in shown


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays(text: str) -> None:
    assert redact_text(text) == text


def test_the_host_of_an_address_stays() -> None:
    shown = redact_text(f"https://user:{WORD}@host.org:8443/a/b.jsonl?token={WORD}&page=2")
    assert shown == f"https://{HIDDEN}@host.org:8443/a/b.jsonl?token={HIDDEN}&page=2"


def test_a_private_key_is_hidden_also_where_it_is_cut_off() -> None:
    begin = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blb\nb3Blb\n"
    for text in (f"a {begin}-----END OPENSSH PRIVATE KEY----- b", f"a {begin}"):
        assert "b3Blb" not in redact_text(text)


def test_every_setting_stays_at_its_default() -> None:
    tree = Config().to_dict(full=True)
    assert redact(tree) == tree
    assert [setting.path for setting in settings() if is_secret_name(setting.path)] == []


def test_components_have_names_that_stay() -> None:
    for name, value in vars(registry).items():
        if isinstance(value, registry.Registry):
            assert [key for key in value if is_secret_name(key)] == [], name


def test_numbers_and_switches_stay() -> None:
    value = {"token": True, "password": None, "secret": 0.5, "tokens": 12345, "api_key": ""}
    assert redact(value) == value


def test_what_was_hidden_comes_back_unless_it_was_edited() -> None:
    original = {"data": {"path": f"https://a:{WORD}@h/x"}, "list": [{"token": WORD}, 1], "n": 1}
    shown = redact(original)
    assert restore(shown, original) == original
    shown["n"], shown["list"][1] = 2, 3
    assert restore(shown, original) == {**original, "n": 2, "list": [{"token": WORD}, 3]}
    shown["data"]["path"] = "rows.jsonl"
    shown["list"].append({"new": 1})
    assert restore(shown, original)["data"] == {"path": "rows.jsonl"}
    assert restore({"data": 5, "new": [1]}, original) == {"data": 5, "new": [1]}


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "a-",
            "token=",
            "token='<",
            "https://a:",
            "https://a@",
            "https://x:y",
            "sk-",
            "eyJ",
            "\\",
        ),
        *(
            "wandb ",
            "--a ",
            'token="\\"',
            "-----BEGIN PRIVATE KEY-----",
            "Bearer a.",
            "@",
            "?token=",
        ),
    ],
)
def test_the_time_grows_with_the_length_only(piece: str) -> None:
    began = time.perf_counter()
    redact_text(piece * (200_000 // len(piece)))
    assert time.perf_counter() - began < 20  # it would take minutes


def test_errors_quote_no_secret() -> None:
    address = f"https://user:{WORD}@host/x.jsonl"
    problem = Problem("data.train.path", address, f"{address} has no rows.", f"Open {address}.")
    for text in (str(problem), repr(problem), problem.sentence, str(ConfigError(problem))):
        assert WORD not in text
        assert "host/x.jsonl" in text
    assert WORD not in str(Problem("model.model_init_kwargs.token", WORD, "is wrong."))
    error = ConfigError(f"{address}: no such file.")
    assert WORD not in f"{error} {error!r} {error.problems}"


@pytest.mark.parametrize(
    "name",
    ["prompt_template", "data.train.datasets[0].system_prompt", "chat_template", "sample_prompts"],
)
def test_of_prompts_and_templates_only_unmistakable_tokens_are_hidden(name):
    """They are trained on like rows, so a text that reads like a secret must stay what it is."""
    text = "Authorization: Approve or deny.\npassword: {word}9 token=abc123def456"
    token = "hf_" + "aB3d" * 8
    assert redact({name: text}) == {name: text}
    assert redact([text], name) == [text]
    assert redact({name: f"{text} {token}"}) == {name: f"{text} (hidden)"}
    assert redact({"chat_template_path": "https://a:b@c/d"}) == {
        "chat_template_path": "https://(hidden)@c/d"
    }
