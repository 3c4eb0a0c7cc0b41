"""Every value that is rendered into a script reaches the program unchanged and runs nothing by itself."""

import subprocess

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disagg_launch import templating
from disagg_launch.errors import BadInput

HOSTILE = ["a b", "it's", '"', "$(touch HIT)", "`touch HIT`", "a\nb", "-rf", "~", "é☃", "", "*", "a;b", "\\", "!x", "#c"]
PRINT = "import sys; sys.stdout.buffer.write(b'|'.join(a.encode() for a in sys.argv[1:]))"


def words_seen_by_a_program(text):
    return subprocess.run(["bash", "-c", f'python3 -c "{PRINT}" {text}'], capture_output=True, check=True).stdout.decode()


def test_hostile_words_arrive_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words_seen_by_a_program(templating.quote(HOSTILE)) == "|".join(HOSTILE)
    assert not (tmp_path / "HIT").exists()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_any_text_survives_the_shell_on_several_lines(words):
    assert words_seen_by_a_program(templating.quote_lines(words)) == "|".join(words)


def test_raw_text_is_left_alone_and_other_types_are_refused():
    assert templating.quote(templating.Raw('"$HOME"')) == '"$HOME"'
    assert templating.quote(8) == "8"
    for value in (None, True, {"a": 1}):
        with pytest.raises(TypeError):
            templating.quote(value)
    with pytest.raises(BadInput, match="NUL"):
        templating.quote("a\0b")


def test_an_option_begins_a_line_and_keeps_its_value():
    assert templating.quote_lines(["mpirun", "-n", 2, "--x", "a b"]) == "mpirun \\\n    -n 2 \\\n    --x 'a b'"


def test_a_comment_cannot_end_its_line():
    assert "\n" not in templating.comment("name\nrm -rf /") and "\r" not in templating.comment("a\rb")


def test_an_expression_in_a_template_is_quoted_and_an_unknown_name_is_an_error():
    environment = templating._environment()
    assert environment.from_string("x={{ v }}\n").render(v="a b") == "x='a b'\n"
    with pytest.raises(jinja2.UndefinedError):
        environment.from_string("{{ missing }}").render()
