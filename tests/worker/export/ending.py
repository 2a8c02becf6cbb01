"""A process that looks at an exported file and ends as it is told: its argument is what it does."""

from worker.export.child import exit_by_what_lacks


def main(arguments: list[str]) -> int:
    with exit_by_what_lacks():
        exec(arguments[0], {})
    return 0
