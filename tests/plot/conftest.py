import base64
import io
import re

import pytest
from PIL import Image

IMAGE = re.compile(r'<img src="data:(image/[\w+]+);base64,([^"]+)" alt="([^"]*)"([^>]*)>')


class Shown(list):
    """The bundles that were displayed."""

    @property
    def html(self):
        (bundle,) = self
        return bundle["text/html"]

    def images(self):
        """Return of each image its kind, bytes, alternative text and other attributes."""
        found = IMAGE.findall(self.html)
        return [
            (kind, base64.b64decode(data), alt, dict(re.findall(r'([\w-]+)="([^"]*)"', rest)))
            for kind, data, alt, rest in found
        ]

    def pictures(self):
        return [Image.open(io.BytesIO(data)) for _, data, _, _ in self.images()]


@pytest.fixture
def shown(monkeypatch):
    """Return the bundles that were displayed."""
    bundles = Shown()

    def display(data, raw):
        assert raw
        bundles.append(data)

    monkeypatch.setattr("IPython.display.display", display)
    return bundles
