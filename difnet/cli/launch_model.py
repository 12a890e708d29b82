"""What does a word for a trained launch model mean, on the command line?"""

from pathlib import Path
from typing import Any

import click


def launch_model(word: str, home: str) -> Any:
    """The launch model behind a run's name or folder, or in a file; what there is to beware of goes to stderr.

    Raises: RunFolderError, if there is none.
    """
    from difnet.launch_models import read
    from difnet.record import finding

    learnt = read(word if Path(word).is_file() or word.endswith(".safetensors") else finding.resolve(word, home))
    if learnt.caution:
        click.echo(f"caution: {learnt.caution}", err=True)
    return learnt
