"""Bounds of vital signs and laboratory values within which a measurement of a living person can lie.

Never taken from a site's records: the bounds are published, or round numbers that leave nobody out.
"""

import re
from dataclasses import dataclass
from typing import Final

from .draft import MAX_DECIMALS


@dataclass(frozen=True, slots=True)
class Vital:
    """A measurement in one unit: its canonical name, what else tables call it, and its bounds."""

    name: str
    unit: str
    lower: float
    upper: float
    aliases: tuple[str, ...] = ()


# Upper bounds, and lower ones where they are above 0, are the limits of valid values or of outliers in
# `variable_ranges.csv` of Harutyunyan et al. 2019, Multitask learning and benchmarking with clinical
# time series data, Scientific Data 6:96, doi:10.1038/s41597-019-0103-9. Where that has 0, which many
# tables write for what was not measured, the lower bound is a round number below any living person's.
_PUBLISHED: Final = (
    Vital("heart_rate", "1/min", 10, 390, ("hr", "pulse", "thalach", "max_heart_rate")),
    Vital("systolic_bp", "mmHg", 20, 375, ("sbp", "sysbp", "systolic", "trestbps", "systolic_blood_pressure")),
    Vital("diastolic_bp", "mmHg", 5, 375, ("dbp", "diabp", "diastolic", "diastolic_blood_pressure")),
    Vital("mean_bp", "mmHg", 14, 375, ("mbp", "map", "meanbp", "mean_blood_pressure")),
    Vital("respiratory_rate", "1/min", 1, 330, ("rr", "resp_rate", "resprate")),
    Vital("temperature", "C", 14.2, 47, ("temp", "tempc", "body_temperature")),
    Vital("spo2", "%", 10, 100, ("oxygen_saturation", "o2sat", "sao2", "o2_saturation")),
    Vital("glucose", "mg/dL", 33, 2200, ("blood_glucose", "glu", "blood_sugar")),
    Vital("cholesterol", "mg/dL", 32, 660, ("chol", "total_cholesterol", "totchol", "tot_chol")),
    Vital("creatinine", "mg/dL", 0.1, 66, ("serum_creatinine",)),
    Vital("sodium", "mmol/L", 50, 250, ("serum_sodium",)),
    Vital("potassium", "mmol/L", 0.5, 15, ("serum_potassium",)),
    Vital("hemoglobin", "g/dL", 0.5, 30, ("haemoglobin", "hgb", "hb")),
    Vital("hematocrit", "%", 2, 75, ("haematocrit", "hct")),
    Vital("platelets", "10^9/L", 0, 2200, ("platelet_count", "plt")),
    Vital("wbc", "10^9/L", 0, 1100, ("white_blood_cells", "white_blood_cell_count", "leukocytes")),
    Vital("bun", "mg/dL", 0.5, 275, ("blood_urea_nitrogen", "urea_nitrogen")),
    Vital("lactate", "mmol/L", 0.4, 33),
    Vital("ph", "1", 6.3, 8.4, ("arterial_ph", "blood_ph")),
    Vital("weight", "kg", 0.2, 250, ("body_weight", "weight_kg")),
    Vital("height", "cm", 20, 275, ("body_height", "height_cm")),
)
# The same in other units, and measurements that the source does not list, in round numbers.
_ROUND: Final = (
    Vital("temperature", "F", 57, 117),
    Vital("glucose", "mmol/L", 1.8, 123),
    Vital("cholesterol", "mmol/L", 0.8, 17.1),
    Vital("creatinine", "umol/L", 8, 5900),
    Vital("height", "m", 0.2, 2.75),
    Vital("bmi", "kg/m2", 5, 150, ("body_mass_index",)),
    Vital("hba1c", "%", 2, 25, ("a1c", "hemoglobin_a1c", "glycated_hemoglobin")),
    Vital("hdl", "mg/dL", 1, 300, ("hdl_cholesterol", "hdlc")),
    Vital("ldl", "mg/dL", 1, 660, ("ldl_cholesterol", "ldlc")),
    Vital("triglycerides", "mg/dL", 5, 10_000, ("trig",)),
    Vital("age", "years", 0, 120, ("age_years", "patient_age")),
)


def bounds_for(name: str, values: list[float], share: float) -> tuple[float, float] | None:
    """Return public bounds for a column by its name, in the first unit that holds ``share`` of the values; or None.

    >>> bounds_for("Chol", [233.0, 286.0], 0.95), bounds_for("chol", [5.2, 6.1], 0.95), bounds_for("x", [1.0], 0.95)
    ((32, 660), (0.8, 17.1), None)
    """
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    canonical = next((each.name for each in (*_PUBLISHED, *_ROUND) if plain in (each.name, *each.aliases)), "")
    for each in (*_PUBLISHED, *_ROUND):
        inside = sum(each.lower <= value <= each.upper for value in values)
        if each.name == canonical and inside >= share * len(values):
            return each.lower, each.upper
    return None


def decimals_of(texts: list[str]) -> int:
    """Return how many decimals the texts of numbers have at most."""
    return min(MAX_DECIMALS, max((len(text.partition(".")[2]) for text in texts), default=0))
