"""Terms of a study that must not be run, each one edit away from terms that may."""

from collections.abc import Iterator

from tests.vectors.scenario import Scenario
from tests.vectors.session import ALPS_KEY, EAST_KEY, TERMS

FIRST_COLUMN = '[[columns]]\nkind = "categorical"'


def terms() -> Iterator[Scenario]:
    """Yield terms that are good TOML and no study."""
    drafts = "".join(f'[[cohort.sites]]\nid = "draft-{number}"\n' for number in range(47))
    median = '[aggregation]\ncombine = "median"\n[cohort]\n'
    for name, edits, why in (
        ("format-next", {"format = 1": "format = 2"}, "a later format may mean anything"),
        ("format-as-text", {"format = 1": 'format = "1"'}, "nothing is coerced"),
        ("field-unknown", {"steps = 10": "steps = 10\nstep = 9"}, "a term that one party ignores is not agreed"),
        ("field-missing", {"delta = 1e-6\n": ""}, "no term that matters has a default"),
        ("field-misspelt", {"epsilon = 2": "epsilom = 2"}, "a term that one party ignores is not agreed"),
        ("epsilon-zero", {"epsilon = 2": "epsilon = 0"}, "no noise keeps that promise"),
        ("epsilon-infinite", {"epsilon = 2": "epsilon = inf"}, "an infinite epsilon promises nothing"),
        ("epsilon-nan", {"epsilon = 2": "epsilon = nan"}, "no comparison with NaN refuses anything"),
        ("delta-one", {"delta = 1e-6": "delta = 1.0"}, "such a delta promises nothing"),
        ("sample-rate-above-one", {"sample_rate = 0.1": "sample_rate = 1.5"}, "a rate is a probability"),
        ("sigma-floor-zero", {"steps = 10": "steps = 10\nsigma_floor = 0.0"}, "a floor of nothing promises nothing"),
        ("steps-as-real", {"steps = 10": "steps = 10.5"}, "rounds are counted"),
        (
            "mode-unknown",
            {'"distributed"': '"central"'},
            "there is no trusted party to whom vectors could go in the clear",
        ),
        ("too-few-for-distributed", {"tolerated = 1": "tolerated = 3"}, "two sites beyond the bad ones must add noise"),
        ("tolerated-zero", {"tolerated = 1": "tolerated = 0"}, "one bad site must always be expected"),
        ("quorum-below-least", {"quorum = 3": "quorum = 2"}, "a small cohort adds too little noise"),
        ("quorum-above-roster", {"quorum = 3": "quorum = 5"}, "no round could ever be complete"),
        ("controller-above-tolerated", shared_controller("trust"), "sites of one controller are one adversary"),
        ("tolerated-as-truth", {"tolerated = 1": "tolerated = true"}, "nothing is coerced"),
        ("site-twice", {'id = "alps"': 'id = "north"'}, "one name must not have two keys"),
        ("key-twice", {ALPS_KEY: EAST_KEY}, "one site must not count as two"),
        ("key-of-31-bytes", {ALPS_KEY: "AAAA" * 10 + "AA=="}, "an Ed25519 key has 32 bytes"),
        ("key-second-spelling", {ALPS_KEY: ALPS_KEY[:-2] + "V="}, "one key has one spelling, or it has two hashes"),
        ("key-of-small-order", {ALPS_KEY: "A" * 43 + "="}, "under such a key one signature is good for every message"),
        ("site-name-upper-case", {'id = "alps"': 'id = "Alps"'}, "a name becomes part of file names"),
        ("site-name-path", {'id = "alps"': 'id = "../alps"'}, "a name becomes part of file names"),
        ("study-name-path", {'name = "vectors"': 'name = "../vectors"'}, "a name becomes a folder's"),
        ("roster-too-long", {FIRST_COLUMN: drafts + FIRST_COLUMN}, "at most 50"),
        ("median-in-distributed", {"[cohort]\n": median}, "a median needs to see what masks hide"),
        (
            "trimmed-mean-without-majority",
            {
                '"distributed"': '"local"',
                "tolerated = 1": "tolerated = 2",
                "[cohort]\n": median.replace("median", "trimmed-mean"),
            },
            "with as many bad sites as good ones no robust combination withstands them",
        ),
        ("combination-unknown", {"[cohort]\n": median.replace("median", "krum")}, "what is not known is refused"),
        (
            "cipher-unknown",
            {"[cohort]\n": '[aggregation]\nmask_cipher = "rc4"\n[cohort]\n'},
            "what is not known is refused",
        ),
        (
            "x25519-in-distributed",
            {"[cohort]\n": '[aggregation]\nkey_agreement = "x25519"\n[cohort]\n'},
            "traffic recorded now and X25519 broken later would leave one site's share of the noise",
        ),
        (
            "key-agreement-unknown",
            {"[cohort]\n": '[aggregation]\nkey_agreement = "p256"\n[cohort]\n'},
            "what is not known is refused",
        ),
        ("option-not-finite", {"rate = 0.5": "rate = inf"}, "JSON has no infinity, so the terms would have no hash"),
        ("target-not-a-column", {'target = "ill"': 'target = "sick"'}, "there would be nothing to condition on"),
        ("unit-is-a-column", {'unit = "person"': 'unit = "visits"'}, "a model must not learn who a record is of"),
        ("column-twice", {'name = "weight"': 'name = "visits"'}, "a record has one value for a name"),
        (
            "constraint-kind-unknown",
            constrained('kind = "product"\ntotal = "visits"\nparts = ["weight", "weight"]'),
            "what is not known is refused",
        ),
        (
            "constraint-on-no-column",
            constrained('kind = "order"\ncolumns = ["visits", "stays"]'),
            "a constraint on nothing would be met by everything",
        ),
        (
            "constraint-derives-the-target",
            constrained('kind = "determines"\ndeterminant = "visits"\ndetermined = "ill"\ntable = { 0 = "no" }'),
            "the model must see what it is to predict",
        ),
        (
            "constraint-table-with-a-gap",
            constrained('kind = "determines"\ndeterminant = "ill"\ndetermined = "visits"\ntable = { yes = 1 }'),
            "a category without an answer would have none in a release",
        ),
        (
            "constraint-of-other-decimals",
            constrained('kind = "order"\ncolumns = ["visits", "weight"]'),
            "an order is kept exactly, in units of one last place",
        ),
        (
            "site-column-is-a-column",
            {'target = "ill"': 'target = "ill"\nsite_column = "visits"'},
            "a site's file must not say which site it is",
        ),
        (
            "site-column-is-the-target",
            {'target = "ill"': 'target = "place"\nsite_column = "place"'},
            "no data should help to predict where a record came from",
        ),
        ("bounds-reversed", {"lower = -3": "lower = 91"}, "there is no value between them"),
    ):
        yield Scenario(f"terms-{name}", "terms", why, {"toml": edited(edits)})


def shared_controller(name: str) -> dict[str, str]:
    return {'id = "alps"': f'controller = "{name}"\nid = "alps"'}


def constrained(fields: str) -> dict[str, str]:
    return {FIRST_COLUMN: f"[[constraints]]\n{fields}\n{FIRST_COLUMN}"}


def edited(edits: dict[str, str]) -> str:
    """Return the session's terms with each text, which occurs in them once, replaced."""
    text = TERMS
    for old, new in edits.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text
