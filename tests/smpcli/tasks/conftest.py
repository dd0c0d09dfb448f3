from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_surroundings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the person's data folder or cache, or reaches for the hub."""
    monkeypatch.delenv("SMP_DATA_DIR", raising=False)
    monkeypatch.setenv("SMP_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def glue(tmp_path: Path) -> Path:
    """A small folder laid out and spelt as GLUE's files are, quirks included; lines are joined by hand."""
    files = {
        "SST-2/train.tsv": 'sentence\tlabel\na "fine film \t1\ndull\t0\nso so\t0\n',
        "SST-2/dev.tsv": "sentence\tlabel\nlovely\t1\n",
        "RTE/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA b.\tB.\tentailment\n1\tC.\tD.\tnot_entailment\n",
        "RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tE.\tF.\tnot_entailment\n",
        "MRPC/train.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
        '1\t7\t8\tHe said " no .\t"No," he said .\n'
        "0\t7\t8\tUp .\tDown .\n",
        "MRPC/dev.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tOne .\tTwo .\n",
        "CoLA/train.tsv": "gj04\t1\t\tIt rains.\ngj04\t0\t*\tRains it it.",
        "CoLA/dev.tsv": "gj04\t0\t*\tWent the.",
        "STS-B/train.tsv": "index\tsentence1\tsentence2\tscore\n0\tA\tB\t5.000\n1\tC\tD\t3.8\n",
        "STS-B/dev.tsv": "index\tsentence1\tsentence2\tscore\n0\tA\tC\t0\n",
    }
    for name, text in files.items():
        path = tmp_path / "glue" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return tmp_path / "glue"
