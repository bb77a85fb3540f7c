"""Where the make_*_fixtures.py write: below the resources of the Java tests, or where their one argument says."""
import argparse
from pathlib import Path

RESOURCES = Path(__file__).parents[2] / "engine/src/test/resources"


def asked_for(doc: str, default: str) -> Path:
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", default=RESOURCES / default)
    return p.parse_args().folder
