"""What does a word for a trained launch model mean, on the command line?"""

from pathlib import Path
from typing import Any


def launch_model(word: str, home: str) -> Any:
    """The launch model behind a run's name or folder, or in a file.

    Raises: RunFolderError, if there is none.
    """
    from difnet.launch_models import read
    from difnet.record import finding

    return read(word if Path(word).is_file() or word.endswith(".safetensors") else finding.resolve(word, home))
