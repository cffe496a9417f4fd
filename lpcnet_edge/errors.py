"""The one error tree. An error names the problem, the evidence and the mend.

Every error carries the exit code that the command line returns for it:
1 a check or the work itself failed, 2 wrong use, 3 bad input or artifact, 4 missing device or library.
"""

from __future__ import annotations


class LpcnetError(Exception):
    """Base of every error this package raises on purpose.

    Parameters
    ----------
    message
        The problem and the evidence for it, as one sentence.
    mend
        What the reader can do about it: a command, a setting or an action.
    """

    exit_code = 1

    def __init__(self, message: str, *, mend: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.message} (mend: {self.mend})" if self.mend else self.message


class CheckFailed(LpcnetError):
    """A check ran to its end and its answer is no (exit code 1)."""

    exit_code = 1


class BuildFailed(CheckFailed):
    """A build ran and what it made does not hold: an invalid graph, a parity or an accuracy that is broken."""


class SinkFailed(LpcnetError):
    """An output could not be opened, or ended without everything that was to be written to it (exit code 1)."""


class BackendFailed(LpcnetError):
    """A backend was open and failed while it computed (exit code 1)."""


class DeviceLost(BackendFailed):
    """A device failed so that this process cannot use it any more; another process may (exit code 1)."""


class UsageError(LpcnetError):
    """The call itself is wrong: an option, a name, a combination (exit code 2)."""

    exit_code = 2


class BadInput(LpcnetError):
    """Something that was read is not what it must be (exit code 3)."""

    exit_code = 3


class BadConfig(BadInput):
    """A settings file, a recipe or a configuration value is wrong."""


class BadData(BadInput):
    """A dataset is wrong as a whole: its layout, its index, its splits."""


class UnreadableImage(BadData):
    """A file that should be an image or a mask cannot be decoded."""


class MaskMismatch(BadData):
    """A mask does not belong to its image: another size, or missing."""


class UnknownClass(BadData):
    """A mask or an annotation names a class that the dataset does not have."""


class DuplicateImage(BadData):
    """The same picture stands in two splits, or twice in one."""


class BadArtifact(BadInput):
    """A file that this toolkit wrote, or should have written, is damaged or of another kind."""


class BadWeights(BadArtifact):
    """A weights file or its model card cannot be used."""


class StaleCheckpoint(BadArtifact):
    """A checkpoint belongs to another recipe, dataset or network."""


class BadBundle(BadArtifact):
    """A bundle cannot be trusted or used; the subclasses say why."""


class NotABundle(BadBundle):
    """No bundle stands at that path: nothing does, or something else."""


class BadManifest(BadBundle):
    """A bundle's ``bundle.yaml`` cannot be used: its size, its YAML, a key or a value."""


class NewerSchema(BadBundle):
    """A bundle was written by a later version of this toolkit."""


class UnsafeName(BadBundle):
    """A manifest names a file outside its bundle, or one that is not told apart from another."""


class UnsafeEntry(BadBundle):
    """A bundle holds a symbolic link, or something that is neither file nor folder."""


class UnlistedFile(BadBundle):
    """A bundle holds a file or a folder that its manifest does not name."""


class MissingFile(BadBundle):
    """A file that a manifest names is not in the bundle."""


class WrongSize(BadBundle):
    """A bundle's file is shorter or longer than its manifest says."""


class ChangedFile(BadBundle):
    """A bundle's file has the size that its manifest says, and other bytes."""


class UnsafeModel(BadBundle):
    """An ONNX file reaches outside itself: external data, functions or custom operators."""


class BadModel(BadBundle):
    """An ONNX file cannot be read, or has other inputs or outputs than its manifest says."""


class BadPlan(BadBundle):
    """A bundle's folder of plans does not fit its ``plan.yaml``, its name or the bundle's ONNX files."""


class PlanMismatch(BadArtifact):
    """Plans are for another runtime, version or device than this machine's."""


class SignatureError(BadBundle):
    """A bundle's signature is missing, malformed, or not by the trusted key over this very manifest."""


class BadKey(BadInput):
    """A key file is not what it must be, or others can read it."""


class UnsafeCache(BadArtifact):
    """The machine's cache folder belongs to someone else, or others can write to it."""


class StaleCache(BadArtifact):
    """What the machine's cache holds is damaged, or belongs to another bundle, runtime, version or device."""


class MissingLibrary(LpcnetError):
    """A library that this call needs is not installed (exit code 4)."""

    exit_code = 4


class MissingDevice(LpcnetError):
    """A device that this call needs is not there (exit code 4)."""

    exit_code = 4
