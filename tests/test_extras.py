import json
import sys

import pytest

from labs.extras import optional


def test_a_module_that_is_there():
    assert optional("json", "labs.test") is json
    assert optional("os.path", "labs.test").sep


def test_a_package_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "some_package", None)
    with pytest.raises(ImportError) as raised:
        optional("some_package", "labs.test", extra="dev")
    assert str(raised.value) == (
        "labs.test needs some-package, and Python cannot find some_package; install the extra: "
        'pip install "cv-debugged[dev]"'
    )
    assert raised.value.name == "some_package"


def test_an_error_inside_the_package_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "broken_inside.py").write_text("raise ImportError('built for another Python')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="built for another Python"):
        optional("broken_inside", "labs.test")
