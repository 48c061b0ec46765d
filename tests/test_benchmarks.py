"""What `./launch.sh bench` knows; the measurements themselves need the `peers` extra."""

from conftest import ROOT

from benchmarks.__main__ import SUITES


def test_every_file_of_measurements_is_a_suite():
    files = {
        path.stem for path in (ROOT / "benchmarks").glob("*.py") if "def rows(" in path.read_text()
    }
    assert files == set(SUITES)
