"""Checks of how a private part encodes records: row by row, totally, by the schema alone.

Never lets an encoding pass that another record of the site could change.
"""

from typing import Final

import numpy as np

from synthfed.protocols.schema import Records

from .cases import UNITS
from .check import check, promise
from .trial import SEED, Trial

STRANGE: Final = (np.nan, np.inf, -np.inf, 1e300, -1e300, -0.0, 0.5, 1e-320)
"""Values that no schema allows in every column, and that a damaged file may still bring."""


def strange_records(records: Records) -> Records:
    """Return records of one strange value each, and ordinary ones with one in a single place of theirs."""
    whole = np.repeat(np.array(STRANGE)[:, None], records.shape[1], axis=1)
    single = records[: 2 * len(STRANGE)].copy()
    for i, record in enumerate(single):
        record[i % records.shape[1]] = STRANGE[i % len(STRANGE)]
    return np.concatenate([whole, single])


def encoding_has_one_vector_a_record(trial: Trial) -> None:
    """Every record is encoded as one finite vector of one width, also where there is none."""
    private = trial.model().private()
    batch = private.encode(trial.records)
    promise(
        isinstance(batch, np.ndarray) and batch.ndim == 2 and len(batch) == UNITS,
        "`encode` does not return one vector for each record, shape (rows, width)",
    )
    promise(batch.dtype == np.float64, f"`encode` returns {batch.dtype}; return float64")
    promise(np.isfinite(batch).all(), "`encode` returns numbers that are not finite for ordinary records")
    empty = private.encode(trial.records[:0])
    promise(empty.shape == (0, batch.shape[1]), "`encode` of no record has another width; return shape (0, width)")


def encoding_is_row_by_row(trial: Trial) -> None:
    """A record's encoding does not change with the records beside it."""
    private = trial.model().private()
    whole = private.encode(trial.records)
    alone = np.concatenate([private.encode(trial.records[i : i + 1]) for i in range(len(trial.records))])
    promise(
        np.array_equal(whole, alone),
        "`encode` of a record depends on the records beside it; scale by the schema, never by the batch",
    )


def encoding_is_total(trial: Trial) -> None:
    """Every record that a damaged file may bring has an encoding, and a finite one."""
    encoded = trial.model().private().encode(strange_records(trial.records))
    promise(
        np.isfinite(encoded).all(), "`encode` of a missing, infinite or huge value is not finite; clip to the schema"
    )


def encoding_is_by_the_schema(trial: Trial) -> None:
    """A record's encoding does not change with the records that were encoded before it."""
    private = trial.model().private()
    first = private.encode(trial.records).copy()
    for others in (trial.other_records(SEED + 1), strange_records(trial.records)):
        private.encode(others)
    promise(
        np.array_equal(first, private.encode(trial.records)),
        "`encode` changes after other records were encoded; keep nothing of them",
    )


def encoding_leaves_records_alone(trial: Trial) -> None:
    """Encoding does not write into the records."""
    records = trial.records.copy()
    trial.model().private().encode(records)
    promise(np.array_equal(records, trial.records, equal_nan=True), "`encode` changes the records; work on a copy")


CHECKS: Final = (
    check(encoding_has_one_vector_a_record),
    check(encoding_is_row_by_row, "encoding-has-one-vector-a-record", is_privacy=True),
    check(encoding_is_total, "encoding-has-one-vector-a-record", is_privacy=True),
    check(encoding_is_by_the_schema, "encoding-is-total", is_privacy=True),
    check(encoding_leaves_records_alone, "encoding-has-one-vector-a-record"),
)
