"""The conformance kit: proves of a plugin what can be proved of it before a site pins it.

Never replaces the core's own guards: what a plugin does wrong here is refused or noised away there, too.

One line in a plugin's tests runs every check::

    @pytest.mark.parametrize("check", conformance(MyModel), ids=str)
    def test_my_model_keeps_the_contract(check):
        check()
"""

from .cases import Case, cases
from .kit import audit_conformance, check_audit, check_domain, check_model, conformance, domain_conformance
from .suite import Conformance, Report, Result

__all__ = [
    "Case",
    "Conformance",
    "Report",
    "Result",
    "audit_conformance",
    "cases",
    "check_audit",
    "check_domain",
    "check_model",
    "conformance",
    "domain_conformance",
]
