"""What fuzzing found stays corrected."""

from __future__ import annotations

import pytest

from tests.fuzzing.campaign import write_files
from tests.fuzzing.corpus import CORPUS
from tests.fuzzing.formats import FORMATS
from tests.fuzzing.guard import run_case


@pytest.mark.parametrize("name", CORPUS)
def test_a_file_that_was_found_is_read_or_refused(tmp_path, name):
    format, texts = CORPUS[name]
    files = {path: text.encode(errors="surrogatepass") for path, text in texts.items()}
    write_files(tmp_path / "case", files)
    outcome = run_case(FORMATS[format].check, tmp_path / "case", sum(map(len, files.values())))
    assert outcome.failure == ""
