"""docs/placement.md names what there is."""

from pathlib import Path

from disagg_launch.layouts.table import FORMS
from disagg_launch.place import POLICIES

TEXT = (Path(__file__).parents[3] / "docs" / "placement.md").read_text()


def test_every_policy_is_documented():
    for name, text in POLICIES.items():
        assert f"| `{name}` |" in TEXT
        assert text.split("Use it")[1].split("(")[0].strip(" .") in TEXT


def test_every_form_is_documented():
    assert [name for name in FORMS if f"`{name}`" not in TEXT] == []
    assert [form.file for form in FORMS.values() if form.file not in TEXT] == []
