"""The line protocol: only who knows the token is heard, and nothing recorded can be used again."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disagg_launch.runtime import wire

values = st.dictionaries(
    st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=9), st.lists(st.integers(), max_size=3)), max_size=4
)


@given(values)
def test_a_signed_message_opens_to_itself(message):
    message.pop("mac", None)
    assert wire.opened(b"secret", "n", wire.signed(b"secret", "n", message)) == message


@pytest.mark.parametrize("text", [b"", b"x", b"[]", b'"s"', b"{}", b'{"mac": 3}', b'{"mac": "\xc3\xa9"}', b'{"mac": null, "kind": "stop"}'])
def test_what_is_not_signed_is_refused(text):
    with pytest.raises(ValueError):
        wire.opened(b"secret", "n", text)


def test_another_token_another_nonce_or_another_word_is_refused():
    line = wire.signed(b"secret", "n", {"kind": "state"})
    for token, nonce, text in [(b"other", "n", line), (b"secret", "m", line), (b"secret", "n", line.replace(b"state", b"stop"))]:
        with pytest.raises(ValueError, match="proof"):
            wire.opened(token, nonce, text)
    assert "secret" not in json.loads(line)["mac"]


def all_lines(blocks):
    rest, said = b"", []
    for block in [b for b in blocks if b] + [b""]:
        lines, rest = wire.lines(rest, block)
        said += lines
    assert rest == b""
    return said


@given(st.lists(st.binary(max_size=20)))
def test_lines_come_out_the_same_however_the_bytes_were_cut(blocks):
    plain = [block.replace(b"\r", b"-") for block in blocks]
    expected = [part.decode(errors="replace") for part in b"".join(plain).split(b"\n")]
    assert all_lines(plain) == (expected[:-1] if expected[-1] == "" else expected)
    # also those of a bar that writes over itself, where a line that says nothing may come or not
    assert [one for one in all_lines(blocks) if one.strip()] == [one for one in all_lines([b"".join(blocks)]) if one.strip()]


def test_a_line_without_end_is_cut():
    lines, rest = wire.lines(b"", b"x" * (wire.LINE_LIMIT + 1))
    assert lines == ["x" * (wire.LINE_LIMIT + 1)] and rest == b""


def test_a_progress_bar_is_told_while_it_is_drawn():
    lines, rest = wire.lines(b"", b"reading\nweights:  0%\rweights: 50%\rweights: 60")
    assert (lines, rest) == (["reading", "weights:  0%", "\rweights: 50%"], b"\rweights: 60")
    lines, rest = wire.lines(rest, b"%\rweights: 100%\r\ndone\n")
    assert (lines, rest) == (["\rweights: 60%", "\rweights: 100%", "done"], b"")


@pytest.mark.parametrize("cut", range(1, 12))
def test_lines_that_end_as_on_windows_are_plain_lines(cut):
    text = b"one\r\ntwo\r\n"
    lines, rest = wire.lines(b"", text[:cut])
    more, rest = wire.lines(rest, text[cut:] or b"\n")
    assert [one for one in lines + more if one] == ["one", "two"] and rest == b""
