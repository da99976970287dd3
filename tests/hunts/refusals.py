"""Say which probes refuse a fix, and make fixes that are wrong in one case only."""


def failed(verdict):
    """Return the questions that were not answered."""
    return [probe.question for probe in verdict.probes if not probe.passed]


def marks(verdict):
    """Return one mark per probe, as the verdict shows them, such as ``"✓✓✗✓"``."""
    return "".join("✓" if probe.passed else "✗" for probe in verdict.probes)


def seen(verdict):
    """Return what all probes saw, unwrapped."""
    return " ".join(probe.seen for probe in verdict.probes)


def when(condition, wrong, right):
    """Build a fix that is right, but for the arguments for which ``condition`` holds."""

    def fix(*arguments):
        return (wrong if condition(*arguments) else right)(*arguments)

    return fix
