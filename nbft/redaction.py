"""Takes secrets out of what people see: events, logs, settings, errors, pages and exports.

A secret is recognised by its form (`hf_…`), by its name (`password: …`, `?token=…`) or by its place
in an address (`https://user:password@host`). Rows of training data are shown as they are: in what is
quoted from them, and in prompts and templates, which are trained on as well, only tokens with an
unmistakable form are hidden. Knows no file and no config.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "(hidden)"

_BY_FORM = re.compile(
    r"""
    (?<![A-Za-z0-9_])(?:
        hf_[A-Za-z0-9]{16,} | api_org_[A-Za-z0-9]{16,}            # Hugging Face
      | sk-(?=[\w-]{0,200}\w{16})[\w-]+ | sk_(?:live|test)_\w{16,}      # OpenAI, Anthropic; Stripe
      | gh[pousr]_\w{16,} | github_pat_\w{20,}                    # GitHub
      | gl(?:pat|dt|ptt|rt|cbt|ft|imt|agent|soat|oas)-[\w.-]{16,} # GitLab
      | (?:AKIA|ASIA)[A-Z0-9]{16}                                 # Amazon
      | wandb_v\d_\w{16,} | local-[0-9a-f]{40}                    # Weights & Biases
      | xox[a-z]-[\w-]{10,} | xapp-[\w-]{10,}                     # Slack
      | AIza[\w-]{30,} | ya29\.[\w-]{20,}                         # Google
      | gsk_\w{20,} | r8_\w{20,} | nvapi-[\w-]{20,} | xai-\w{20,}
      | pypi-[\w-]{20,} | npm_\w{20,} | dop_v1_\w{20,}
      | eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*                        # JSON Web Token
    )
  | (?<=hooks\.slack\.com/services/)[\w/-]{16,}
  | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----.*?(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)
"""Tokens that their issuers made recognisable. Source: the issuers' documentation."""

_USER_OF_ADDRESS = re.compile(
    r"""(?i:(?P<scheme>(?<![a-z0-9+.-])[a-z][a-z0-9+.-]*):/{1,2})  # one slash in a path made of it
    (?P<user>[^\s/@:"'<>]{0,500}+(?:
        :(?!\d+/)[^\s@"'<>]{0,500}@(?:[^\s/@"'<>]{0,500}+@)*                    # user:password@
      | (?:@[^\s/@:"'<>]{0,500}+)*@ )                                    # user@
    )""",
    re.VERBOSE,
)
_LOGIN_SCHEMES = ("ssh", "sftp", "git", "git+ssh")
"""Their user name alone, as in ssh://git@host, is no secret."""

_BEARER = re.compile(r"(?<=[Bb]earer )(?=[\w.~+/-]*[A-Z0-9_~+/=]|[a-z]{17})[\w.~+/-]{7,}[\w=]=*")
_HEX_KEY = re.compile(r"(?i)((?:wandb|password|api[ _-]?key)\b[^\n]{0,80}?\b)[0-9a-f]{40}\b")
"""Keys of Weights & Biases look like commits, which are not hidden."""

_NAMED = re.compile(
    r"""(?:(?<![\w-])(?<!\\)|(?<=\\[nrt])|(?<=\\u00\w\w)|(?<=\\)(?![nrt]|u00))
    -{0,2}(?P<name>[A-Za-z_0-9][\w-]*+)
    (?:\\*["'])?\]?[ \t]{0,4}
    (?P<sign>:=|=>|={1,2}|:|%3[Dd])[ \t]{0,4}""",
    re.VERBOSE,
)
_VALUE = re.compile(
    r"""[bBfFrRuU]{0,2}(?P<quote>\\*["'])(?P<quoted>(?:(?!(?P=quote))(?:\\.|[^\n\\])){0,4096}+)
      | (?P<bare>[^\s&,;"'<>\\]{1,4096}+)""",
    re.VERBOSE,
)
_OF_A_HEADER = re.compile(r"(?P<bare>(?:[A-Za-z0-9-]+[ \t]+)?[^\s\"'<>\\]{1,4096}+)")
_OPTION = re.compile(r"(?<!\S)--?(?P<name>[A-Za-z][\w-]*+)[ \t]+(?!-)(?P<value>[^\s\"']+)")
_ENCODED = re.compile(r"(?:3[Ff]|26|22|27|u00\w\w)(?=[A-Za-z])")  # ?, &, " and ' before a name

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_PASSWORDS = (
    *("password", "passwd", "passphrase", "pwd", "secret", "secrets", "authorization"),
    *("credential", "credentials", "apikey", "apikeys", "accesskey", "accesskeyid", "secretkey"),
    *("privatekey", "accesstoken", "authtoken", "apitoken", "hftoken", "connectionstring"),
)
_ALONE = frozenset(("auth", "cookie", "pat", "jwt"))
_KEYS_OF = frozenset(
    "api access secret private account storage encryption signing auth subscription ssh shared "
    "master deploy service consumer aws azure google openai anthropic wandb comet hf".split()
)
_TOKENS_OF_TEXT = frozenset(
    "pad padding eos bos unk sep cls mask image img video audio vision visual speech start end "
    "stop begin special additional extra added first last next previous new each every per "
    "prompt completion target source input output text word label answer response instruction "
    "system assistant think thinking tool role turn separator delimiter boi eoi eot eom fim "
    "prefix suffix middle placeholder blank newline decoder forced max min num trigger control "
    "class sink query soft virtual latent".split()
)
"""What stands before "token" in the names of a tokenizer's tokens, as in pad_token."""

