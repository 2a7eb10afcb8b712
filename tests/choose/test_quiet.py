"""Votes need no torch."""

import subprocess
import sys


def test_no_torch():
    code = (
        "import sys, tastemaker.choose.pairing, tastemaker.choose.points, tastemaker.choose.rigging, "
        "tastemaker.data.read.gemrec, tastemaker.data.read.grid; "
        "sys.exit(bool({'torch', 'diffusers', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
