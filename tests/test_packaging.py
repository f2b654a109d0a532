"""The wheel is complete: built and unpacked, it runs the demo."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_wheel_runs_demo(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "unpacked")
        names = packed.namelist()
    assert "seewhy/py.typed" in names
    assert any(n.endswith("licenses/LICENSE") for n in names)
    sources = {str(p.relative_to(ROOT / "src")) for p in (ROOT / "src").rglob("*.py")}
    assert sources <= set(names)
    run = subprocess.run(
        [sys.executable, "-c", "import sys, seewhy.cli; print(seewhy.__file__); sys.exit(seewhy.cli.main(['demo']))"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "unpacked"), "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith(str(tmp_path / "unpacked"))
    assert "Egyptian cat" in run.stdout
    assert len(list((tmp_path / "seewhy-demo").glob("*.png"))) == 6
