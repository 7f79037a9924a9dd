"""Arrays of jobs that run commands, written and submitted by submitit.

submitit's own way runs a pickled function that lies in a shared folder, and whoever may write there runs code as the
user. Here a job is a command, which stands in the script that Slurm keeps; nothing is unpickled. Of submitit come
the script's header, checked parameters and the submission.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import CommandFunction

from medgraft.benchmarks.launch.slurm.queue import SlurmAwayError, in_slurms_words
from medgraft.commands.plain_text import one_line
from medgraft.errors import MedgraftError

AWAY = ("contact slurm controller", "socket timed out", "connection refused", "temporarily", "zero bytes were")
"""What Slurm says where the same submission may go well in a minute."""

FOR_NOW = "node configuration is not available"
"""What ``sbatch --test-only`` also says where nodes that would do are drained or down, though jobs could wait for them;
where there are none at all, the first submission is refused."""

RUN = """run() {
  folder=$1 mark=$2 begun=$3; shift 3
  [ -d "$folder" ] || return 0
  if [ -f "$folder/$mark" ] && [ "$(cat "$folder/$mark")" -le 128 ]; then return 0; fi
  rm -f "$folder/$mark"
  : >"$folder/$begun"
  "$@" >"$folder/log.txt" 2>&1 </dev/null
  code=$?
  echo "$code" >"$folder/.$mark" && mv -f "$folder/.$mark" "$folder/$mark"
}"""
"""Of a script: runs a command and leaves its exit code in a file of the job's folder. Where Slurm puts a job back in
line, the script runs again: what has ended by itself does not, and what was ended does."""


Command = tuple[Path, str, str, Sequence[str]]
"""Folder of a cell, names of the files there for its exit code and for its start, and what runs, program first."""


class RefusedError(MedgraftError):
    """Slurm accepts no such job."""


class CommandExecutor(SlurmExecutor):
    """Submits arrays of commands.

    Args:
        folder: For scripts, and for what Slurm itself has to say.
        parameters: By submitit's names.
    """

    def __init__(self, folder: Path, parameters: Mapping[str, Any]) -> None:
        super().__init__(folder)
        self.update_parameters(**parameters)

    def script(self, tasks: Sequence[Sequence[Command]], at_once: int) -> str:
        """The script of an array.

        Args:
            tasks: What each job runs, one after another.
            at_once: Jobs that may run at the same time.
        """
        cases = []
        for index, commands in enumerate(tasks):
            runs = [shlex.join([str(folder), *marks, *command]) for folder, *marks, command in commands]
            cases.append(f"{index}) {'; '.join(f'run {words}' for words in runs)} ;;")
        body = "\n".join([RUN, 'case "$SLURM_ARRAY_TASK_ID" in', *cases, "esac", 'exit "${code:-0}"'])
        self.parameters |= {"map_count": max(1, len(tasks)), "array_parallelism": at_once}
        return self._make_submission_file_text(body, uuid.uuid4().hex)

    def submit_script(self, tasks: Sequence[Sequence[Command]], at_once: int) -> str:
        """Submits an array; its id.

        Raises:
            RefusedError: Slurm refuses it.
            SlurmAwayError: Slurm does not answer; it may have taken the array all the same.
        """
        place = self.folder / f"submitted-{uuid.uuid4().hex[:12]}.sh"
        self.folder.mkdir(parents=True, exist_ok=True)
        place.write_text(self.script(tasks, at_once))
        output = _sbatch(str(place))
        try:
            return self._get_job_id_from_submission_command(output)
        except FailedSubmissionError as error:
            raise RefusedError(f"sbatch said {one_line(output, 200)!r}, and no number of a job") from error

    def check_script(self) -> None:
        """Asks Slurm whether it would accept such a job; submits nothing.

        Raises:
            RefusedError: It would not.
            SlurmAwayError: It does not answer.
        """
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "try.sh"
            place.write_text(self.script([[(Path("/"), "none", "none", ["true"])]], 1))
            try:
                _sbatch("--test-only", str(place))
            except RefusedError as error:
                if FOR_NOW not in str(error):
                    raise


def _sbatch(*arguments: str) -> str:
    """Output of ``sbatch``."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # it prints what it raises
            return CommandFunction(["sbatch", *arguments], verbose=False)()
    except FailedJobError as error:
        words = in_slurms_words(str(error)) or "sbatch failed and says nothing"
        away = any(sign in words.casefold() for sign in AWAY)
        raise (SlurmAwayError if away else RefusedError)(one_line(words, 400)) from error
    except OSError as error:
        raise RefusedError(f"sbatch cannot be started: {error.strerror}") from error
