"""Tests octal escapes of fields in fstab(5), exports(5) and mount tables."""

import pytest

from gateway.octal_escapes import escaped, unescaped


@pytest.mark.parametrize(
    ("field", "text"), [(r"My\040Share", "My Share"), (r"a\134040", r"a\040"), (r"a\9b\04", r"a\9b\04")]
)
def test_escapes_are_replaced_once(field: str, text: str) -> None:
    assert unescaped(field) == text


@pytest.mark.parametrize("text", ["a b", "a\tb", "#a", "a\\040b", "a\nb", 'a"b'])
def test_a_field_keeps_its_value(text: str) -> None:
    assert unescaped(escaped(text)) == text
    assert not set(escaped(text)) & set(" \t\n#")
    assert '"' not in escaped(text, r'\s"#\\')