_OF_MANY_TOKENS = frozenset("api access auth hf hub secret refresh bearer bot".split())
_OF_AN_ADDRESS = ("signature", "sig", "sas", "code", "key", "policy", "keypairid", "hmac", "auth")
_OF_PROMPTS = re.compile(r"(?:^|[._])(?:template|prompts?)$")
"""Names of prompts and templates, such as `system_prompt`."""

_NO_SECRET = re.compile(
    r"""(?i:none|null|true|false|auto|str|string|required|optional)?
      | [.…*xX\#]+ | <.*> | \[.*\] | \{.*\}? | \$\{?[A-Z_][A-Z0-9_]*\}? | %\(?\w*\)?s? | \(hidden\)
      | (?:os|self|args|kwargs|config|settings|getpass)\.\S* | \d{1,3}""",
    re.VERBOSE,
)
"""Values that stand for a secret, or for none."""


def redact(value: Any, name: str = "") -> Any:
    """Return a JSON-like value without secrets: those called so, and those in texts.

    Args:
        value: Texts, numbers, lists, tuples and dicts of any depth.
        name: What the value is called: a key, or the dotted path of a setting.

    >>> redact({"path": "https://me:word@host/a?token=b", "api_key": "c", "pad_token": "<pad>"})
    {'path': 'https://(hidden)@host/a?token=(hidden)', 'api_key': '(hidden)', 'pad_token': '<pad>'}
    """
    if isinstance(value, str):
        if name and is_secret_name(name):
            return value if _NO_SECRET.fullmatch(value) else HIDDEN
        return redact_tokens(value) if _OF_PROMPTS.search(name) else redact_text(value)
    if isinstance(value, Mapping):
        is_secret = bool(name) and is_secret_name(name)
        entry = next((value[k] for k in ("name", "key") if isinstance(value.get(k), str)), "")
        return {
            (redact_text(key) if isinstance(key, str) else key): redact(
                item, name if is_secret else entry if key == "value" and entry else str(key)
            )
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        if value and all(_is_pair(item) for item in value):
            items = [[item[0], redact(item[1], item[0])] for item in value]
        else:
            items = [redact(item, name) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    is_long = type(value) is int and abs(value) > 999
    return HIDDEN if is_long and name and _is_password(name) else value


def _is_pair(item: Any) -> bool:
    """Whether it is [name, text], as in a list of headers."""
    return isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[0], str)


def redact_text(text: str) -> str:
    """Return a text without secrets.

    >>> redact_text("GET https://host/x?token=abc&page=2, Authorization: Bearer abc")
    'GET https://host/x?token=(hidden)&page=2, Authorization: (hidden)'
    >>> redact_text("token=5 of max_new_tokens=64, pad_token=</s>, the password is long")
    'token=5 of max_new_tokens=64, pad_token=</s>, the password is long'
    """
    text = redact_tokens(text)
    if ":/" in text and "@" in text:
        text = _USER_OF_ADDRESS.sub(_without_user, text)
    if "earer " in text:
        text = _BEARER.sub(HIDDEN, text)
    if "=" in text or ":" in text or "%3" in text:
        text = _without_named(text)
    if "-" in text:
        text = _OPTION.sub(_without_option, text)
    return _HEX_KEY.sub(rf"\1{HIDDEN}", text) if len(text) > 40 else text


def redact_tokens(text: str) -> str:
    """Return a text without the tokens that have an unmistakable form, and otherwise as it is.

    >>> redact_tokens("hf_" + "aB3d" * 8 + " password=x")
    '(hidden) password=x'
    """
    return _BY_FORM.sub(HIDDEN, text)


def restore(shown: Any, original: Any) -> Any:
    """Return a value that was edited after `redact`, with what was hidden where it is unchanged.

    >>> before = {"path": "https://me:word@host/a", "seed": 1}
    >>> restore(redact(before) | {"seed": 2}, before)
    {'path': 'https://me:word@host/a', 'seed': 2}
    """
    return _restored(shown, redact(original), original)


def _restored(shown: Any, redacted: Any, original: Any) -> Any:
    if shown == redacted:
        return original
    if isinstance(shown, dict) and isinstance(original, Mapping):
        keys = dict(zip(redacted, original, strict=True))
        return {
            key: _restored(item, redacted[key], original[keys[key]]) if key in keys else item
            for key, item in shown.items()
        }
    if isinstance(shown, list) and isinstance(original, (list, tuple)):
        known = len(original)
        return [
            _restored(item, redacted[n], original[n]) if n < known else item
            for n, item in enumerate(shown)
        ]
    return shown


@functools.lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether a setting, key, parameter or header of this name holds a secret.

    >>> [name for name in ("hub_token", "pad_token", "apiKey", "X-Api-Key", "sort_key") if
    ...     is_secret_name(name)]
    ['hub_token', 'apiKey', 'X-Api-Key']
    """
    if _is_password(name):
        return True
    *before, last = _words(name) or [""]
    if last in _ALONE and name != "PAT":
        return True
    if last in ("key", "keys"):
        return bool(before) and before[-1] in _KEYS_OF
    if last == "tokens":
        return bool(before) and before[-1] in _OF_MANY_TOKENS
    return last == "token" and not _TOKENS_OF_TEXT.intersection(before)


@functools.lru_cache(maxsize=4096)
def _is_password(name: str) -> bool:
    """Whether the name belongs to secrets only, so that any value of it is one."""
    joined = "".join(_words(name))
    return joined.endswith(_PASSWORDS) and name not in ("PWD", "OLDPWD")


def _words(name: str) -> list[str]:
    """Split the last part of a dotted name.

    >>> _words("tracking.hubAPIKey"), _words("X-Amz-Signature")
    (['hub', 'api', 'key'], ['x', 'amz', 'signature'])
    """
    return [word.lower() for word in _WORD.findall(name.rstrip("]").rpartition(".")[2])]


def _without_user(match: re.Match[str]) -> str:
    user = match["user"]
    if ":" not in user and match["scheme"].lower() in _LOGIN_SCHEMES:
        return match[0]
    return f"{match[0].removesuffix(user)}{HIDDEN}@"


def _without_named(text: str) -> str:
    """Hide what follows the name of a secret, as in name=…, "name": "…" and ?name=…."""
    pieces, done = [], 0
    for match in _NAMED.finditer(text):
        if match.start() < done:
            continue
        name, is_query = match["name"], text[match.start() - 1 : match.start()] in ("?", "&", ";")
        if encoded := _ENCODED.match(name):
            name, is_query = name[encoded.end() :], True
        is_query &= match["sign"] in ("=", "%3D", "%3d")
        if not (is_secret_name(name) or (is_query and _is_of_an_address(name))):
            continue
        is_header = match["sign"] == ":" and "".join(_words(name)).endswith("authorization")
        found = (is_header and _OF_A_HEADER.match(text, match.end())) or _VALUE.match(
            text, match.end()
        )
        if not found:
            continue
        group = "bare" if found["bare"] is not None else "quoted"
        in_a_sentence = group == "bare" and not (is_query or is_header)
        value = found[group].rstrip(")]}.") if in_a_sentence else found[group]
        begin, end = found.start(group), found.start(group) + len(value)
        if in_a_sentence:
            is_secret = _is_secret(name, value, match, text[end : end + 1])
        else:
            is_secret = not _NO_SECRET.fullmatch(value) or (is_query and value.isdigit())
        if is_secret:
            pieces += [text[done:begin], HIDDEN]
            done = end
    return "".join([*pieces, text[done:]])


def _is_secret(name: str, value: str, sign: re.Match[str], after: str) -> bool:
    """Whether what stands without quotes after a secret's name is one, and not a sentence or code."""
    is_number = value.replace(".", "", 1).isdigit()
    if _NO_SECRET.fullmatch(value) or (len(value) < 60 and is_secret_name(value.partition("(")[0])):
        return False
    if is_number:
        return _is_password(name) and len(value) > 3
    is_random = len(value) > 19 or (len(value) > 5 and any(map(str.isdigit, value)))
    if is_random and "(" not in value:
        return True
    before = sign.string[max(0, sign.start() - 80) : sign.start()].rpartition("\n")[2]
    is_line = not before.strip(" \t-") and after in ("", "\n", "\r")
    if sign["sign"] == ":":  # of YAML or a header, rather than of a sentence
        return is_line and len(value) > 2 and (name.islower() or _is_password(name))
    is_code = sign[0][-1] in " \t"
    return len(value) > 3 and (is_line or not is_code) and "(" not in value


def _is_of_an_address(name: str) -> bool:
    joined = "".join(_words(name))
    return (
        joined in _OF_AN_ADDRESS
        or (
            joined.startswith(("xamz", "xgoog"))
            and joined.endswith(("signature", "credential", "token"))
        )
        or joined in ("googleaccessid", "awsaccesskeyid")
    )


def _without_option(match: re.Match[str]) -> str:
    value = match["value"]
    is_random = len(value) > 11 or any(map(str.isdigit, value))
    if not is_secret_name(match["name"]) or not is_random or _NO_SECRET.fullmatch(value):
        return match[0]
    return match[0].removesuffix(value) + HIDDEN
