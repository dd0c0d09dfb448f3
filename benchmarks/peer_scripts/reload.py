"""What stock transformers makes of a saved folder: FOLDER DATA -> accuracy and kept weights, or the error."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from shared import accuracy, kept
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def main() -> None:
    data = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    found: dict[str, Any]
    try:
        model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
        tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
        found = {"accuracy": accuracy(model, tokenizer, data["dev"], data["max_length"]), "kept": kept(model)[0]}
    except Exception as error:  # whatever the library says of the folder is the answer
        found = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
