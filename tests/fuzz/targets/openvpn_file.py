"""Fuzz the parser of OpenVPN client files. The parser must find the same directives as OpenVPN, or refuse a file."""

import io
import re

from gateway.errors import GatewayError
from gateway.vpn import openvpn_config_sanitizer

LONGEST, UNIT, HEAD = 4096, 1, 0
WORDS = (
    "dev tun", "dev tap0", "<ca>", "</ca>", "<connection>", "</connection>", "setenv opt ", "--", "plugin ", "mode ",
    "auth-user-pass", "up ", "http-proxy ", "<tls-auth>", "</tls-auth>", "tls-crypt ", "'", '"', "\\", "#", ";",
    "[inline]", "\0", "\u00a0", "\x1c", "A" * 255, "A" * 256, "<//ca>", "<a.b>", "\\ ", "\\#",
)  # fmt: skip
_PLACE = re.compile(r"line [1-9]\d*: .|<.*> is not closed", re.DOTALL)
_LINE, _INLINE = 256, 255
_SPACE = b" \t\n\v\f\r"


def describe(data: bytes) -> str:
    """Return the OpenVPN client file as text."""
    return repr(data.decode("utf-8", "replace"))


def check(data: bytes) -> None:
    """Let the gateway rewrite the file `data` twice, and parse the result with a copy of OpenVPN's parser.

    Raises:
        AssertionError: An error has no position, the second rewrite changes the file, or OpenVPN's parser finds other
            directives than the gateway.
    """
    text = data.decode("utf-8", "replace")
    try:
        made = openvpn_config_sanitizer.parse_client_file(text)
    except GatewayError as error:
        assert _PLACE.match(str(error)), f"an error without a position\n{error}"
        return
    again = openvpn_config_sanitizer.parse_client_file(made.text)
    assert again.text == made.text, "a second rewriting changes the text"
    assert not again.ignored, "a second rewriting ignores a directive"
    assert (again.layer, again.has_secrets, again.uses_proxy) == (made.layer, made.has_secrets, made.uses_proxy)
    seen = _directives(made.text.encode())
    assert seen == [each.name for each in made.directives if each.block is None], "OpenVPN finds other directives"


class _RefusedError(Exception):
    """OpenVPN refuses the file."""


def _directives(config: bytes) -> list[str]:
    """Return the directives that `read_config_file` of OpenVPN 2.6 and 2.7 finds, except inline blocks."""
    stream, found, first = io.BytesIO(config), [], True
    while line := stream.readline(_LINE):
        line = line.partition(b"\0")[0]
        if len(line) == _LINE:
            raise _RefusedError
        words = _words(line.removeprefix(b"\xef\xbb\xbf") if first else line)
        first = False
        if not words:
            continue
        if len(words[0]) >= 3 and words[0].startswith(b"--"):
            words[0] = words[0][2:]
        if len(words) == 1 and words[0].startswith(b"<") and words[0].endswith(b">"):
            _skip(stream, words[0][1:-1])
        else:
            words = words[2:] if words[:2] == [b"setenv", b"opt"] else words
            found += [words[0].decode("utf-8", "replace")] if words else []
    return found


def _skip(stream: io.BytesIO, name: bytes) -> None:
    """Skip the lines of an inline block, as OpenVPN's `read_inline_file` does."""
    while line := stream.readline(_INLINE):
        if line.partition(b"\0")[0].lstrip(_SPACE).startswith(b"</" + name + b">"):
            return
    raise _RefusedError


def _words(line: bytes) -> list[bytes]:
    """Return the words of a line, as OpenVPN's `parse_line` does."""
    words: list[bytes] = []
    # `state` is empty between words, the quotation mark in a quoted word, and a space in a word without quotes.
    word, state, backslash = b"", "", False
    for at in range(len(line) + 1):
        character = line[at : at + 1]
        out, done, blank = b"", False, character == b"" or character in _SPACE
        if not backslash and character == b"\\" and state != "'":
            backslash = True
            continue
        if state == "":
            if blank:
                pass
            elif character in b"#;":
                break
            elif not backslash and character in b"\"'":
                state = character.decode()
            else:
                out, state = character, " "
        elif state == " ":
            done = not backslash and blank
            out = b"" if done else character
        elif state == '"':
            done = not backslash and character == b'"'
            out = b"" if done else character
        else:
            done = character == b"'"
            out = b"" if done else character
        if done:
            words.append(word)
            word, state = b"", ""
        if backslash and out and out not in (b"\\", b'"') and out not in _SPACE:
            raise _RefusedError
        backslash = False
        word += out
        if len(word) > _LINE:
            raise _RefusedError
        if len(words) >= 16:
            break
    if state:
        raise _RefusedError
    return words
