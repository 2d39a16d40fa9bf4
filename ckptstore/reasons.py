"""`Reason`, the stable codes that say why a call failed."""

from __future__ import annotations

import enum


class Reason(enum.StrEnum):
    """The reason of an error: a stable code for programs. A member equals its text.

    Later versions add members, but never rename or remove one.

    Example:
        >>> Reason.CHECKSUM == "checksum"
        True
    """

    __repr__ = str.__repr__

    # One for each class of error, used if no finer reason applies.
    CHECKPOINT = "checkpoint"  #: anything else
    STRUCTURE = "structure"  #: the tree, or a request about it, cannot be served
    UNKNOWN_TYPE = "unknown-type"  #: a stored type has no class here
    UNSUPPORTED = "unsupported"  #: this version or machine cannot do it
    CORRUPT = "corrupt"  #: the bytes are not those that a save wrote
    NOT_COMMITTED = "not-committed"  #: there is no committed checkpoint
    ALREADY_COMMITTED = "already-committed"  #: another save holds the place
    OUTCOME_UNKNOWN = "outcome-unknown"  #: the commit may or may not have happened
    STORAGE = "storage"  #: the disk or the store refused
    PROCESS = "process"  #: several processes did not do one thing together

    # Reasons of the format: docs/spec.md, section 12.
    BAD_COLUMN = "bad-column"  #: a column does not have its length
    BAD_DTYPE = "bad-dtype"  #: not a dtype of the format
    BAD_FIELD = "bad-field"  #: a field of another type or form
    BAD_FILE_NAME = "bad-file-name"  #: not a file name of this attempt, or a name used twice
    BAD_GRID = "bad-grid"  #: grid and cuts do not fit
    BAD_KEY = "bad-key"  #: a map key that is not a str; a node that cannot be in a key
    BAD_LEAF = "bad-leaf"  #: a leaf of a type, dtype or shape that it cannot have
    BAD_MAGIC = "bad-magic"  #: another kind of file
    BAD_MSGPACK = "bad-msgpack"  #: not the msgpack of the format
    BAD_NODE = "bad-node"  #: a node that contradicts its kind or type
    BAD_REFERENCE = "bad-reference"  #: a leaf not held exactly once; a SAME that points wrong
    BAD_SCALAR = "bad-scalar"  #: bytes that are not a value of their kind
    BAD_SHAPE = "bad-shape"  #: over 64 axes
    BAD_SPAN = "bad-span"  #: a span of a leaf, cell or file that does not exist; a wrong size
    BAD_TREE = "bad-tree"  #: arities that do not make one tree
    BAD_TYPE = "bad-type"  #: a bad row of the table of types; an array type without an adapter
    BAD_VALUE = "bad-value"  #: a byte that its dtype cannot have
    CHECKSUM = "checksum"  #: bytes that do not match their digest
    DTYPE_NOT_HERE = "dtype-not-here"  #: this machine or an installed package lacks the dtype
    DUPLICATE_KEY = "duplicate-key"  #: a key or an item twice
    DUPLICATE_TABLE = "duplicate-table"  #: a table in two parts
    FILE_SIZE = "file-size"  #: a file of another size
    INTEGER_RANGE = "integer-range"  #: an integer out of range
    MANIFEST_SIZE = "manifest-size"  #: a manifest over 1 MiB
    MISSING_FIELD = "missing-field"  #: a key or a table is missing
    MISSING_FILE = "missing-file"  #: a file of the table is missing
    NEWER_MAJOR = "newer-major"  #: a newer major version of the format
    NO_MANIFEST = "no-manifest"  #: no manifest, and no trace of one
    PADDING = "padding"  #: padding that is not zero
    SHAPE_OVERFLOW = "shape-overflow"  #: a leaf too large for the format
    SPAN_ALIGNMENT = "span-alignment"  #: a span that is not aligned
    SPAN_GAP = "span-gap"  #: bytes that nothing accounts for
    SPAN_OVERLAP = "span-overlap"  #: spans that overlap
    SPAN_RANGE = "span-range"  #: a span beyond the end of its file
    SPAN_SUM = "span-sum"  #: spans that do not fill their cell
    TOO_DEEP = "too-deep"  #: nested too deep
    TOO_MANY = "too-many"  #: more than a limit
    TRAILING_BYTES = "trailing-bytes"  #: bytes after the value
    TRUNCATED = "truncated"  #: the bytes end too early
    UNFINISHED = "unfinished"  #: files of attempts, and no manifest
    UNKNOWN_FEATURE = "unknown-feature"  #: a required feature that this version lacks

    # Reasons of arguments.
    AMBIGUOUS = "ambiguous"  #: a path or a place that names more than one thing
    BAD_ARGUMENT = "bad-argument"  #: an argument of another type or value
    BAD_METRIC = "bad-metric"  #: a metric whose name is not a str or whose value is not a number
    BAD_MIGRATION = "bad-migration"  #: a migration that contradicts itself or the class
    BAD_OPTIONS = "bad-options"  #: storage_options that do not fit
    BAD_PATTERN = "bad-pattern"  #: a pattern that cannot be read, or matches nothing
    BAD_STEP = "bad-step"  #: a step that is not an int from 0 to 2^53 - 1
    BAD_URL = "bad-url"  #: a text that is not a valid path or URL
    METADATA = "metadata"  #: metadata that cannot be stored
    MISSING_METRIC = "missing-metric"  #: a metric that `keep` or `best` looks at is missing
    REGISTER = "register"  #: a registration that is not possible

    # Reasons of saving and loading.
    ARRAY_NOT_EXACT = "array-not-exact"  #: an array that this machine cannot rebuild exactly
    CANNOT_CARRY = "cannot-carry"  #: an object that no file can carry
    CAST_RANGE = "cast-range"  #: a value that does not fit the dtype asked for
    DIFFERS_FROM_LIKE = "differs-from-like"  #: the checkpoint differs from `like`
    NO_MATCH = "no-match"  #: a pattern of `select` that matches nothing
    OTHER_PROCESS = "other-process"  #: a save of the process that this one was forked from
    SAVE_PENDING = "save-pending"  #: a save is under way
    PER_PROCESS = "per-process"  #: values of each process, saved by another number of them
    SUPPLIED = "supplied"  #: a value that only `like` can supply
    TOO_MANY_PLACES = "too-many-places"  #: a pattern of `select` that matches too many places

    # Reasons of types.
    BAD_ADAPTER = "bad-adapter"  #: an adapter that cannot be loaded or used
    CANNOT_MAKE = "cannot-make"  #: an object that its class refuses to make
    FIELDS_DIFFER = "fields-differ"  #: a class with other fields than the stored ones
    MODULE_NOT_IMPORTED = "module-not-imported"  #: the module of a class is not imported
    NEEDS_TYPES = "needs-types"  #: a class whose own code would run
    NO_SUCH_MEMBER = "no-such-member"  #: a member that its Enum lacks
    NO_SUCH_NAME = "no-such-name"  #: a name that its module lacks
    NOT_INSTALLED = "not-installed"  #: a framework that is not installed
    NOT_REGISTERED = "not-registered"  #: a class that jax.tree_util does not know here
    UNKNOWN_OBJECT = "unknown-object"  #: an object that no installed adapter makes
    UNKNOWN_SYMBOL = "unknown-symbol"  #: a function that is not in the table of allowed functions
    UNSAFE_CLASS = "unsafe-class"  #: a class whose objects cannot be made without its own code
    WRONG_KIND = "wrong-kind"  #: a class of another kind than the stored one

    # Reasons of runs.
    FOREIGN_HANDLER = "foreign-handler"  #: a signal handler that cannot be put back
    IS_A_CHECKPOINT = "is-a-checkpoint"  #: a checkpoint where a run was expected
    IS_A_RUN = "is-a-run"  #: a run where a checkpoint was expected
    LATER_STEPS = "later-steps"  #: a save or a rewind below steps that another process saved
    NO_STEP = "no-step"  #: a run without a committed step
    NOT_MAIN_THREAD = "not-main-thread"  #: a call that needs the main thread
    PINNED = "pinned"  #: a pinned step, which nothing deletes

    # Reasons of disks and stores.
    COLLECTED = "collected"  #: a garbage collector mistook the save for an abandoned one
    CREDENTIALS = "credentials"  #: the store does not accept the credentials
    DANGLING_LINK = "dangling-link"  #: a symbolic link to nothing, or to itself
    DISK_FULL = "disk-full"  #: no space, or no quota, is left
    FOREIGN_MANIFEST = "foreign-manifest"  #: a file MANIFEST that ckptstore did not write
    LINKED_STEP = "linked-step"  #: a step that is a symbolic link, which is only read
    LOST_FILE = "lost-file"  #: a file or upload that vanished meanwhile
    MISSING_PACKAGE = "missing-package"  #: a package that the store needs is not installed
    NO_BUCKET = "no-bucket"  #: there is no such bucket
    NO_SUCH_STORE = "no-such-store"  #: a protocol that no installed package knows
    NOT_A_DIRECTORY = "not-a-directory"  #: a file where a directory was expected
    NOT_ATOMIC = "not-atomic"  #: a store that promises no atomic create
    NOT_REMOVED = "not-removed"  #: deleted, but some of its files are still there
    NOT_SUPPORTED = "not-supported"  #: an operation that the store lacks
    OVERWRITTEN = "overwritten"  #: overwritten while it was read
    PERMISSION = "permission"  #: not permitted
    READ_ONLY = "read-only"  #: a file system that cannot be written to
    RETAINED = "retained"  #: a retention rule or a hold keeps the object as it is
    STALE_LISTING = "stale-listing"  #: a cached listing names only steps that are gone
    UNAVAILABLE = "unavailable"  #: the store did not answer in time
    WRONG_REGION = "wrong-region"  #: a bucket of another region

    # Reasons of several processes.
    ABORTED = "aborted"  #: another process failed, for the reason in the message
    LOST_PROCESS = "lost-process"  #: a process that does not do its part in time
    NO_WORD = "no-word"  #: nothing heard of another process in time
    NOT_SHARED = "not-shared"  #: a place that the processes do not share
    TREES_DIFFER = "trees-differ"  #: trees of different structure in different processes
    TWICE = "twice"  #: two processes with one index
    VALUES_DIFFER = "values-differ"  #: a value that must be equal in all processes and is not

    # Reasons of optimizer states.
    BAD_COUNT = "bad-count"  #: a counter without a value that can be read
    DOES_NOT_FIT = "does-not-fit"  #: a state that does not fit the optimizer
    NEGATIVE_COUNT = "negative-count"  #: a counter that would be below 0
    UNKNOWN_COUNTS = "unknown-counts"  #: integers whose meaning is not known
    WHICH_CLOCK = "which-clock"  #: a shift that does not say which clock it moves

    # Reasons of other formats.
    BAD_NAME = "bad-name"  #: a name that a file cannot hold
    NAME_CLASH = "name-clash"  #: two leaves of one name
    NEEDS_LIKE = "needs-like"  #: of a tree, or of a place, that the file does not describe
    WEIGHTS_ONLY = "weights-only"  #: a file whose reading could run code
